"""Files that predict something else are refused, and images are exported as they are."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.export import check_augmentations, compare
from anomalib_tiled.export.writers import Written


def written(ensemble: EnsembleModel, batch: int | None, added: float) -> tuple[Written, list[int]]:
    """Stand in for files, which add something to each score; also gives how many images they got each time."""
    numbers: list[int] = []

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        numbers.append(len(inputs["images"]))
        prediction = ensemble(torch.from_numpy(inputs["images"]))
        found = {name: values.numpy() for name, values in prediction._asdict().items()}
        return {**found, "pred_score": found["pred_score"] + np.float32(added)}

    return Written(SimpleNamespace(batch=batch), predict, {}), numbers


def test_files_that_predict_something_else_are_refused(
    make_ensemble: Callable[..., EnsembleModel], images: torch.Tensor
) -> None:
    ensemble = make_ensemble()
    files, _ = written(ensemble, None, 0.5)
    message = (
        r"to 0\.0001, but differ in pred_score by 0\.5\. The graph .* computes something else .*No files were kept"
    )
    with pytest.raises(ConfigurationError, match=message):
        compare(ensemble, files, [images], print)


@pytest.mark.parametrize(("batch", "expected"), [(None, [3, 1]), (1, [1, 1, 1, 1])])
def test_files_get_as_many_images_as_they_take(
    make_ensemble: Callable[..., EnsembleModel], images: torch.Tensor, batch: int | None, expected: list[int]
) -> None:
    ensemble, told = make_ensemble(), list[str]()
    files, numbers = written(ensemble, batch, 1e-5)
    assert compare(ensemble, files, [images, images[:1]], told.append) == pytest.approx(1e-5, rel=0.1)
    assert numbers == expected
    assert told == ["comparison of 3 images", "comparison of 1 images"]


def test_augmentations_of_test_images_are_refused_by_name() -> None:
    check_augmentations(None)
    message = r"augments test images \(Identity, Normalize\)\. Predict with .* has train_augmentations instead"
    with pytest.raises(ConfigurationError, match=message):
        check_augmentations(v2.Compose([v2.Identity(), v2.Normalize([0.2], [0.7])]))
    with pytest.raises(ConfigurationError, match=r"augments test images \(Grayscale\)"):
        check_augmentations(v2.Grayscale(3))
