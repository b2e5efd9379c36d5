"""Reads what a page shows from the files of a run: of its test, or of predictions. It loads no model."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.data.image_files import opened, read_scaled
from anomalib_tiled.drift.findings import DRIFT, Drift
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.report.content import Content, Scale, ShownImage
from anomalib_tiled.report.predicted_pictures import PredictedPictures
from anomalib_tiled.report.shown_facts import facts_of
from anomalib_tiled.report.shown_images import ImageShower
from anomalib_tiled.report.shown_part import part_of, read_tiles
from anomalib_tiled.report.shown_pictures import LARGEST_SIDE, Layers, PictureBudget, in_range
from anomalib_tiled.results.colours import heat_colours
from anomalib_tiled.results.own_predictions import own_predictions
from anomalib_tiled.results.tested_folder import TestedFolder
from anomalib_tiled.runs.result_files import TESTED, TESTED_FACTS
from anomalib_tiled.system.files import is_file, read_json
from anomalib_tiled.system.progress import track
from anomalib_tiled.system.validation import validated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.report.content import Part
    from anomalib_tiled.report.reported_run import ReportedRun
    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.results.prediction_row import PredictedImage
    from anomalib_tiled.results.tested_folder import TestedImage, ThumbnailFiles
    from anomalib_tiled.stages.uncertain import Band

    HeatRange = tuple[float, float]
    Pixels = NDArray[np.uint8]

NORMALIZED = (0.0, 1.0)
"""Scores that heat maps show as 0 and 255, if scores are normalized."""

CHECK_AGAIN = "Check the predictions again, or delete it."


@dataclass(frozen=True)
class Gathered:
    """What was read of the images of a page.

    Args:
        subtitle: What the images are.
        shown: The images with their predictions, as the page shows them.
        scale: The scale of their scores.
        notes: What a reader should know of them.
    """

    subtitle: str
    shown: Sequence[ShownImage]
    scale: Scale
    notes: Sequence[str]


def gather_test(run: ReportedRun, results: Path) -> Content:
    """Read the results of a test.

    Args:
        run: The run that was tested.
        results: Folder of the results.

    Raises:
        RunFolderError: There are none, or they are of an earlier version or of another calibration, or a file was
            changed.
    """
    folder, again = TestedFolder(results), _test_again(run, results)
    _check_tested(folder, again)
    facts = folder.facts()
    if facts["calibration"] != run.fingerprint:
        message = f"Test results must be of the present calibration of the run, but those in {results} are not. {again}"
        raise RunFolderError(message)
    metrics, rows = read_json(results / "metrics.json", again), read_tiles(results / "tiles.csv")
    gathered = _tested(run, folder)
    content = _content(run, gathered, part_of(run, rows, {}), facts)
    notes = _distinct([*run.calibration["notes"], *facts["notes"], *content.notes])
    return replace(content, metrics=_single(metrics), notes=notes)


def gather_predictions(run: ReportedRun, predictions: Path) -> Content:
    """Read predictions, and what `check` has found in them if it has.

    Args:
        run: The run that has predicted.
        predictions: Folder of the predictions.

    Raises:
        ConfigurationError: There are none, or they are of another run, or of another calibration.
        RunFolderError: A file was changed.
    """
    folder = own_predictions(run.folder, predictions)
    folder.check_rethresholded()
    drift = _drift(predictions / DRIFT)
    gathered = _predicted(run, folder)
    content = _content(run, gathered, part_of(run, {}, _drifted_tiles(drift)), {})
    if drift is not None:
        content = replace(content, drift=drift.to_json())
    on_check = _on_check(drift, predictions / DRIFT, gathered.shown)
    return replace(content, notes=_distinct([*run.calibration["notes"], *on_check, *content.notes]))


def _content(run: ReportedRun, gathered: Gathered, part: Part, tested: Mapping[str, Plain]) -> Content:
    """Put together what a test and predictions have in common."""
    truths = {each.truth for each in gathered.shown}
    return Content(
        title=run.title,
        subtitle=gathered.subtitle,
        is_labelled={True, False} <= truths,
        scale=gathered.scale,
        colours=heat_colours(),
        images=gathered.shown,
        part=part,
        metrics={},
        facts=facts_of(run, tested),
        configuration=run.settings.to_yaml(),
        notes=gathered.notes,
    )


def _tested(run: ReportedRun, folder: TestedFolder) -> Gathered:
    images = [*folder.images()]
    lowest = min((each.heat_range[0] for each in images if each.heat_range is not None), default=None)
    highest = max((each.heat_range[1] for each in images if each.heat_range is not None), default=None)
    heat, budget, shower = _heat_range(run, lowest, highest), PictureBudget(len(images)), ImageShower.of(images)
    shown = []
    for place, image in enumerate(track(images, "Reading pictures", len(images))):
        layers = _layers_of(folder.thumbnails_of(place), image.heat_range, heat)
        shown.append(shower.show(image, image.gt_label, budget.encode(layers, image.image_size)))
    scale, note = _scale(run, images, heat, run.decisions.uncertain)
    notes = [note, *_on_labels(images), *_on_maps(images), *shower.notes(images)]
    return Gathered(f"{len(images)} test images", shown, scale, notes)


def _predicted(run: ReportedRun, folder: PredictionFolder) -> Gathered:
    if not (images := [*folder.predicted()]):
        message = f"There must be a predicted image in {folder.path}, but there is none. Predict some."
        raise ConfigurationError(message)
    pictures = PredictedPictures(run, folder)
    heat = NORMALIZED if run.is_normalized else _heat_range(run, pictures.lowest(images), None)
    budget, shower = PictureBudget(len(images)), ImageShower.of(images)
    shown = [
        shower.show(each, None, budget.encode(pictures.of(each, heat), each.image_size))
        for each in track(images, "Reading images", len(images))
    ]
    scale, note = _scale(run, images, heat, folder.uncertain())
    notes = [note, *_on_maps(images), *pictures.notes(len(images)), *shower.notes(images)]
    return Gathered(f"{len(images)} predicted images in {folder.path}", shown, scale, notes)


def _layers_of(files: ThumbnailFiles, own: HeatRange | None, common: HeatRange) -> Layers:
    """Read the small pictures that a test has written."""
    heat, mask, truth = map(_greys, (files.heat_map, files.mask, files.truth))
    return Layers(
        picture=read_scaled(files.picture, LARGEST_SIDE) if is_file(files.picture) else None,
        heat_map=None if heat is None or own is None else in_range(heat, own, common),
        mask=mask,
        truth=truth,
    )


def _greys(path: Path) -> Pixels | None:
    if not is_file(path):
        return None
    with opened(path) as picture:
        return np.asarray(picture.convert("L"))


def _heat_range(run: ReportedRun, lowest: float | None, highest: float | None) -> HeatRange:
    """Give the scores that heat maps show as 0 and as 255: of raw scores, up to as far above the threshold as below."""
    if run.is_normalized or lowest is None:
        return NORMALIZED
    threshold = run.pixel_threshold
    if threshold is not None and threshold > lowest:
        return lowest, 2 * threshold - lowest
    return lowest, lowest + 1 if highest is None else highest


def _scale(
    run: ReportedRun, images: Sequence[PredictedImage], heat: HeatRange, uncertain: Band | None
) -> tuple[Scale, str]:
    """Give the scale of scores, and a note on its threshold."""
    threshold, note = run.threshold_for(images)
    has_maps = any(each.any_pixel is not None for each in images)
    band = None if uncertain is None else (uncertain.lower, uncertain.upper)
    pixels = run.pixel_threshold if has_maps else None
    scale = Scale(threshold, band, *heat, pixels, run.is_normalized, run.configured_by, run.quoted)
    return scale, note


def _check_tested(folder: TestedFolder, again: str) -> None:
    if folder.is_there():
        return
    if is_file(folder.path / "metrics.json"):
        message = (
            f"A report needs {TESTED} and {TESTED_FACTS} of a test, but {folder.path} lacks them: an earlier version "
            f"has tested the run, or the test was ended. {again}"
        )
    else:
        message = (
            f"A report needs the results of a test, but there are none in {folder.path}. {again} Or give --predictions "
            "DIR for a report on predictions."
        )
    raise RunFolderError(message)


def _test_again(run: ReportedRun, results: Path) -> str:
    output = "" if results == run.folder.path else f" --output {shlex.quote(str(results))}"
    return f"Test the run: `anomalib tiled test --ckpt_dir {run.quoted}{output}`."


def _on_labels(images: Sequence[TestedImage]) -> list[str]:
    """Say which labels are missing."""
    labels = Counter(each.gt_label for each in images)
    notes = []
    if unknown := labels[None]:
        notes.append(f"The labels of {unknown} of {len(images)} images are unknown: they are neither missed nor false.")
    for label, word in ((0, "normal"), (1, "anomalous")):
        if not labels[label] and labels[None] < len(images):
            notes.append(f"No image is labelled {word}, so the page cannot weigh missed defects against false alarms.")
    return notes


def _on_maps(images: Sequence[PredictedImage]) -> list[str]:
    if any(each.any_pixel is not None for each in images):
        return []
    return ["The model gives no anomaly maps: there are no heat maps, masks and regions."]


def _drift(path: Path) -> Drift | None:
    """Read what `check` has found; ``None`` if nothing was checked."""
    if not is_file(path):
        return None
    content = read_json(path, CHECK_AGAIN)
    try:
        return validated(Drift, content)
    except ValueError as error:
        message = f"{path} must hold what check has found, but {error}. {CHECK_AGAIN}"
        raise RunFolderError(message) from error


def _drifted_tiles(drift: Drift | None) -> dict[str, str]:
    """Give the words on each tile whose scores have moved."""
    findings = () if drift is None else drift.findings
    return {each.place: each.words for each in findings if each.quantity == "tile" and each.has_moved}


def _on_check(drift: Drift | None, path: Path, shown: Sequence[ShownImage]) -> list[str]:
    """Say which images a check has seen, if others were predicted since."""
    aligned = sum(not each.unaligned for each in shown)
    if drift is None or drift.images == aligned:
        return []
    checked = f"{datetime.fromtimestamp(path.stat().st_mtime, timezone.utc):%Y-%m-%d %H:%M} UTC"
    note = f"What is said of drift is of {checked}, when {drift.images} images were predicted, and now {aligned} are."
    return [f"{note} Check the predictions again."]


def _single(metrics: Mapping[str, Plain]) -> dict[str, float | None]:
    """Give the metrics that are one number; undefined ones as ``None``."""
    return {
        name: value if value is None or abs(value) <= sys.float_info.max else None
        for name, value in metrics.items()
        if value is None or isinstance(value, (int, float))
    }


def _distinct(notes: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(filter(None, notes))]
