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
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
from lightning.pytorch import seed_everything
from torch import nn

from anomalib_tiled.ensemble.accelerated import FASTER, BatchedGaussian, accelerate


def both(model: nn.Module) -> tuple[Any, Any]:
    faster = deepcopy(model)
    accelerate(faster)
    assert type(faster) is FASTER[type(model)]
    return model, faster


def exact_inverses(embedding: torch.Tensor) -> torch.Tensor:
    vectors = embedding.double().flatten(2).permute(2, 0, 1)
    deviations = vectors - vectors.mean(dim=1, keepdim=True)
    covariance = deviations.mT @ deviations / (embedding.shape[0] - 1)
    return torch.linalg.inv(covariance + 0.01001 * torch.eye(embedding.shape[1], dtype=torch.double))


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    largest = exact.abs().amax(dim=(1, 2), keepdim=True)
    return float(((found - exact) / largest).abs().max())


@pytest.mark.parametrize(("images", "most"), [(2, 1e-6), (12, 1e-6), (24, 1e-6), (60, 1e-4), (200, 1e-5)])
@pytest.mark.parametrize("shape", [(50, 8, 8), (100, 5, 7)])
def test_gaussians_are_at_least_as_exact_as_those_of_anomalib(images: int, most: float, shape: tuple[int, ...]) -> None:
    embedding = torch.rand(images, *shape, generator=torch.Generator().manual_seed(images)) * 3
    own, faster = both(MultiVariateGaussian())
    own.fit(embedding)
    faster.fit(embedding)
    exact = exact_inverses(embedding)
    assert torch.allclose(faster.mean, own.mean, rtol=1e-6, atol=1e-6)
    assert error(faster.inv_covariance, exact) < most
    assert error(faster.inv_covariance, exact) < 2 * error(own.inv_covariance, exact)


def test_features_in_any_layout_give_the_same_gaussians() -> None:
    embedding = torch.rand(6, 20, 4, 4)
    _, faster = both(MultiVariateGaussian())
    expected = faster.fit(embedding)[1]
    assert torch.equal(faster.fit(embedding.contiguous(memory_format=torch.channels_last))[1], expected)


@pytest.mark.parametrize(
    "embedding",
    [torch.rand(1, 8, 2, 2), torch.rand(30, 1, 2, 2).expand(-1, 8, -1, -1) * 1e9, torch.rand(3, 8, 2, 2) * 1e9],
    ids=["one image", "Cholesky fails", "Woodbury fails"],
)
def test_what_rounding_spoils_is_left_to_anomalib(embedding: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(MultiVariateGaussian, "forward", lambda _, given: asked.append(given.shape))
    _, faster = both(MultiVariateGaussian())
    faster.fit(embedding)
    assert asked == [embedding.shape]


@pytest.mark.parametrize(("images", "features", "height", "width"), [(1, 10, 6, 9), (4, 100, 8, 8), (9, 32, 16, 4)])
def test_distances_equal_those_of_anomalib(images: int, features: int, height: int, width: int) -> None:
    embedding, mean = torch.rand(images, features, height, width), torch.rand(features, height * width)
    half = torch.rand(height * width, features, features)
    stats = [mean, half @ half.mT]
    own, faster = both(AnomalyMapGenerator())
    expected = own.compute_distance(embedding, stats)
    assert torch.allclose(faster.compute_distance(embedding, stats), expected, rtol=1e-5)


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
