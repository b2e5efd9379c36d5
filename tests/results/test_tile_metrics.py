from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.tile_metrics import TileMeasurements, TileResult, weakest

GRID = TileGrid(Size(4, 8), Size(4, 4), Size(4, 4))
GOOD = TileResult("r00_c00", 0, 0, 4, 2, 1.0, 0.99, 0.1, 0.2, 0.8, 0.7, 0, 0)


def images(*defects: str, **changes: object) -> ImageBatch:
    """Give a batch; `l` and `r` say in which tiles of an image defects lie."""
    masks = torch.zeros(len(defects), 4, 8, dtype=torch.bool)
    for mask, places in zip(masks, defects, strict=True):
        mask[0, 1] = "l" in places
        mask[0, 5] = "r" in places
    labels = torch.tensor([int(bool(places)) for places in defects])
    images = torch.zeros(len(defects), 3, 4, 8)
    return ImageBatch(**{"image": images, "gt_label": labels, "gt_mask": masks, **changes})


def observe(measurements: TileMeasurements, batch: ImageBatch, *scores: list[float]) -> None:
    """Measure maps that are half the score of the tile, and all of it in the upper left pixels."""
    on_tile = measurements.watch(batch)
    for tile, values in zip(GRID.tiles, scores, strict=True):
        maps = torch.tensor(values).view(-1, 1, 1, 1).repeat(1, 1, 4, 4) / 2
        maps[:, :, 0, :2] *= 2
        on_tile(tile, TilePrediction(torch.tensor(values), maps))
    measurements.update(batch)


def test_a_tile_is_measured_with_its_own_label() -> None:
    measurements = TileMeasurements(GRID)
    observe(measurements, images("l", "", "r"), [9.0, 1.0, 3.0], [1.0, 2.0, 1.5])
    observe(measurements, images("l"), [2.0], [1.0])
    left, right = measurements.results()
    assert (left.tile, left.top, left.left, left.images, left.anomalous) == ("r00_c00", 0, 0, 4, 2)
    assert left.image_auroc == pytest.approx(3 / 4)
    assert (left.normal_mean, left.normal_max, left.anomalous_mean, left.anomalous_min) == (2.0, 3.0, 5.5, 2.0)
    assert (right.tile, right.top, right.left, right.images, right.anomalous) == ("r00_c01", 0, 4, 4, 1)
    assert right.image_auroc == pytest.approx(2 / 3)
    # One defect pixel at 1.5; of 63 normal ones, one is at 2, three at 1.5 or more, all others below.
    assert right.pixel_auroc == pytest.approx((63 - 2 - 1 / 2) / 63, abs=1e-3)


def test_what_was_called_is_counted_tile_by_tile() -> None:
    measurements = TileMeasurements(GRID)
    called = torch.zeros(3, 4, 8, dtype=torch.bool)
    called[0, 3, 3] = True  # in the left tile of an image with a defect there, though beside it
    called[1, 0, 0] = called[1, 0, 7] = True
    for defects in (("l", "", "r"), ("", "", "l")):
        batch = images(*defects, pred_mask=called)
        observe(measurements, batch, [0.0] * 3, [0.0] * 3)
    left, right = measurements.results()
    assert (left.missed, left.false_alarms) == (1, 3)
    assert (right.missed, right.false_alarms) == (1, 2)


def test_without_masks_nothing_is_known_of_tiles_of_anomalous_images() -> None:
    measurements = TileMeasurements(GRID)
    batch = images("l", "", "r", "", gt_mask=None, pred_mask=torch.ones(4, 4, 8, dtype=torch.bool))
    observe(measurements, batch, [9.0, 1.0, 9.0, 2.0], [9.0, 1.0, 9.0, 4.0])
    left, right = measurements.results()
    assert (left.images, left.anomalous, left.normal_max, left.image_auroc, left.pixel_auroc) == (2, 0, 2.0, None, None)
    assert (right.normal_mean, right.anomalous_min, right.missed, right.false_alarms) == (2.5, None, 0, 2)


def test_images_of_unknown_label_are_left_out() -> None:
    measurements = TileMeasurements(GRID)
    batch = images("", "", gt_mask=None, gt_label=None, pred_mask=torch.ones(2, 4, 8, dtype=torch.bool))
    observe(measurements, batch, [1.0, 2.0], [1.0, 2.0])
    assert all(result.images == 0 and result.false_alarms is None for result in measurements.results())


def test_a_model_without_maps_has_scores_only() -> None:
    measurements = TileMeasurements(GRID)
    batch = images("l", "")
    on_tile = measurements.watch(batch)
    for tile in GRID.tiles:
        on_tile(tile, TilePrediction(torch.tensor([2.0, 1.0]), None))
    measurements.update(batch)
    left, right = measurements.results()
    assert (left.image_auroc, left.pixel_auroc, left.missed) == (1.0, None, None)
    assert (right.image_auroc, right.normal_mean) == (None, 1.5)


def test_the_weakest_come_first() -> None:
    missing = replace(GOOD, tile="missing", missed=1)
    alarming = replace(GOOD, tile="alarming", image_auroc=None, pixel_auroc=None, false_alarms=3)
    blind = replace(GOOD, tile="blind", image_auroc=0.4)
    blurred = replace(missing, tile="blurred", pixel_auroc=0.5)
    results = [GOOD, missing, alarming, blind, blurred]
    assert [each.tile for each in weakest(results, 9)] == ["blind", "alarming", "blurred", "missing"]
    assert weakest(results, 1) == [blind]
    assert weakest([GOOD], 5) == []


def test_a_location_without_a_model_has_no_scores_and_its_defects_are_missed() -> None:
    lacking = GRID.without(["r00_c00"])
    measurements = TileMeasurements(lacking)
    batch = images("l", "", "r", pred_mask=torch.zeros(3, 4, 8, dtype=torch.bool))
    [tile] = lacking.tiles
    measurements.watch(batch)(tile, TilePrediction(torch.tensor([1.0, 1.0, 2.0]), None))
    measurements.update(batch)
    left, right = measurements.results()
    assert left == TileResult(
        "r00_c00", 0, 0, 3, 1, None, None, None, None, None, None, missed=1, false_alarms=0, left_out=True
    )
    assert (right.image_auroc, right.missed, right.left_out) == (1.0, 1, False)
    assert left in weakest([left, right], 2)


def test_hidden_pixels_and_tiles_are_not_measured() -> None:
    measurements, batch = TileMeasurements(GRID), images("l", "", "r", "", "")
    hidden = torch.zeros(5, 1, 4, 8, dtype=torch.bool)
    hidden[1, ..., :4] = True  # all of the left tile
    hidden[2, ..., 0, 0] = True  # one pixel of it
    on_tile = measurements.watch(batch)
    scores = torch.tensor([9.0, 8.0, 7.0, 1.0, 2.0])
    for tile in GRID.tiles:
        maps = scores.view(-1, 1, 1, 1).repeat(1, 1, 4, 4) / 2
        maps[:, :, 0, 0] *= 2
        on_tile(tile, TilePrediction(scores, maps).hiding(hidden[..., tile.rows, tile.columns]))
    batch.pred_mask = torch.ones(5, 4, 8, dtype=torch.bool)
    measurements.update(batch, hidden)
    left, right = measurements.results()
    assert (left.images, left.anomalous, left.false_alarms, left.normal_max) == (4, 1, 3, 3.5)
    assert (right.images, right.anomalous, right.false_alarms, right.normal_max) == (5, 1, 4, 9)


def test_hidden_tiles_of_images_without_masks_are_not_measured() -> None:
    measurements, batch = TileMeasurements(GRID), images("", "l", "", gt_mask=None)
    hidden = torch.zeros(1, 1, 4, 8, dtype=torch.bool)
    hidden[..., :4] = True
    on_tile = measurements.watch(batch)
    for tile in GRID.tiles:
        prediction = TilePrediction(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3, 1, 4, 4))
        on_tile(tile, prediction.hiding(hidden[..., tile.rows, tile.columns]))
    measurements.update(batch, hidden)
    left, right = measurements.results()
    assert (left.images, left.normal_max) == (0, None)
    assert (right.images, right.normal_max) == (2, 3)
