"""The modules that are exported do what the ensemble does, before they are exported."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from anomalib_tiled.data.scope import Scope
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.export.modules import (
    JoinStages,
    TileModule,
    WholeImages,
    briefly,
    explaining,
    scaled,
)
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.merging import Max, Mean, Merger

GRID = TileGrid(Size(8, 12), Size(5, 5), Size(3, 4))

IGNORED = np.zeros(tuple(GRID.image_size), dtype=np.bool_)
IGNORED[:, 7:] = True

Make = Callable[..., EnsembleModel]


def whole(ensemble: EnsembleModel) -> WholeImages:
    models = (ensemble.tile_models.model(tile, torch.device("cpu")) for tile in ensemble.grid.tiles)
    return WholeImages(ensemble, [TileModule(deepcopy(model)) for model in models])


def assert_the_same(ensemble: EnsembleModel, images: torch.Tensor) -> None:
    expected = {name: values for name, values in ensemble(images)._asdict().items() if values is not None}
    found = whole(ensemble)(images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize(
    ("normalize_at", "threshold_at"), [("tile", "tile"), ("tile", "image"), ("image", "image"), ("none", "tile")]
)
def test_all_places_of_normalization_and_thresholding_give_the_same(
    make_ensemble: Make, images: torch.Tensor, normalize_at: str, threshold_at: str, *, maps: bool
) -> None:
    assert_the_same(make_ensemble(normalize_at=normalize_at, threshold_at=threshold_at, maps=maps), images)


@pytest.mark.parametrize("threshold_at", ["tile", "image"])
@pytest.mark.parametrize(("merger", "maps"), [(Mean(), True), (Max(), True), (Mean(), False)])
def test_locations_without_a_model_are_left_out_too(
    make_ensemble: Make, images: torch.Tensor, merger: Merger, threshold_at: str, *, maps: bool
) -> None:
    grid = GRID.without(["r00_c00", "r01_c02"])
    assert_the_same(make_ensemble(grid, threshold_at=threshold_at, merger=merger, maps=maps), images)


def test_the_stages_alone_give_the_same_of_what_the_tiles_said(make_ensemble: Make, images: torch.Tensor) -> None:
    ensemble = make_ensemble()
    said = []
    expected = ensemble.decide(ensemble.predict_raw(images, lambda _, each: said.append(each)))
    scores = torch.stack([each.scores for each in said], dim=1)
    maps = torch.cat([each.maps for each in said], dim=1)
    found = JoinStages(ensemble)(scores, maps)
    torch.testing.assert_close(found["anomaly_map"], expected.anomaly_map)
    assert torch.equal(found["pred_mask"], expected.pred_mask)


def test_bytes_become_fractions_and_fractions_stay(make_ensemble: Make, images: torch.Tensor) -> None:
    assert torch.equal(scaled(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))
    assert torch.equal(scaled(torch.tensor([0.0, 0.2, 1.0])), torch.tensor([0.0, 0.2, 1.0]))
    ensemble, pixels = make_ensemble(), (images * 255).to(torch.uint8)
    torch.testing.assert_close(whole(ensemble)(pixels)["anomaly_map"], ensemble(pixels / 255).anomaly_map)


def test_a_message_is_put_on_one_line_and_cut() -> None:
    said = "Exception from src/core.cpp:132:\nCheck 'a(b)' failed:\nUnable to read the model.\n"
    assert briefly(RuntimeError(said)) == (
        "RuntimeError: Exception from src/core.cpp:132: Check 'a(b)' failed: Unable to read the model."
    )
    assert briefly(ValueError("too small")) == "ValueError: too small."
    assert briefly(ValueError("too small " * 99)).endswith(" too small too ...")


def test_what_hinders_a_model_is_said_in_a_line(make_ensemble: Make, images: torch.Tensor) -> None:
    message = r"^Brightness cannot be exported: KeyError: '\{a\}'\. Its forward must .* Choose another model"
    with pytest.raises(ConfigurationError, match=message):
        whole(make_ensemble(predict=lambda images: {}["{a}"]))(images)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError(), RunFolderError("a file is missing"), OSError("no space left")]
)
def test_what_is_said_already_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explaining("Why: {}", passing=(OSError,)):
        raise error
    assert raised.value is error


def test_a_disk_is_passed_on_only_where_that_is_asked_for() -> None:
    error = OSError("no space left")
    with pytest.raises(ConfigurationError, match=r"^Why: OSError: no space left\.$"), explaining("Why: {}"):
        raise error


@pytest.mark.parametrize(
    ("normalize_at", "threshold_at", "maps"),
    [("tile", "tile", True), ("tile", "image", True), ("image", "image", True), ("image", "image", False)],
)
def test_ignored_pixels_are_ignored_too(
    make_ensemble: Make, images: torch.Tensor, normalize_at: str, threshold_at: str, *, maps: bool
) -> None:
    images[:, :, :, 7:] += 2  # anomalous where it does not count
    made = make_ensemble(normalize_at=normalize_at, threshold_at=threshold_at, maps=maps)
    ensemble = EnsembleModel(
        GRID,
        made.tile_models,
        stages=made.stages,
        calibration=made.calibration,
        evaluator=False,
        scope=Scope(IGNORED),
    ).eval()
    assert_the_same(ensemble, images)
    if maps:
        assert not ensemble(images).pred_mask[..., 7:].any()
