"""Every place of normalization and thresholding, and some with few validation images, against the rules written out.

The maps of a tile model are the brightness, times a factor per tile, so that tiles have scales of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from anomalib.data import Folder, InferenceBatch
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.calibration import Calibration, Level
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.grid import Tile
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.calibrate import calibrate
from anomalib_tiled.workers.scheduler import scheduler_of

MANUAL = 0.6
"""Below the highest score of each tile, and between 0 and 1, so that it has a meaning on every scale."""

METHODS = {"F1AdaptiveThreshold": {}, "ManualThreshold": {"value": MANUAL}}
KEPT = {"normal and anomalous": {0, 1}, "normal only": {0}, "none at all": set()}  # labels of validation images
IMAGES = torch.rand(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))


class Combination(NamedTuple):
    """Where stages are applied, how thresholds are found, and what there is to learn from."""

    normalize_at: str
    threshold_at: str
    method: str
    masks: str
    validation: str

    @property
    def manual(self) -> bool:
        return self.method == "ManualThreshold"

    @property
    def anomalous(self) -> bool:
        return self.validation == "normal and anomalous"


EVERYTHING = ("F1AdaptiveThreshold", "with masks", "normal and anomalous")
COMBINATIONS = [
    *(Combination(*places, *EVERYTHING) for places in product(("tile", "image", "none"), ("tile", "image"))),
    Combination("tile", "tile", "F1AdaptiveThreshold", "without masks", "normal only"),
    Combination("tile", "image", "F1AdaptiveThreshold", "without masks", "normal and anomalous"),
    Combination("image", "image", "F1AdaptiveThreshold", "without masks", "none at all"),
    Combination("none", "tile", "F1AdaptiveThreshold", "with masks", "normal only"),
    Combination("image", "tile", "ManualThreshold", "with masks", "normal and anomalous"),
    Combination("none", "image", "ManualThreshold", "without masks", "none at all"),
]


def about(concerned: Callable[[Combination], bool]) -> pytest.MarkDecorator:
    """Test the combinations that a rule is about, and no others."""
    chosen = [pytest.param(each, id=", ".join(each)) for each in COMBINATIONS if concerned(each)]
    assert chosen
    return pytest.mark.parametrize("calibrated", chosen, indirect=True)


@dataclass(frozen=True)
class Calibrated:
    """An ensemble that has learned, and what it learned from.

    Args:
        ensemble: The ensemble.
        run: Its run.
        samples: The images that it learned from.
        combination: How it has learned.
    """

    ensemble: EnsembleModel
    run: Run
    samples: tuple[Sample, ...]
    combination: Combination

    def images(self) -> torch.Tensor:
        """What it learned from."""
        whole = slice(0, 8), slice(0, 12)
        pixels = np.stack([self.run.source.image(sample, *whole) for sample in self.samples])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255


Make = Callable[[float], AnomalibModule]
Learn = Callable[[Combination], Calibrated]


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


@pytest.fixture(scope="module")
def learned(split: Split, tmp_path_factory: pytest.TempPathFactory, brightness: Make) -> Learn:
    """Have an ensemble with overlapping tiles learn, once in each way."""

    class Trained(Run):
        """A run as if all of its tiles were trained."""

        def check_tiles(self) -> None: ...

        @cached_property
        def job(self) -> TileJob:
            loaded = SimpleNamespace(load=lambda tile: brightness(factor(tile)), reload=None)
            job = TileJob(self.folder, self.settings, self.grid, RunData(self.split, self.source, self.datamodule))
            vars(job)["saved_models"] = loaded
            return job

    @cache
    def learn(combination: Combination) -> Calibrated:
        settings, own = settings_of(combination), chosen(split, combination)
        source = DecodedFiles(settings.tiling.image_size, own.has_masks)
        datamodule = Folder(name="tiny", normal_dir="nowhere", eval_batch_size=4)
        folder, grid = RunFolder(tmp_path_factory.mktemp("run")), grid_of(settings.tiling)
        run = Trained(folder, settings, grid, own, source, datamodule, scheduler_of(settings))
        calibration = Calibration.from_json(calibrate(run).to_json())
        return Calibrated(run.ensemble(calibration), run, tuple(own.subset(own.calibration_subset)), combination)

    return learn


@pytest.fixture
def calibrated(request: pytest.FixtureRequest, learned: Learn) -> Calibrated:
    """An ensemble that has learned in one of the ways that a test is about."""
    return learned(request.param)


def settings_of(combination: Combination) -> Settings:
    stages = "anomalib_tiled.stages"
    rule = {"class_path": f"{stages}.thresholding.{combination.method}", "init_args": METHODS[combination.method]}
    return Settings.from_mapping(
        {
            "seed_everything": 7,
            "default_root_dir": "nowhere",
            "tiling": {"image_size": [8, 12], "tile_size": [5, 6], "stride": [3, 4]},
            "model": {"class_path": "factory.Brightness"},
            "data": {"class_path": "anomalib.data.Folder"},
            "trainer": {"accelerator": "cpu"},
            "merging": {"class_path": f"{stages}.merging.Mean"},
            "scoring": {"class_path": f"{stages}.scoring.Max"},
            "seam_smoothing": {"class_path": f"{stages}.seams.GaussianSeams"},
            "normalization": {
                "stage": combination.normalize_at,
                "method": {"class_path": f"{stages}.normalization.MinMax"},
            },
            "thresholding": {"stage": combination.threshold_at, "method": rule},
            "metrics": {"image": [], "pixel": []},
            "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers"},
            "cache": None,
            "visualize": False,
        }
    )


def factor(tile: Tile) -> float:
    return 10.0 * (1 + tile.row + tile.column)


def chosen(split: Split, combination: Combination) -> Split:
    """Give the split with the validation images and masks that there are."""
    kept, masks = KEPT[combination.validation], combination.masks == "with masks"
    samples = [sample for sample in split.samples if sample.subset != "val" or sample.label in kept]
    return Split(tuple(sample if masks else replace(sample, mask_path=None) for sample in samples))


def of_tiles(calibrated: Calibrated, images: torch.Tensor) -> list[tuple[Tile, InferenceBatch]]:
    """What each tile model says of its part of the images."""
    predictions = []
    for tile in calibrated.run.grid.tiles:
        maps = factor(tile) * images[..., tile.rows, tile.columns].mean(dim=1, keepdim=True)
        predictions.append((tile, InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)))
    return predictions


def at_the_threshold(calibrated: Calibrated, level: Level) -> list[float]:
    """Normalize the thresholds of scores and maps as if they were scores."""
    apply = calibrated.ensemble.stages.normalizer.apply
    return [float(apply(torch.tensor([each.threshold]), each.normalization)) for each in (level.scores, level.maps)]


@about(lambda _: True)
def test_scores_are_normalized_to_0_to_1_or_stay_raw(calibrated: Calibrated) -> None:
    prediction, raw = calibrated.ensemble(IMAGES), calibrated.ensemble.predict_raw(IMAGES)
    if calibrated.combination.normalize_at == "none":
        assert torch.equal(prediction.pred_score, raw.scores)
        assert torch.equal(prediction.anomaly_map, raw.maps)
        assert raw.scores.min() > 1
        return
    for values in (prediction.pred_score, prediction.anomaly_map):
        assert 0 <= values.min() <= values.max() <= 1


@about(lambda each: each.normalize_at != "none")
def test_thresholds_land_at_one_half(calibrated: Calibrated) -> None:
    calibration, of_tiles = calibrated.ensemble.calibration, calibrated.combination.normalize_at == "tile"
    if of_tiles:
        assert calibration.tiles.keys() == {tile.name for tile in calibrated.run.grid.tiles}
    for level in calibration.tiles.values() if of_tiles else [calibration.image]:
        assert at_the_threshold(calibrated, level) == [0.5, 0.5]


@about(lambda each: each.normalize_at != "none" and each.threshold_at == "image")
def test_what_is_at_the_threshold_is_one_half_and_not_anomalous(calibrated: Calibrated) -> None:
    raw, level = calibrated.ensemble.predict_raw(IMAGES), calibrated.ensemble.calibration.image
    scores = torch.full_like(raw.scores, level.scores.threshold)
    maps = torch.full_like(raw.maps, level.maps.threshold)
    final = calibrated.ensemble.decide(replace(raw, scores=scores, maps=maps))
    torch.testing.assert_close(final.pred_score, torch.full_like(scores, 0.5))
    torch.testing.assert_close(final.anomaly_map, torch.full_like(maps, 0.5))
    assert not final.pred_label.any()
    assert not final.pred_mask.any()


@about(lambda each: each.threshold_at == "image")
def test_thresholds_of_images_part_scores(calibrated: Calibrated) -> None:
    for images in (IMAGES, calibrated.images()):
        prediction, raw = calibrated.ensemble(images), calibrated.ensemble.predict_raw(images)
        level = calibrated.ensemble.calibration.image
        assert torch.equal(prediction.pred_label, raw.scores > level.scores.threshold)
        assert torch.equal(prediction.pred_mask, raw.maps > level.maps.threshold)
        if calibrated.combination.normalize_at != "none":
            assert torch.equal(prediction.pred_label, prediction.pred_score > 0.5)
            assert torch.equal(prediction.pred_mask, prediction.anomaly_map > 0.5)


@about(lambda each: each.threshold_at == "tile")
def test_thresholds_of_tiles_part_scores_on_their_own_scale_and_any_tile_decides(calibrated: Calibrated) -> None:
    images = torch.cat([IMAGES, calibrated.images()])
    labels, masks = torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images), 1, 8, 12, dtype=torch.bool)
    for tile, own in of_tiles(calibrated, images):
        level = calibrated.ensemble.calibration.tiles[tile.name]
        labels |= own.pred_score > level.scores.threshold
        masks[..., tile.rows, tile.columns] |= own.anomaly_map > level.maps.threshold
    prediction = calibrated.ensemble(images)
    assert torch.equal(prediction.pred_label, labels)
    assert torch.equal(prediction.pred_mask, masks)


@about(lambda each: each.threshold_at == "tile" and not each.manual)
def test_without_defect_the_threshold_of_a_tile_is_just_above_its_highest_score(calibrated: Calibrated) -> None:
    """A tile is anomalous if its own mask has a pixel, or, where there are no masks, if its image is."""
    everywhere, defective = {tile.name for tile in calibrated.run.grid.tiles}, set()
    for tile, own in of_tiles(calibrated, calibrated.images()):
        level, highest = calibrated.ensemble.calibration.tiles[tile.name], float(own.pred_score.max())
        assert level.scores.threshold > 1, "on the scale of the model, whatever is normalized where"
        if level.scores.threshold < highest:
            defective.add(tile.name)
        else:
            assert level.scores.threshold == level.maps.threshold == pytest.approx(highest, rel=1e-3)
    where = {"with masks": {"r00_c00", "r00_c01"}, "without masks": everywhere}
    assert defective == (where[calibrated.combination.masks] if calibrated.combination.anomalous else set())


@about(lambda each: each.manual)
def test_a_threshold_that_is_given_is_kept_on_the_scale_where_it_is_applied(calibrated: Calibrated) -> None:
    calibration = calibrated.ensemble.calibration
    levels = calibration.tiles.values() if calibrated.combination.threshold_at == "tile" else [calibration.image]
    assert {each.threshold for level in levels for each in (level.scores, level.maps)} == {MANUAL}


@about(lambda each: not each.manual and not each.anomalous)
def test_no_image_that_was_learned_from_is_anomalous_if_none_is(calibrated: Calibrated) -> None:
    prediction = calibrated.ensemble(calibrated.images())
    assert len(prediction.pred_label) == len(calibrated.samples) > 0
    assert not prediction.pred_label.any()
    assert not prediction.pred_mask.any()


@about(lambda _: True)
def test_the_notes_say_what_was_missing(calibrated: Calibrated) -> None:
    notes, combination = " ".join(calibrated.ensemble.calibration.notes), calibrated.combination
    assert ("There are no validation images" in notes) == (combination.validation == "none at all")
    assert ("No validation image is anomalous" in notes) == (not combination.anomalous and not combination.manual)
