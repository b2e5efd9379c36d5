"""Every place of normalization and thresholding with every kind of validation images, against the rules written out.

The maps of a tile model are the brightness, times a factor per tile, so that tiles have scales of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, InferenceBatch
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_tiled.calibration import Calibration, Learned
from anomalib_tiled.config import Settings
from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble import TiledEnsemble
from anomalib_tiled.grid import Tile
from anomalib_tiled.layout import grid_of
from anomalib_tiled.run import Run
from anomalib_tiled.run_folder import RunFolder
from anomalib_tiled.training.calibrate import calibrate

MANUAL = 0.6
"""Below the highest score of each tile, and between 0 and 1, so that it has a meaning on every scale."""

METHODS = {"F1AdaptiveThreshold": {}, "ManualThreshold": {"value": MANUAL}}
PLACES = list(product(("tile", "image", "none"), ("tile", "image")))
VALIDATION = ("normal and anomalous", "normal only", "none at all")
COMBINATIONS = [
    pytest.param(each, id=f"{each[0][0]}, {each[0][1]}, {', '.join(each[1:])}")
    for each in product(PLACES, METHODS, ("with masks", "without masks"), VALIDATION)
]
IMAGES = torch.rand(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))


class Brightness(AnomalibModule):
    def __init__(self, factor: float) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        return InferenceBatch(anomaly_map=self.factor * images.mean(dim=1, keepdim=True))

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


@dataclass(frozen=True)
class Calibrated:
    """An ensemble that has learned, and what it learned from.

    Args:
        ensemble: The ensemble.
        run: Its run.
        samples: The images that it learned from.
        masks: Whether there are masks.
        manual: Whether the threshold was given.
    """

    ensemble: TiledEnsemble
    run: Run
    samples: tuple[Sample, ...]
    masks: bool
    manual: bool

    @property
    def normalize_at(self) -> str:
        return self.ensemble.stages.normalize_at

    @property
    def threshold_at(self) -> str:
        return self.ensemble.stages.threshold_at

    def images(self) -> torch.Tensor:
        """What it learned from."""
        whole = slice(0, 8), slice(0, 12)
        pixels = np.stack([self.run.source.image(sample, *whole) for sample in self.samples])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


class Trained(Run):
    """A run as if all of its tiles were trained."""

    def check_tiles(self) -> None: ...

    def _load_tile(self, tile: Tile) -> Brightness:
        return Brightness(factor(tile))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """4 training images, and 3 normal and 3 anomalous validation images with masks."""
    root, random, samples = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number, (subset, label) in enumerate([("train", 0)] * 4 + [("val", 0)] * 3 + [("val", 1)] * 3):
        pixels = random.integers(20, 200, (8, 12, 3), dtype=np.uint8)
        mask = np.zeros((8, 12), dtype=np.uint8)
        mask[1, number - 4] = 255 * label
        pixels[mask > 0] = 190 + number
        paths = [root / f"{kind}{number}.png" for kind in ("image", "mask")]
        Image.fromarray(pixels).save(paths[0])
        Image.fromarray(mask).save(paths[1])
        samples.append(Sample(subset, paths[0], paths[1] if label else None, label))
    return Split(tuple(samples))


@pytest.fixture(scope="module", params=COMBINATIONS)
def calibrated(request: pytest.FixtureRequest, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Each combination, with overlapping tiles."""
    (normalize_at, threshold_at), method, masks, validation = request.param
    stages = "anomalib_tiled.stages"
    normalization = {"stage": normalize_at, "method": {"class_path": f"{stages}.normalization.MinMax"}}
    rule = {"class_path": f"{stages}.thresholding.{method}", "init_args": METHODS[method]}
    settings = Settings.from_mapping(
        {
            "seed_everything": 7,
            "default_root_dir": "nowhere",
            "tiling": {"image_size": [8, 12], "tile_size": [5, 6], "stride": [3, 4]},
            "model": {"class_path": f"{__name__}.Brightness"},
            "data": {"class_path": "anomalib.data.Folder"},
            "trainer": {"accelerator": "cpu"},
            "merging": {"class_path": f"{stages}.merging.Mean"},
            "scoring": {"class_path": f"{stages}.scoring.Max"},
            "seam_smoothing": {"class_path": f"{stages}.seams.GaussianSeams"},
            "normalization": normalization,
            "thresholding": {"stage": threshold_at, "method": rule},
            "metrics": {"image": [], "pixel": []},
            "workers": {"class_path": "anomalib_tiled.training.workers.LocalWorkers"},
            "cache": None,
            "visualize": False,
        }
    )
    split = chosen(split, validation, masks=masks == "with masks")
    source = DecodedFiles(settings.tiling.image_size, split.has_masks)
    datamodule = Folder(name="tiny", normal_dir="nowhere", eval_batch_size=4)
    run = Trained(
        RunFolder(tmp_path_factory.mktemp("run")), settings, grid_of(settings.tiling), split, source, datamodule
    )
    learned = Calibration.from_json(calibrate(run).to_json())
    samples = tuple(split.subset(split.calibration_subset))
    return Calibrated(run.ensemble(learned), run, samples, split.has_masks, method == "ManualThreshold")


def factor(tile: Tile) -> float:
    return 10.0 * (1 + tile.row + tile.column)


def chosen(split: Split, validation: str, *, masks: bool) -> Split:
    """Give the split with the validation images asked for."""
    kept = {"normal and anomalous": {0, 1}, "normal only": {0}, "none at all": set()}[validation]
    samples = [sample for sample in split.samples if sample.subset != "val" or sample.label in kept]
    return Split(tuple(sample if masks else replace(sample, mask_path=None) for sample in samples))


def of_tiles(calibrated: Calibrated, images: torch.Tensor) -> list[tuple[Tile, InferenceBatch]]:
    """What each tile model says of its part of the images."""
    predictions = []
    for tile in calibrated.run.grid.tiles:
        maps = Brightness(factor(tile))(images[..., tile.rows, tile.columns]).anomaly_map
        predictions.append((tile, InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)))
    return predictions


def at_the_threshold(calibrated: Calibrated, learned: Learned) -> float:
    """Normalize a threshold as if it were a score."""
    threshold = torch.tensor([learned.threshold])
    return float(calibrated.ensemble.stages.normalizer.apply(threshold, learned.normalization))


def test_scores_are_in_0_to_1_unless_they_are_raw(calibrated: Calibrated) -> None:
    prediction, raw = calibrated.ensemble(IMAGES), calibrated.ensemble.predict_raw(IMAGES)
    if calibrated.normalize_at == "none":
        assert torch.equal(prediction.pred_score, raw.scores)
        assert torch.equal(prediction.anomaly_map, raw.maps)
        assert raw.scores.min() > 1
        return
    for values in (prediction.pred_score, prediction.anomaly_map):
        assert values.min() >= 0
        assert values.max() <= 1


def test_the_threshold_lands_at_one_half(calibrated: Calibrated) -> None:
    calibration = calibrated.ensemble.calibration
    if calibrated.normalize_at == "tile":
        for level in calibration.tiles.values():
            assert [at_the_threshold(calibrated, each) for each in (level.scores, level.maps)] == [0.5, 0.5]
    if calibrated.normalize_at == "image":
        level = calibration.image
        assert [at_the_threshold(calibrated, each) for each in (level.scores, level.maps)] == [0.5, 0.5]
    if calibrated.normalize_at != "none" and calibrated.threshold_at == "image":
        raw, level = calibrated.ensemble.predict_raw(IMAGES), calibration.image
        scores = torch.full_like(raw.scores, level.scores.threshold)
        maps = torch.full_like(raw.maps, level.maps.threshold)
        final = calibrated.ensemble.decide(replace(raw, scores=scores, maps=maps))
        torch.testing.assert_close(final.pred_score, torch.full_like(scores, 0.5))
        torch.testing.assert_close(final.anomaly_map, torch.full_like(maps, 0.5))
        assert not final.pred_label.any()
        assert not final.pred_mask.any()


def test_thresholds_of_images_part_scores(calibrated: Calibrated) -> None:
    if calibrated.threshold_at != "image":
        return
    for images in (IMAGES, calibrated.images()):
        prediction, raw = calibrated.ensemble(images), calibrated.ensemble.predict_raw(images)
        level = calibrated.ensemble.calibration.image
        assert torch.equal(prediction.pred_label, raw.scores > level.scores.threshold)
        assert torch.equal(prediction.pred_mask, raw.maps > level.maps.threshold)
        if calibrated.normalize_at != "none":
            assert torch.equal(prediction.pred_label, prediction.pred_score > 0.5)
            assert torch.equal(prediction.pred_mask, prediction.anomaly_map > 0.5)


def test_thresholds_of_tiles_part_scores_on_their_own_scale_and_any_tile_decides(calibrated: Calibrated) -> None:
    if calibrated.threshold_at != "tile":
        return
    images = torch.cat([IMAGES, calibrated.images()])
    labels, masks = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images), 1, 8, 12, dtype=torch.bool)
    for tile, own in of_tiles(calibrated, images):
        level = calibrated.ensemble.calibration.tiles[tile.name]
        labels |= own.pred_score > level.scores.threshold
        masks[..., tile.rows, tile.columns] |= own.anomaly_map > level.maps.threshold
        if not calibrated.manual:
            assert level.scores.threshold > 1, "on the scale of the model, whatever is normalized where"
    prediction = calibrated.ensemble(images)
    assert torch.equal(prediction.pred_label, labels)
    assert torch.equal(prediction.pred_mask, masks)


def test_without_defect_the_threshold_of_a_tile_is_its_highest_score(calibrated: Calibrated) -> None:
    """A tile is anomalous if its own mask has a pixel, or, where there are no masks, if its image is."""
    if calibrated.threshold_at != "tile" or calibrated.manual:
        return
    anomalous = [sample for sample in calibrated.samples if sample.label == 1]
    for tile, own in of_tiles(calibrated, calibrated.images()):
        level = calibrated.ensemble.calibration.tiles[tile.name]
        defects = [calibrated.run.source.mask(sample, tile.rows, tile.columns) for sample in anomalous]
        if any(mask is None or mask.any() for mask in defects):
            assert level.scores.threshold < float(own.pred_score.max())
        else:
            assert level.scores.threshold == float(own.pred_score.max())
            if calibrated.masks:
                assert level.maps.threshold == float(own.anomaly_map.max())


def test_a_threshold_that_is_given_is_kept_on_the_scale_where_it_is_applied(calibrated: Calibrated) -> None:
    if not calibrated.manual:
        return
    calibration = calibrated.ensemble.calibration
    levels = calibration.tiles.values() if calibrated.threshold_at == "tile" else [calibration.image]
    assert {each.threshold for level in levels for each in (level.scores, level.maps)} == {MANUAL}


def test_no_image_that_was_learned_from_is_anomalous_if_none_is(calibrated: Calibrated) -> None:
    if calibrated.manual or any(sample.label == 1 for sample in calibrated.samples):
        return
    prediction = calibrated.ensemble(calibrated.images())
    assert not prediction.pred_label.any()
    assert not prediction.pred_mask.any()


def test_the_notes_say_what_was_missing(calibrated: Calibrated) -> None:
    notes = " ".join(calibrated.ensemble.calibration.notes)
    subsets = {sample.subset for sample in calibrated.run.split.samples}
    anomalous = any(sample.label == 1 for sample in calibrated.samples)
    assert ("There are no validation images" in notes) == ("val" not in subsets)
    assert ("No validation image is anomalous" in notes) == (not anomalous and not calibrated.manual)
