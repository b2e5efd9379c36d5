"""Augmentations of test images become a part of an export, or are refused before tile models are loaded."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.augmentations import Augmenting
from anomalib_tiled.export.export import _check
from anomalib_tiled.export.formats import TorchFormat
from anomalib_tiled.export.writers import Target
from anomalib_tiled.grid import Size

SIZE = Size(8, 12)


class Changed(v2.Transform):
    """Something else while a graph is made."""

    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        del params
        return inpt * (0.5 if torch.compiler.is_exporting() else 1.0)


class ByValue(v2.Transform):
    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        del params
        return inpt / 2 if inpt.max() > 0.5 else inpt


class OfPython(v2.Transform):
    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        del params
        return inpt * random.random()  # noqa: S311  # not for secrets


class OfNumpy(v2.Transform):
    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        del params
        return inpt * float(np.random.rand())  # noqa: NPY002  # what many augmentations still use


class PerImage(v2.Transform):
    """Something that would be another thing of a batch."""

    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        del params
        return inpt / inpt.max()


FIXED = {
    "one": v2.Normalize([0.2, 0.3, 0.1], [0.5, 0.4, 0.6]),
    "several": v2.Compose([v2.Grayscale(3), PerImage()]),
    "types": v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Pad(2), v2.Resize([*SIZE])]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("change", FIXED.values(), ids=FIXED)
def test_an_export_predicts_augmented_images_as_predict_does(
    make_ensemble: Callable[..., EnsembleModel],
    images: torch.Tensor,
    tmp_path: Path,
    change: v2.Transform,
    dtype: torch.dtype,
) -> None:
    augmenting = Augmenting(change)
    (tmp_path / "check").mkdir()
    augmenting.check(SIZE, TorchFormat(), tmp_path / "check")
    given = images if dtype == torch.float32 else (images * 255).round().to(dtype)
    ensemble = make_ensemble()
    written, difference = _check(ensemble, Target(TorchFormat(), tmp_path, dtype), [given], augmenting, per_tile=False)
    assert (written.graph.batch, difference < 1e-4) == (1, True)
    found = torch.from_numpy(written.predict({"images": given[:1].numpy()})["anomaly_map"])
    plain = given[:1] / 255 if dtype == torch.uint8 else given[:1]
    assert not torch.allclose(found, ensemble(plain).anomaly_map, atol=1e-3), "the augmentations change something"


REFUSED = {
    "RandomHorizontalFlip": (v2.Compose([v2.Identity(), v2.RandomHorizontalFlip(0.1)]), "they draw random numbers"),
    "OfPython": (OfPython(), "they draw random numbers"),
    "OfNumpy": (OfNumpy(), "they draw random numbers"),
    "Pad": (v2.Pad(1), r"they must keep the size of images, 8 x 12, but give 10 x 14"),
    "Changed": (Changed(), "the graph that PyTorch traces computes something else"),
    "ByValue": (ByValue(), r"\w+: .*[Dd]ata-dependent"),
    "ColorJitter": (v2.ColorJitter(0.1), "they draw random numbers"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_reason(
    tmp_path: Path, request: pytest.FixtureRequest, change: v2.Transform, reason: str
) -> None:
    name = request.node.callspec.id
    message = rf"augmentations of test images \((Identity, )?{name}\) cannot be exported: {reason}.*train_augmentations"
    with pytest.raises(ConfigurationError, match=message):
        Augmenting(change).check(SIZE, TorchFormat(), tmp_path)
