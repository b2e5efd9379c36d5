"""Accelerated parts of models: equal to anomalib's up to rounding, in several shapes; and where they do not apply."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from anomalib.models import Padim, Patchcore
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor
from anomalib.models.components.filters import GaussianBlur2d
from anomalib.models.components.stats import MultiVariateGaussian
from lightning.pytorch import seed_everything
from torch import nn

from anomalib_tiled.ensemble.accelerated import FASTER, accelerate
from anomalib_tiled.ensemble.gaussians import BatchedGaussian


def both(model: nn.Module) -> tuple[Any, Any]:
    faster = deepcopy(model)
    accelerate(faster)
    assert type(faster) is FASTER[type(model)]
    return model, faster


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", [{"sigma": 4}, {"sigma": (2.0, 0.7)}, {"sigma": 3, "padding": "valid"}])
def test_blurs_equal_those_of_anomalib(channels: int, options: dict[str, Any]) -> None:
    own, faster = both(GaussianBlur2d(channels=channels, **options))
    maps = torch.rand(2, channels, 64, 80)
    assert torch.allclose(faster(maps), own(maps), rtol=1e-5)


def test_a_blur_that_was_loaded_uses_the_loaded_kernel() -> None:
    own, faster = both(GaussianBlur2d(sigma=1))
    other = GaussianBlur2d(sigma=1)
    other.kernel = other.kernel * 2
    faster.load_state_dict(other.state_dict())
    maps = torch.rand(1, 1, 16, 16)
    assert torch.allclose(faster(maps), 2 * own(maps), rtol=1e-5)


def test_features_of_backbones_equal_those_of_anomalib_and_have_their_layout() -> None:
    own, faster = both(TimmFeatureExtractor("resnet18", ["layer1", "layer3"], pre_trained=False).eval())
    images = torch.rand(2, 3, 64, 96)
    assert all(torch.equal(*each) for each in zip(own(images).values(), faster(images).values(), strict=True))
    with torch.inference_mode():
        expected, found = own(images), faster(images)
    assert list(found) == list(expected) == ["layer1", "layer3"]
    for name, features in expected.items():
        assert found[name].stride() == features.stride()
        assert torch.allclose(found[name], features, rtol=1e-4, atol=1e-5 * float(features.max()))


def test_the_chosen_features_of_padim_are_equal_to_the_last_bit() -> None:
    own, faster = both(Padim(backbone="resnet18", pre_trained=False).model)
    features = {name: torch.rand(2, 64 * 2**level, 16 >> level, 16 >> level) for level, name in enumerate(own.layers)}
    assert torch.equal(faster.generate_embedding(features), own.generate_embedding(features))


@pytest.mark.slow
@pytest.mark.parametrize("made", [Padim, Patchcore])
def test_a_whole_model_predicts_as_that_of_anomalib(made: type[AnomalibModule]) -> None:
    own = made(backbone="resnet18", layers=["layer1", "layer2"], pre_trained=False).model
    faster = deepcopy(own)
    accelerate(faster)
    images = torch.rand(12, 3, 64, 64)
    for model in (own, faster):
        seed_everything(0, verbose=False)
        model.train()
        model.feature_extractor.eval()
        model(images)
        _ = model.subsample_embedding(0.5) if made is Patchcore else model.fit()
        model.eval()
    with torch.inference_mode():
        expected, found = own(images[:3] * 0.9), faster(images[:3] * 0.9)
    assert torch.allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-3)
    assert torch.allclose(found.pred_score, expected.pred_score, rtol=1e-3)


def test_checkpoints_and_classes_of_models_stay_those_of_anomalib() -> None:
    own = Padim(backbone="resnet18", pre_trained=False)
    faster = deepcopy(own)
    accelerate(faster)
    assert type(faster) is Padim
    assert list(faster.state_dict()) == list(own.state_dict())
    Padim(backbone="resnet18", pre_trained=False).load_state_dict(faster.state_dict())


def test_subclasses_of_other_packages_stay() -> None:
    class Own(MultiVariateGaussian):
        pass

    model = nn.Sequential(Own(), MultiVariateGaussian())
    accelerate(model)
    assert [type(each) for each in model] == [Own, BatchedGaussian]
