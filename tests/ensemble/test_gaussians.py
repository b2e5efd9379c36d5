"""Padim's Gaussians in half of their size: as exact as anomalib's, and turned back into what anomalib keeps."""

from __future__ import annotations

import pytest
import torch
from anomalib.models import Padim
from anomalib.models.components.stats import MultiVariateGaussian
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.gaussians import (
    BatchedGaussian,
    SummedDistances,
    as_anomalib_keeps,
    inverses_of,
    keep_as_anomalib,
    without_triangles,
)

FACTOR, TRIANGLE = 4, 60
"""Numbers of training images: fewer than half of ten features, and more."""


def features(images: int, *shape: int) -> torch.Tensor:
    return torch.rand(images, *shape, generator=torch.Generator().manual_seed(images)) * 3


def fitted(embedding: torch.Tensor) -> BatchedGaussian:
    gaussian = BatchedGaussian()
    gaussian.fit(embedding)
    return gaussian


def exact_inverses(embedding: torch.Tensor) -> torch.Tensor:
    vectors = embedding.double().flatten(2).permute(2, 0, 1)
    deviations = vectors - vectors.mean(dim=1, keepdim=True)
    covariance = deviations.mT @ deviations / (embedding.shape[0] - 1)
    return torch.linalg.inv(covariance + 0.01001 * torch.eye(embedding.shape[1], dtype=torch.double))


def exact_distances(embedding: torch.Tensor, gaussian: BatchedGaussian, inverses: torch.Tensor) -> torch.Tensor:
    deviations = (embedding.double().flatten(2) - gaussian.mean.double()).permute(2, 0, 1)
    squares = torch.linalg.vecdot(deviations @ inverses, deviations)
    return squares.mT.reshape(len(embedding), 1, *embedding.shape[2:]).sqrt()


def distances(embedding: torch.Tensor, gaussian: BatchedGaussian) -> torch.Tensor:
    return SummedDistances.compute_distance(embedding, [gaussian.mean, gaussian.inv_covariance])


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    largest = exact.abs().amax(dim=(1, 2), keepdim=True)
    return float(((found - exact) / largest).abs().max())


@pytest.mark.parametrize(("images", "most"), [(2, 1e-6), (12, 1e-6), (24, 1e-6), (60, 1e-4), (200, 1e-5)])
@pytest.mark.parametrize("shape", [(50, 8, 8), (100, 5, 7), (99, 3, 4)])
def test_inverses_are_at_least_as_exact_as_those_of_anomalib(images: int, most: float, shape: tuple[int, ...]) -> None:
    embedding = features(images, *shape)
    own, faster = MultiVariateGaussian(), fitted(embedding)
    own.fit(embedding)
    exact, found = exact_inverses(embedding), inverses_of(faster.mean, faster.inv_covariance)
    assert torch.allclose(faster.mean, own.mean, rtol=1e-6, atol=1e-6)
    assert error(found, exact) < most
    assert error(found, exact) < 2 * error(own.inv_covariance, exact)


@pytest.mark.parametrize("number", [1, 2, 3, 10, 11])
def test_the_inverses_take_half_of_the_numbers_or_fewer(number: int) -> None:
    assert fitted(features(TRIANGLE, number, 2, 3)).inv_covariance.numel() == 6 * number * (number + 1) // 2


def test_few_images_take_fewer_numbers_than_half() -> None:
    assert fitted(features(FACTOR, 10, 2, 3)).inv_covariance.shape == (6, FACTOR, 10)


@pytest.mark.parametrize("number", [1, 2, 3, 10, 11, 100])
@pytest.mark.parametrize("training", [FACTOR, TRIANGLE])
@pytest.mark.parametrize("images", [1, 3])
def test_distances_are_exact(number: int, training: int, images: int) -> None:
    embedding = features(training, number, 8, 9)
    gaussian, new = fitted(embedding), features(images, number, 8, 9) + 1
    exact = exact_distances(new, gaussian, exact_inverses(embedding))
    assert float((distances(new, gaussian) - exact).abs().max() / exact.max()) < 5e-6


@pytest.mark.parametrize(("training", "most"), [(12, 2e-4), (40, 1e-4), (80, 1e-5)])
def test_distances_of_training_images_are_exact_although_they_are_small(training: int, most: float) -> None:
    """They are differences of numbers that are thousands of times as large."""
    embedding = features(training, 100, 6, 6)
    gaussian = fitted(embedding)
    exact = exact_distances(embedding, gaussian, exact_inverses(embedding))
    assert float((distances(embedding, gaussian) - exact).abs().max() / exact.max()) < most


def test_features_in_any_layout_give_the_same_gaussians() -> None:
    embedding = features(6, 20, 4, 4)
    expected = fitted(embedding).inv_covariance
    assert torch.equal(fitted(embedding.contiguous(memory_format=torch.channels_last)).inv_covariance, expected)


EQUAL = torch.tensor([-1.0, 1.0] * 15 + [0.0]).reshape(31, 1, 1, 1).expand(-1, 8, 2, 2) * 2**20
"""Eight equal features with a variance of 2**40: rounding leaves nothing of the regularization."""


@pytest.mark.parametrize(
    "embedding",
    [features(1, 8, 2, 2), features(30, 1, 2, 2).expand(-1, 8, -1, -1) * 1e9, EQUAL],
    ids=["one image", "Cholesky fails", "what Cholesky leaves has no inverse"],
)
def test_what_rounding_spoils_is_left_to_anomalib(embedding: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(MultiVariateGaussian, "forward", lambda _, given: asked.append(given.shape))
    fitted(embedding)
    assert asked == [embedding.shape]


def test_matrices_of_anomalib_give_the_distances_of_anomalib() -> None:
    embedding, half = features(4, 32, 16, 4), torch.rand(64, 32, 32)
    stats = [torch.rand(32, 64), half @ half.mT]
    expected = AnomalyMapGenerator.compute_distance(embedding, stats)
    assert torch.allclose(SummedDistances.compute_distance(embedding, stats), expected, rtol=1e-5)


def trained(images: int) -> Padim:
    arguments = {"backbone": "resnet18", "layers": ["layer1"], "n_features": 10, "pre_trained": False}
    model = Padim(**arguments, post_processor=False, evaluator=False, visualizer=False)
    accelerate(model)
    model.model.gaussian.fit(features(images, 10, 16, 16))
    return model.eval()


@pytest.mark.parametrize("images", [FACTOR, TRIANGLE])
def test_weights_become_those_that_anomalib_keeps_and_its_own_class_predicts_the_same(images: int) -> None:
    model, tile = trained(images), torch.rand(2, 3, 64, 64)
    own = Padim(backbone="resnet18", layers=["layer1"], n_features=10, pre_trained=False).eval()
    own.load_state_dict(as_anomalib_keeps(model.state_dict()), strict=False)
    assert own.model.gaussian.inv_covariance.shape == (256, 10, 10)
    assert torch.allclose(own.model(tile).anomaly_map, model.model(tile).anomaly_map, rtol=1e-3)


@pytest.mark.parametrize(("images", "kept"), [(FACTOR, (256, FACTOR, 10)), (TRIANGLE, (256, 10, 10))])
def test_a_model_keeps_factors_for_a_graph_but_no_triangles(images: int, kept: tuple[int, ...]) -> None:
    model = trained(images)
    expected = model.model.gaussian.inv_covariance
    keep_as_anomalib(model, factors=False)
    assert model.model.gaussian.inv_covariance.shape == kept
    assert torch.equal(
        inverses_of(model.model.gaussian.mean, expected)[0],
        inverses_of(model.model.gaussian.mean, model.model.gaussian.inv_covariance)[0],
    )
    keep_as_anomalib(model)
    assert model.model.gaussian.inv_covariance.shape == (256, 10, 10)


def test_matrices_of_a_graph_are_tensors_of_their_own_and_triangles_come_back() -> None:
    """A graph keeps its tensors while the model gets the weights of other tiles."""
    model = trained(TRIANGLE)
    triangles = model.model.gaussian.inv_covariance
    with without_triangles(model):
        matrices = model.model.gaussian.inv_covariance
    assert matrices.shape == (256, 10, 10)
    assert model.model.gaussian.inv_covariance is triangles


def test_other_weights_of_these_names_stay() -> None:
    weights = {"inv_covariance": torch.rand(3, 4), "a.inv_covariance": torch.rand(2, 3, 4), "b.mean": torch.rand(4)}
    weights |= {"c.inv_covariance": torch.rand(6, 4, 4), "c.mean": torch.rand(6, 4)}  # positions come first
    assert all(found is weights[name] for name, found in as_anomalib_keeps(weights).items())


def test_a_model_that_was_not_trained_stays_as_it_is() -> None:
    gaussian = MultiVariateGaussian()
    keep_as_anomalib(gaussian)
    assert gaussian.inv_covariance.shape == (0,)


@pytest.mark.parametrize("images", [FACTOR, TRIANGLE])
def test_features_in_half_precision_are_fitted_in_single_precision(images: int) -> None:
    """As with Lightning's mixed precision."""
    embedding = features(images, 10, 4, 4).bfloat16()
    half, single = fitted(embedding), fitted(embedding.float())
    assert half.mean.dtype == half.inv_covariance.dtype == torch.float32
    assert torch.equal(half.inv_covariance, single.inv_covariance)
