"""Named regions: their scores, what is learned from them, and what is decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.named_regions import NamedRegions, box_of
from anomalib_tiled.ensemble.observed import Observed
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.regions import RegionMap
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.training.calibrate import learn
from anomalib_tiled.training.observations import ObserveHere

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
STAGES = Stages(
    merger=Mean(),
    scorer=Max(),
    smoother=None,
    normalizer=MinMax(),
    thresholder=F1AdaptiveThreshold(),
    normalize_at="image",
    threshold_at="image",
)

Brightness = Callable[[float], AnomalibModule]


def masks() -> dict[str, np.ndarray]:
    """A triangle and a rectangle, across tiles."""
    triangle, rectangle = np.tril(np.ones((8, 12), dtype=np.bool_), k=-1), np.zeros((8, 12), dtype=np.bool_)
    rectangle[2:6, 9:12] = True
    return {"triangle": triangle, "rectangle": rectangle}


def images(*bright: tuple[int, int, float]) -> torch.Tensor:
    """Images that are dark but for one pixel each: row, column, brightness."""
    found = torch.full((len(bright), 3, 8, 12), 0.1)
    for number, (row, column, value) in enumerate(bright):
        found[number, :, row, column] = value
    return found


@pytest.fixture
def ensemble(brightness: Brightness) -> EnsembleModel:
    """An ensemble with maps of the brightness, and two named regions."""
    model = brightness(10.0)

    def load(tile: Tile) -> AnomalibModule:
        del tile
        return model

    made = EnsembleModel(GRID, TileModels(load), stages=STAGES, evaluator=False)
    return made.naming(RegionMap(np.zeros((8, 12), dtype=np.bool_), masks())).eval()


def calibrated(ensemble: EnsembleModel, stages: Stages, *, masked: bool = True) -> Calibration:
    """Learn from four images: normal, a defect in the triangle, one in the rectangle, one in neither."""
    pixels, truth = images((0, 0, 0.2), (7, 0, 0.6), (3, 10, 0.8), (0, 5, 0.9)), torch.zeros(4, 8, 12).bool()
    for number, place in enumerate([(7, 0), (3, 10), (0, 5)], 1):
        truth[number][place] = True
    batch = ImageBatch(image=pixels, gt_label=torch.tensor([0, 1, 1, 1]), gt_mask=truth if masked else None)
    ensemble.stages = stages
    observe = ObserveHere(ensemble, lambda: [(batch, lambda on_tile: ensemble.predict_raw(pixels, on_tile))], masked)
    return learn(stages, observe)


def test_the_box_of_a_region() -> None:
    assert box_of(masks()["rectangle"]) == (slice(2, 6), slice(9, 12))
    assert box_of(masks()["triangle"]) == (slice(1, 8), slice(0, 7))


def test_the_score_of_a_region_is_the_highest_in_it(ensemble: EnsembleModel) -> None:
    raw = ensemble.predict_raw(images((7, 0, 0.6), (0, 7, 0.9), (3, 10, 0.8)))
    assert torch.allclose(raw.regions["triangle"], torch.tensor([6.0, 1.0, 1.0]))
    assert torch.allclose(raw.regions["rectangle"], torch.tensor([1.0, 1.0, 8.0]))
    assert torch.allclose(raw.scores, torch.tensor([6.0, 9.0, 8.0]))


def test_regions_learn_from_defects_in_them(ensemble: EnsembleModel) -> None:
    learned = calibrated(ensemble, STAGES).regions
    ranges = {name: (each.normalization["minimum"], each.normalization["maximum"]) for name, each in learned.items()}
    assert ranges["triangle"] == pytest.approx((1.0, 6.0))
    assert ranges["rectangle"] == pytest.approx((1.0, 8.0))
    assert 1 < learned["triangle"].threshold < 6
    assert 1 < learned["rectangle"].threshold < 8


def test_without_masks_the_label_of_the_image_counts() -> None:
    truth = NamedRegions(masks()).truth(np.array([False, True]), None)
    assert {name: each.tolist() for name, each in truth.items()} == {
        "triangle": [False, True],
        "rectangle": [False, True],
    }


@pytest.mark.parametrize("normalize_at", ["image", "tile", "none"])
@pytest.mark.parametrize("threshold_at", ["image", "tile"])
def test_each_region_is_decided_alone(ensemble: EnsembleModel, normalize_at: str, threshold_at: str) -> None:
    stages = replace(STAGES, normalize_at=normalize_at, threshold_at=threshold_at)
    ensemble.calibration = calibrated(ensemble, stages)
    assert bool(ensemble.calibration.regions) == ("image" in (normalize_at, threshold_at))
    raw = ensemble.predict_raw(images((7, 0, 0.6), (3, 10, 0.8), (0, 5, 0.9), (0, 0, 0.2)))
    decided = ensemble.decide_regions(raw)
    labels = {name: each.labels.tolist() for name, each in decided.items()}
    assert labels == {"triangle": [True, False, False, False], "rectangle": [False, True, False, False]}
    for name, each in decided.items():
        if normalize_at != "none":
            assert 0 <= each.scores.min() <= each.scores.max() <= 1
        if normalize_at == "none":
            assert torch.equal(each.scores, raw.regions[name])
        elif threshold_at == "image":
            assert ((each.scores > 0.5) == each.labels).all(), "the threshold lands at 0.5"
    assert ensemble.decide(raw).pred_label.tolist()[:3] == [True, True, True], "of images, as before"


def test_without_calibration_nothing_is_decided(ensemble: EnsembleModel) -> None:
    assert ensemble.decide_regions(ensemble.predict_raw(images((7, 0, 0.6)))) == {}


def test_calibrations_of_runs_without_regions_are_written_as_before() -> None:
    assert "regions" not in Calibration().to_json()
    learned = Calibration(regions={"clip": Learned(1.5, {"minimum": 0.0})})
    assert learned.to_json()["regions"] == {"clip": {"threshold": 1.5, "normalization": {"minimum": 0.0}}}
    assert Calibration.from_json(learned.to_json()) == learned


def test_two_places_learn_what_one_does() -> None:
    random, whole, parts = np.random.default_rng(0), Observed(), [Observed(), Observed()]
    for number in range(4):
        scores, anomalous = torch.from_numpy(random.random(3).astype(np.float32)), random.random(3) > 0.5
        for each in (whole, parts[number // 2]):
            each.add_regions({"clip": scores}, {"clip": anomalous})
    parts[0].merge(parts[1])
    for name in ("normal", "anomalous", "upper"):
        merged, expected = (getattr(each.regions["clip"].counts(), name) for each in (parts[0], whole))
        assert (merged == expected).all()
