"""Tiles whose normal scores do not vary, and models whose arithmetic depends on how many images they see at once."""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.ensemble.spread import Spread, lend, lenders_of, notes_on_spread
from anomalib_tiled.ensemble.stored_images import LazyPrediction
from anomalib_tiled.export.modules import TileModule, WholeImages
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax, Normalizer, Quantile, Standardize
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold, QuantileThreshold, Thresholder
from anomalib_tiled.training.calibrate import learn
from anomalib_tiled.training.observations import ObserveHere

GRID = TileGrid(Size(16, 16), Size(8, 8), Size(8, 8))
NAMES = [tile.name for tile in GRID.tiles]
LABELS = np.zeros(4, bool)
USUAL = np.array([3.0, 5.0, 4.0, 6.0])
NORMALIZERS = pytest.mark.parametrize(
    "normalizer", [MinMax(), Quantile(), Standardize()], ids=lambda normalizer: type(normalizer).__name__
)
COMBINATIONS = pytest.mark.parametrize(
    ("normalizer", "normalize_at", "threshold_at", "rule"),
    [
        (Quantile(), "tile", "tile", F1AdaptiveThreshold()),
        (MinMax(), "tile", "image", F1AdaptiveThreshold()),
        (Standardize(), "image", "tile", F1AdaptiveThreshold()),
        (MinMax(), "none", "tile", QuantileThreshold()),
        (MinMax(), "image", "image", F1AdaptiveThreshold()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)


class Distance(AnomalibModule):
    """Distance of each pixel from mid-grey as x² - 2xy + y², whose rounding depends on the number of images."""

    def __init__(self) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        features, known = 1 + images.mean(dim=1, keepdim=True), 1.5
        squared = features**2 - 2 * known * features + known**2
        rounding = (len(images) % 4) * 2.0**-23 * known**2
        return InferenceBatch(anomaly_map=(squared.clamp(min=0) + rounding).sqrt())

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


def observed(scores: np.ndarray, anomalous: np.ndarray = LABELS) -> Observed:
    """Scores of a tile; its maps have four pixels, the highest of which is the score."""
    seen, values = Observed(), torch.from_numpy(np.asarray(scores, np.float32))
    maps = values[:, None, None, None] * torch.tensor([[0.25, 0.5], [0.75, 1.0]])
    masks = np.broadcast_to(anomalous[:, None, None], (len(scores), 2, 2))
    seen.add(values, maps, Truth(anomalous, masks))
    return seen


def calibrated(stages: Stages) -> EnsembleModel:
    models = TileModels(lambda _: cast("AnomalibModule", Distance()))
    ensemble = EnsembleModel(GRID, models, stages=stages, calibration=Calibration(), evaluator=False)
    batches = []
    for images in normal_images().split(4):
        labels, masks = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images), 16, 16)
        batches.append(ImageBatch(image=images, gt_label=labels, gt_mask=masks))
    images = [LazyPrediction(each, partial(ensemble.predict_raw, each.image)) for each in batches]
    ensemble.calibration = learn(stages, ObserveHere(ensemble, lambda: images))
    return ensemble


def normal_images() -> torch.Tensor:
    """Images with noise around mid-grey, but for the first tile, which is grey in all of them."""
    images = 0.5 + 0.05 * torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = images.clamp(0, 1)
    images[..., :8, :8] = 0.5
    return images


def lenders(tiles: dict[str, Observed]) -> dict[str, str]:
    return lenders_of({name: Spread.of(tile) for name, tile in tiles.items()})


def test_a_tile_whose_scores_do_not_vary_borrows_from_a_usual_one() -> None:
    tiles = {
        "blank": observed(np.full(4, 0.01)),
        "rounded": observed(np.array([0.01, 0.01, 0.011, 0.01])),
        "low": observed(USUAL - 1),
        "usual": observed(USUAL),
        "high": observed(USUAL + 9),
    }
    assert lenders(tiles) == {"blank": "usual", "rounded": "usual"}
    assert lenders({name: tiles[name] for name in ("low", "usual", "high")}) == {}


def test_where_no_scores_vary_nothing_can_be_borrowed() -> None:
    assert lenders({name: observed(np.full(4, 0.01)) for name in ("one", "other")}) == {}
    assert lenders({}) == {}


def test_most_tiles_may_be_blank() -> None:
    blank = {f"blank {number}": observed(np.zeros(4)) for number in range(9)}
    assert lenders(blank | {"usual": observed(USUAL)}) == dict.fromkeys(blank, "usual")


def test_borrowed_are_the_normal_scores_alone() -> None:
    blank = observed(np.array([0.01, 0.01, 9.0, 0.01]), np.array([False, False, True, False]))
    usual = observed(np.append(USUAL, 50), np.array([*LABELS, True]))
    seen = lend(blank, usual)
    assert sorted(seen.scores.peaks) == sorted(USUAL)
    assert (seen.scores.minimum, seen.scores.maximum_normal, seen.scores.maximum) == (3, 6, 9)
    assert seen.scores.counts().anomalous.sum() == 1
    assert sorted(seen.maps.peaks) == sorted(USUAL)
    assert (seen.maps.maximum_normal, seen.maps.maximum) == (6, 9)
    counts = seen.maps.counts()
    assert (counts.normal.sum(), counts.anomalous.sum()) == (16, 4)


def test_borrowed_scores_lie_above_those_of_the_tile() -> None:
    seen = lend(observed(np.full(4, 100.0)), observed(USUAL))
    assert sorted(seen.scores.peaks) == [100, 101, 102, 103]


def test_a_note_names_the_tiles() -> None:
    assert notes_on_spread({}) == ()
    (note,) = notes_on_spread({"r00_c00": "r01_c01", "r00_c01": "r01_c01"})
    assert note == (
        "Normal scores hardly vary at r00_c00, r00_c01, as where images are blank: thresholds and scales of these "
        "tiles are learned from the normal scores of r01_c01."
    )
    (note,) = notes_on_spread({f"r00_c{number:02}": "r01_c01" for number in range(10)})
    assert "r00_c07 and 2 more (`anomalib tiled status` names them), as where" in note


@COMBINATIONS
def test_batches_and_grey_levels_change_no_label_at_a_blank_tile_and_a_spot_does(
    normalizer: Normalizer, normalize_at: str, threshold_at: str, rule: Thresholder
) -> None:
    ensemble = calibrated(Stages(Mean(), Max(), None, normalizer, rule, normalize_at, threshold_at))
    if "tile" in {normalize_at, threshold_at}:
        assert ensemble.calibration.borrowed == {NAMES[0]: ensemble.calibration.borrowed[NAMES[0]]}
        assert ensemble.calibration.notes[-1].startswith(f"Normal scores hardly vary at {NAMES[0]}, as")
    for size in (1, 2, 3, 7):
        predictions = [ensemble(images) for images in normal_images().split(size)]
        assert not torch.cat([each.pred_label for each in predictions]).any()
        assert not torch.cat([each.pred_mask for each in predictions]).any()
    image = normal_images()[:3].clone()
    image[..., 2:6, 2:6] += 1 / 255
    assert not ensemble(image).pred_label.any()
    assert not ensemble(image).pred_mask.any()
    image[..., 2:6, 2:6] = 0
    found = ensemble(image)
    assert found.pred_label.all()
    assert found.pred_mask[..., 3:5, 3:5].all()
    if normalize_at in {"tile", threshold_at}:
        assert (found.pred_score > 0.5).all()


@NORMALIZERS
def test_an_export_decides_alike_at_a_blank_tile(normalizer: Normalizer) -> None:
    ensemble = calibrated(Stages(Mean(), Max(), None, normalizer, F1AdaptiveThreshold(), "tile", "tile"))
    exported = WholeImages(ensemble, [TileModule(Distance()) for _ in NAMES])
    images = normal_images()[:3].clone()
    images[1, :, 2:6, 2:6] += 1 / 255
    images[2, :, 2:6, 2:6] = 0
    ours, theirs, alone = ensemble(images), exported(images), ensemble(images[:1])
    torch.testing.assert_close(ours.anomaly_map[0, ..., :8, :8], alone.anomaly_map[0, ..., :8, :8], atol=1e-4, rtol=0)
    assert ours.pred_label.tolist() == theirs["pred_label"].tolist() == [False, False, True]
    assert torch.equal(ours.pred_mask, theirs["pred_mask"])
    torch.testing.assert_close(ours.pred_score, theirs["pred_score"])
