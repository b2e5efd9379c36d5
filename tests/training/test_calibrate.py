"""What is learned where, with tile models whose map is the brightness, times a factor per tile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.data.cache import DecodedFiles, PixelSource
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.calibration import Calibration, Level
from anomalib_tiled.ensemble.loaded_models import SavedModels
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_job import TileJob
from anomalib_tiled.grid import Tile
from anomalib_tiled.runs.drift_reference import DriftReference
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.system.files import read_json
from anomalib_tiled.training.calibrate import calibrate, keep_calibration
from anomalib_tiled.workers.scheduler import scheduler_of

COMBINATIONS = [(first, second) for first in ("tile", "image", "none") for second in ("tile", "image")]
TILES = ["r00_c00", "r00_c01", "r00_c02", "r01_c00", "r01_c01", "r01_c02"]


Make = Callable[[float], AnomalibModule]


@dataclass
class Counting:
    """Pixels that know how often they were asked for."""

    source: PixelSource
    read: Counter[Path]
    fingerprint: str | None = None
    scope: Scope = EVERYTHING

    def image(self, sample: Sample, rows: slice, columns: slice) -> np.ndarray:
        self.read[sample.image_path] += 1
        return self.source.image(sample, rows, columns)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> np.ndarray | None:
        return self.source.mask(sample, rows, columns)

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> np.ndarray | None:
        return self.source.hidden(sample, rows, columns)


@pytest.fixture
def run(
    configuration: dict[str, object],
    datamodule: Folder,
    image_folder: Path,
    brightness: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A run as if all of its tiles were trained."""
    changes = {"trainer": {"accelerator": "cpu"}, "thresholding": configuration["thresholding"] | {"stage": "image"}}
    settings = Settings.from_mapping(configuration | changes)
    folder, grid = RunFolder(image_folder / "runs" / "v0"), grid_of(settings.tiling)
    monkeypatch.setattr(RunFolder, "is_done", lambda *_: True)
    monkeypatch.setattr(
        TileJob, "checkpoint_is_complete", property(lambda _: False)
    )  # there are no checkpoints to reload
    monkeypatch.setattr(SavedModels, "load", lambda self, tile: brightness(10.0 * (1 + tile.row + tile.column)))
    split = split_once(datamodule)
    source = Counting(DecodedFiles(grid.image_size, split.has_masks), Counter())
    return Run(folder, settings, grid, split, source, datamodule, scheduler_of(settings))


def at(run: Run, normalize_at: str, threshold_at: str) -> Run:
    """Give the run with other places of normalization and thresholding."""
    settings = run.settings
    normalization = replace(settings.normalization, stage=normalize_at)
    thresholding = replace(settings.thresholding, stage=threshold_at)
    return replace(run, settings=replace(settings, normalization=normalization, thresholding=thresholding))


def choosing(run: Run, **stages: ClassSpec) -> Run:
    return replace(run, settings=replace(run.settings, stages={**run.settings.stages, **stages}))


def normalized(level: Level) -> tuple[bool, bool]:
    return level.scores.normalization is not None, level.maps.normalization is not None


@pytest.mark.parametrize(("normalize_at", "threshold_at"), COMBINATIONS)
def test_only_what_is_needed_is_learned(
    run: Run, normalize_at: str, threshold_at: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "anomalib_tiled"):
        calibration = calibrate(at(run, normalize_at, threshold_at))
    told = "no anomalous validation tile to learn a threshold from" in caplog.text
    assert told == ("tile" in {normalize_at, threshold_at})
    assert list(calibration.tiles) == (TILES if "tile" in {normalize_at, threshold_at} else [])
    assert (calibration.image is not None) == ("image" in {normalize_at, threshold_at})
    assert {normalized(level) for level in calibration.tiles.values()} <= {(normalize_at == "tile",) * 2}
    if calibration.image is not None:
        assert normalized(calibration.image) == (normalize_at == "image",) * 2


@pytest.mark.parametrize(("normalize_at", "threshold_at"), COMBINATIONS)
def test_the_validation_images_are_read_once_unless_images_are_made_of_normalized_tiles(
    run: Run, normalize_at: str, threshold_at: str
) -> None:
    calibrate(at(run, normalize_at, threshold_at))
    passes = 2 if normalize_at == "tile" else 1  # the second shows the scores of images on their final scale
    looks = {sample.image_path: int(sample.label == 0) for sample in run.split.subset("val")}
    assert run.source.read == {path: passes + look for path, look in looks.items()}, "normal ones are looked at once"


def brightest(run: Run, rows: slice = slice(0, 8), columns: slice = slice(0, 12)) -> np.ndarray:
    """Highest brightness of a rectangle of each validation image, in [0, 1]."""
    images = [run.source.image(sample, rows, columns) for sample in run.split.subset("val")]
    return np.array([image.mean(axis=2).max() / 255 for image in images])


def test_each_tile_learns_from_its_own_pixels(run: Run) -> None:
    levels = calibrate(at(run, "tile", "tile")).tiles
    for tile in run.grid.tiles:
        scores = 10 * (1 + tile.row + tile.column) * brightest(run, tile.rows, tile.columns)
        learned = levels[tile.name].scores.normalization
        assert (learned["minimum"], learned["maximum"]) == pytest.approx((scores.min(), scores.max()))


def test_a_tile_without_a_defect_calls_none_of_its_validation_tiles_anomalous(run: Run) -> None:
    levels = calibrate(at(run, "none", "tile")).tiles
    for tile in run.grid.tiles[1:]:  # the masks lie in the first one
        scores = 10 * (1 + tile.row + tile.column) * brightest(run, tile.rows, tile.columns)
        assert levels[tile.name].scores.threshold == pytest.approx(scores.max(), rel=1e-3)
        assert levels[tile.name].scores.threshold > scores.max()


def test_images_learn_the_same_threshold_whether_they_are_normalized_or_not(run: Run) -> None:
    one, other = calibrate(at(run, "image", "image")).image, calibrate(at(run, "none", "image")).image
    assert one.scores.threshold == other.scores.threshold
    assert one.maps.threshold == other.maps.threshold
    assert one.scores.threshold > 1, "on the models' own scale"


def test_images_made_of_normalized_tiles_learn_on_the_normalized_scale(run: Run) -> None:
    image = calibrate(at(run, "tile", "image")).image
    assert 0 <= image.scores.threshold <= 1
    assert 0 <= image.maps.threshold <= 1


def test_what_was_learned_can_be_used(run: Run) -> None:
    for normalize_at, threshold_at in COMBINATIONS:
        changed = at(run, normalize_at, threshold_at)
        content = calibrate(changed).to_json()
        prediction = changed.ensemble(Calibration.from_json(content))(torch.rand(2, 3, 8, 12))
        assert prediction.pred_label.shape == (2,)


GAP = "No validation image has a score between "


def notes_of(run: Run) -> tuple[str, ...]:
    """Calibrate; leave out how far the few random images are apart."""
    return tuple(note for note in calibrate(run).notes if not note.startswith(GAP))


def with_samples(run: Run, *samples: Sample) -> Run:
    return replace(at(run, "tile", "tile"), split=Split(samples))


def test_a_note_says_that_validation_images_are_test_images(run: Run) -> None:
    notes = notes_of(at(run, "tile", "tile"))
    assert notes == ("Validation images are test images: thresholds are tuned on the images that then measure them.",)


def test_a_note_says_that_there_are_only_training_images(run: Run) -> None:
    notes = calibrate(with_samples(run, *run.split.subset("train"))).notes
    assert notes[0] == "There are no validation images: thresholds and normalization come from the training images."
    assert notes[1] == "No validation image is anomalous: the threshold is just above the highest normal score."
    assert set(run.source.read) == {sample.image_path for sample in run.split.subset("train")}


def test_a_note_says_that_no_validation_image_is_anomalous(run: Run) -> None:
    normal = [sample for sample in run.split.subset("val") if sample.label == 0]
    notes = calibrate(with_samples(run, *run.split.subset("train"), *normal)).notes
    assert notes == ("No validation image is anomalous: the threshold is just above the highest normal score.",)


def test_a_threshold_that_is_given_needs_no_anomalous_image(run: Run) -> None:
    normal = with_samples(run, *(sample for sample in run.split.subset("val") if sample.label == 0))
    rule = ClassSpec("anomalib_tiled.stages.thresholding.ManualThreshold", {"value": 3.0})
    calibration = calibrate(choosing(at(normal, "image", "tile"), thresholding=rule))
    assert calibration.notes == ()
    assert {level.maps.threshold for level in calibration.tiles.values()} == {3.0}


def test_the_rule_says_its_own_notes(run: Run) -> None:
    rule = ClassSpec("anomalib_tiled.stages.thresholding.ExtremeValueThreshold", {"false_positive_rate": 0.01})
    apart = with_samples(run, *run.split.subset("train"), *run.split.subset("val"))
    for place in ("tile", "image"):
        (note,) = calibrate(choosing(at(apart, "image", place), thresholding=rule)).notes
        assert note.startswith("A false-positive rate of 0.01 is too low for 2 normal validation images")


def test_nothing_to_note_where_validation_images_are_apart(run: Run) -> None:
    assert notes_of(with_samples(run, *run.split.subset("train"), *run.split.subset("val"))) == ()


@pytest.mark.parametrize(("normalize_at", "scale"), [("tile", 1), ("image", 50)])
def test_a_rule_notes_something_of_the_scores_that_its_threshold_is_for(
    run: Run, normalize_at: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(F1AdaptiveThreshold, "notes", lambda _, scores: [f"{scores.maximum:.6f}"])
    assert 0.5 * scale < float(calibrate(at(run, normalize_at, "image")).notes[-1]) <= scale


def test_a_wide_gap_between_the_scores_is_noted(run: Run) -> None:
    calibration = calibrate(at(run, "image", "image"))
    (note,) = (note for note in calibration.notes if note.startswith(GAP))
    low, high = re.match(rf"{GAP}(\S+) and (\S+):", note).groups()
    assert float(low) < calibration.image.scores.threshold < float(high)


def test_a_note_says_how_many_masks_are_grey_where_they_should_be_black_or_white(run: Run, image_folder: Path) -> None:
    apart = with_samples(run, *run.split.subset("train"), *run.split.subset("val"))
    mask = image_folder / "masks" / "1.png"
    Image.fromarray(np.tile(np.array([0, 40, 255], dtype=np.uint8), (8, 4))).save(mask)
    note, _ = calibrate(apart).notes  # the second names the gap
    assert note == (
        f"1 of 2 masks have more than two grey values, for example {mask}: every value above 0 counts as anomalous, so "
        "JPEG and smoothed edges make defects larger. Save masks as PNG with only 0 and 255."
    )


def test_a_defect_without_mask_makes_every_tile_of_its_image_anomalous(run: Run) -> None:
    samples = [replace(sample, mask_path=None) for sample in run.split.subset("val")]
    levels = calibrate(with_samples(run, *samples)).tiles
    tile: Tile = run.grid.tile("r01_c02")
    assert levels[tile.name].maps.threshold == levels[tile.name].scores.threshold, "pixels have no truth of their own"


def test_without_masks_everything_is_learned_from_labels(run: Run) -> None:
    samples = [replace(sample, mask_path=None) for sample in run.split.samples]
    calibration = calibrate(replace(at(run, "image", "image"), split=Split(tuple(samples))))
    assert calibration.image.maps.threshold == calibration.image.scores.threshold


def test_an_image_of_unknown_label_teaches_nothing(run: Run) -> None:
    known = calibrate(with_samples(run, *run.split.subset("train"), *run.split.subset("val")))
    unknown = [Sample("val", sample.image_path, None, None) for sample in run.split.subset("train")[:3]]
    run.source.read.clear()
    calibration = calibrate(
        with_samples(run, *run.split.subset("train"), unknown[0], *run.split.subset("val"), *unknown[1:])
    )
    assert calibration.tiles == known.tiles
    assert calibration.notes[:1] == ("3 validation images are not used for calibration: their label is unknown.",)
    assert not set(run.source.read) & {sample.image_path for sample in unknown}


def test_if_no_validation_image_has_a_label_the_training_images_stand_in(run: Run) -> None:
    unknown = [replace(sample, label=None, mask_path=None) for sample in run.split.subset("val")]
    calibration = calibrate(with_samples(run, *run.split.subset("train"), *unknown))
    expected = calibrate(with_samples(run, *run.split.subset("train")))
    assert calibration.tiles == expected.tiles
    assert calibration.notes == (
        "4 validation images are not used for calibration: their label is unknown.",
        "No validation image has a known label: thresholds and normalization come from the training images.",
        *expected.notes[1:],
    )


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_defect_without_a_mask_beside_others_with_one(run: Run, batch_size: int) -> None:
    """Its score is one of an anomalous image; which of its tiles and pixels are anomalous nobody knows."""
    run.datamodule.eval_batch_size = batch_size
    normal = [sample for sample in run.split.subset("val") if sample.label == 0]
    masked, other = (sample for sample in run.split.subset("val") if sample.label == 1)
    unmasked = replace(other, mask_path=None)
    mixed = calibrate(at(with_samples(run, normal[0], unmasked, normal[1], masked), "none", "tile"))
    assert mixed.tiles == calibrate(at(with_samples(run, *normal, masked), "none", "tile")).tiles
    assert mixed.notes[:1] == ("1 anomalous validation images have no mask: they do not calibrate tiles and pixels.",)
    images = calibrate(at(with_samples(run, normal[0], unmasked, normal[1], masked), "none", "image")).image
    assert images.scores == calibrate(at(with_samples(run, *normal, masked, other), "none", "image")).image.scores
    assert images.maps == calibrate(at(with_samples(run, *normal, masked), "none", "image")).image.maps


def left_by_test(run: Run) -> list[Path]:
    """Leave what a test leaves."""
    found = [run.folder.path / name for name in ("metrics.json", "scores.csv", "tiles.csv", "images/bad/0.png")]
    for path in found:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return found


def with_more_images(run: Run, folder: Path, normal: int = 8, anomalous: int = 3) -> Run:
    """Give the run with validation images apart from test images; anomalous ones are brighter in the first tile."""
    samples, random = list(run.split.subset("train")), np.random.default_rng(1)
    mask = np.zeros((8, 12), dtype=np.uint8)
    mask[:4, :4] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for number in range(normal + anomalous):
        pixels = random.integers(0, 200, (8, 12, 3), dtype=np.uint8)
        if number >= normal:
            pixels[:4, :4] += 40
        Image.fromarray(pixels).save(folder / f"{number}.png")
        label, own_mask = (1, folder / "mask.png") if number >= normal else (0, None)
        samples.append(Sample("val", folder / f"{number}.png", own_mask, label))
    return replace(run, split=Split(tuple(samples)))


@pytest.mark.parametrize(
    ("normalize_at", "threshold_at"), [pytest.param("tile", "tile", marks=pytest.mark.slow), ("image", "image")]
)
def test_false_alarms_are_those_of_thresholds_that_were_learned_without_the_image(
    run: Run, tmp_path: Path, normalize_at: str, threshold_at: str
) -> None:
    """Calibrate once more without each normal image, and predict it then."""
    run = with_more_images(at(run, normalize_at, threshold_at), tmp_path)
    found = calibrate(run).false_alarms
    images = [sample for sample in run.split.samples if sample.subset == "val" and sample.label == 0]
    called = 0
    for image in images:
        others = tuple(sample for sample in run.split.samples if sample != image)
        without = replace(run, split=Split(others))
        pixels = torch.from_numpy(run.source.image(image, slice(0, 8), slice(0, 12))).permute(2, 0, 1) / 255
        called += bool(run.ensemble(calibrate(without))(pixels[None]).pred_label)
    assert (found.rate, found.images) == (called / len(images), len(images))
    assert called


def test_a_threshold_of_no_use_is_noted(run: Run, tmp_path: Path) -> None:
    rule = ClassSpec("anomalib_tiled.stages.thresholding.ManualThreshold", {"value": 0.01})
    useless = choosing(at(with_more_images(run, tmp_path), "image", "image"), thresholding=rule)
    note = (
        "Of 8 normal validation images, 8 are called anomalous by a threshold that was learned without them: expect 63 "
        "to 100 % of new normal images to be called anomalous. The threshold does not separate normal from anomalous "
        "images."
    )
    assert calibrate(useless).notes == (note,)
    tested = [replace(sample, subset="test") for sample in useless.split.subset("val")]
    on_test = replace(useless, split=Split((*useless.split.samples, *tested)))
    tuned, note_on_test = calibrate(on_test).notes
    assert tuned.startswith("Validation images are test images: thresholds are tuned on")
    assert note_on_test == note.replace("validation images,", "validation images (they are test images),", 1)


def test_what_training_images_would_show_is_not_known_of_new_ones(run: Run, tmp_path: Path) -> None:
    rule = ClassSpec("anomalib_tiled.stages.thresholding.ManualThreshold", {"value": 0.01})
    run = choosing(at(with_more_images(run, tmp_path), "image", "image"), thresholding=rule)
    samples = [replace(sample, subset="train") for sample in run.split.subset("val") if sample.label == 0]
    calibration = calibrate(replace(run, split=Split(tuple(samples))))
    assert calibration.false_alarms is None
    assert len(calibration.notes) == 1


def test_results_stay_where_an_earlier_version_did_not_estimate_false_alarms(run: Run, tmp_path: Path) -> None:
    run = with_more_images(run, tmp_path)
    calibration = calibrate(run)
    keep_calibration(run, replace(calibration, false_alarms=None))
    results = left_by_test(run)
    keep_calibration(run, calibration)
    assert all(path.is_file() for path in results)
    assert read_json(run.folder.calibration_file)["false_alarms"]["images"] == 8


def test_results_stay_as_long_as_the_stages_know_the_same(run: Run) -> None:
    calibration = calibrate(run)
    keep_calibration(run, calibration)
    results = left_by_test(run)
    keep_calibration(run, replace(calibrate(run), notes=("said otherwise",)))
    assert all(path.is_file() for path in results)
    assert read_json(run.folder.calibration_file)["notes"] == ["said otherwise"]
    run.folder.read(run.folder.calibration_file, "")


@pytest.mark.parametrize("before", [None, "{", "another merging", "another number"])
def test_results_with_other_stages_are_removed(run: Run, before: str | None) -> None:
    calibration = calibrate(run)
    keep_calibration(run, calibration)
    results = left_by_test(run)
    if before == "another merging":
        run = choosing(run, merging=ClassSpec("anomalib_tiled.stages.merging.Max"))
    elif before == "another number":
        calibration = replace(calibration, image=None)
    elif before is None:
        run.folder.calibration_file.unlink()
    else:
        run.folder.calibration_file.write_text(before)
    keep_calibration(run, calibration)
    assert not [path for path in results if path.exists()]


@pytest.mark.parametrize("damaged", [False, True])
def test_scores_that_were_kept_with_other_stages_do_not_stay(run: Run, *, damaged: bool) -> None:
    calibrate(run)
    assert run.folder.validation_scores_file.is_file()
    if damaged:
        run.folder.validation_scores_file.write_bytes(b"PK")
    calibrate(at(run, "tile", "tile"))
    assert not run.folder.validation_scores_file.exists()


@pytest.mark.parametrize(("normalize_at", "threshold_at"), COMBINATIONS)
def test_the_reference_holds_what_predict_writes_of_normal_images(
    run: Run, normalize_at: str, threshold_at: str
) -> None:
    changed = at(run, normalize_at, threshold_at)
    ensemble = changed.ensemble(calibrate(changed))
    reference = DriftReference.read(run.folder)
    normal = [sample for sample in run.split.subset("val") if sample.label == 0]
    pixels = [run.source.source.image(sample, *run.grid.whole) for sample in normal]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    raw = ensemble.predict_raw(images)
    assert (reference.subset, reference.configuration) == ("val", changed.settings.calibration_hash)
    assert reference.scores == pytest.approx(ensemble.decide(raw).pred_score.numpy())
    assert list(reference.tiles) == TILES
    for name, scores in reference.tiles.items():
        assert scores == pytest.approx(raw.tiles[name].numpy())
    looks = [Appearance.of(each) for each in pixels]
    assert list(reference.appearance) == ["brightness", "contrast", "sharpness"]
    for name, values in reference.appearance.items():
        assert values == pytest.approx([getattr(look, name) for look in looks])
    with Image.open(run.folder.mean_normal_picture) as picture:
        assert np.asarray(picture) == pytest.approx(np.mean(pixels, axis=0), abs=0.51)


def test_without_validation_images_the_reference_is_of_training_images(run: Run) -> None:
    calibrate(with_samples(run, *run.split.subset("train")))
    reference = DriftReference.read(run.folder)
    assert (reference.subset, len(reference.scores)) == ("train", len(run.split.subset("train")))


def test_without_a_normal_image_to_calibrate_with_the_mean_is_of_training_images(run: Run) -> None:
    anomalous = [sample for sample in run.split.subset("val") if sample.label == 1]
    calibrate(with_samples(run, *run.split.subset("train"), *anomalous))
    assert len(DriftReference.read(run.folder).scores) == 0
    images = [run.source.source.image(sample, *run.grid.whole) for sample in run.split.subset("train")]
    with Image.open(run.folder.mean_normal_picture) as picture:
        assert np.asarray(picture) == pytest.approx(np.mean(images, axis=0), abs=0.51)


def test_a_reference_of_an_earlier_calibration_does_not_stay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate(run)
    assert run.folder.drift_reference_file.is_file()
    monkeypatch.setattr("anomalib_tiled.training.calibrate.record_reference", lambda *_: None)
    calibrate(run)
    assert not run.folder.drift_reference_file.exists()
