"""The modules that are exported do what the ensemble does, before they are exported."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.export.modules import (
    JoinStages,
    TileModule,
    WholeImages,
    briefly,
    errors_naming_model,
    explaining,
    scaled,
)
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.merging import Max, Mean, Merger

GRID = TileGrid(Size(8, 12), Size(5, 5), Size(3, 4))

Make = Callable[..., EnsembleModel]


def whole(ensemble: EnsembleModel) -> WholeImages:
    models = (ensemble.tile_models.model(tile, torch.device("cpu")) for tile in ensemble.grid.tiles)
    return WholeImages(ensemble, [TileModule(deepcopy(model)) for model in models])


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("normalize_at", ["tile", "image", "none"])
@pytest.mark.parametrize("threshold_at", ["tile", "image"])
def test_all_places_of_normalization_and_thresholding_give_the_same(
    make_ensemble: Make, images: torch.Tensor, normalize_at: str, threshold_at: str, *, maps: bool
) -> None:
    ensemble = make_ensemble(normalize_at=normalize_at, threshold_at=threshold_at, maps=maps)
    expected = {name: values for name, values in ensemble(images)._asdict().items() if values is not None}
    found = whole(ensemble)(images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("threshold_at", ["tile", "image"])
@pytest.mark.parametrize("merger", [Mean(), Max()], ids=lambda each: type(each).__name__)
def test_locations_without_a_model_are_left_out_too(
    make_ensemble: Make, images: torch.Tensor, merger: Merger, threshold_at: str, *, maps: bool
) -> None:
    grid = GRID.without(["r00_c00", "r01_c02"])
    ensemble = make_ensemble(grid, threshold_at=threshold_at, merger=merger, maps=maps)
    expected = {name: values for name, values in ensemble(images)._asdict().items() if values is not None}
    found = whole(ensemble)(images)
    assert list(found) == list(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-6)


def test_the_stages_alone_give_the_same_of_what_the_tiles_said(make_ensemble: Make, images: torch.Tensor) -> None:
    ensemble = make_ensemble()
    said = []
    expected = ensemble.decide(ensemble.predict_raw(images, lambda _, each: said.append(each)))
    scores = torch.stack([each.scores for each in said], dim=1)
    maps = torch.cat([each.maps for each in said], dim=1)
    found = JoinStages(ensemble)(scores, maps)
    torch.testing.assert_close(found["anomaly_map"], expected.anomaly_map)
    assert torch.equal(found["pred_mask"], expected.pred_mask)


def test_bytes_become_fractions_and_fractions_stay() -> None:
    assert torch.equal(scaled(torch.tensor([0, 51, 255], dtype=torch.uint8)), torch.tensor([0.0, 0.2, 1.0]))
    assert torch.equal(scaled(torch.tensor([0.0, 0.2, 1.0])), torch.tensor([0.0, 0.2, 1.0]))


def test_a_line_that_says_only_where_is_passed_over() -> None:
    said = "Exception from src/core.cpp:132:\nCheck 'a(b)' failed at src/x.cpp:5:\nUnable to read the model.\n\nmore"
    assert briefly(RuntimeError(said)) == "RuntimeError: Unable to read the model."
    assert (
        briefly(RuntimeError("Exception from src/core.cpp:132:\n")) == "RuntimeError: Exception from src/core.cpp:132:."
    )


def test_what_hinders_a_model_is_said_in_a_line() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"^dict cannot be exported: KeyError: 'a'\. .* Choose another model"),
        errors_naming_model({}),
    ):
        {}["a"]
    assert briefly(ValueError("too small\n\nmore")) == "ValueError: too small."


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError(), RunFolderError("a file is missing"), OSError("no space left")]
)
def test_what_is_said_already_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explaining(str.upper, passing=(OSError,)):
        raise error
    assert raised.value is error


def test_a_disk_is_passed_on_only_where_that_is_asked_for() -> None:
    error = OSError("no space left")
    with pytest.raises(ConfigurationError, match=r"^OSERROR: NO SPACE LEFT\.$"), explaining(str.upper):
        raise error
