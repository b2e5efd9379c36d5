"""Reads what a page shows from the files of a run: of its test, or of predictions. It loads no model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.report.content import Content, Scale, ShownImage
from anomalib_tiled.report.predicted_pictures import PredictedPictures
from anomalib_tiled.report.shown_facts import facts_of
from anomalib_tiled.report.shown_images import ImageShower
from anomalib_tiled.report.shown_part import part_of, read_tiles
from anomalib_tiled.report.shown_pictures import Layers, PictureBudget
from anomalib_tiled.results.colours import heat_colours
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.tested_folder import TestedFolder
from anomalib_tiled.system.files import is_file, read_json
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.report.reported_run import ReportedRun
    from anomalib_tiled.results.tested_folder import TestedImage, ThumbnailFiles

    HeatRange = tuple[float, float]
    Pixels = NDArray[np.uint8]

NORMALIZED = (0.0, 1.0)
"""Scores that heat maps show as 0 and 255, if scores are normalized."""

DRIFT = "drift.json"
"""What `check` has found, in the folder of the predictions."""


def gather_test(run: ReportedRun, results: Path) -> Content:
    """Read the results of a test.

    Args:
        run: The run that was tested.
        results: Folder of the results.

    Raises:
        RunFolderError: There are none, or they are of an earlier version or of another calibration, or a file was
            changed.
    """
    folder = TestedFolder(results)
    _check_tested(run, folder)
    facts, images = folder.facts(), [*folder.images()]
    if facts.get("calibration") != run.fingerprint:
        message = f"The test results in {results} are of another calibration of the run. {_test_again(run, results)}"
        raise RunFolderError(message)
    threshold, note = run.threshold_for(images)
    heat, shower, budget = _heat_range(run, images), ImageShower.of(images), PictureBudget(len(images))
    shown = []
    for place, image in enumerate(track(images, "Reading pictures", len(images))):
        layers = _layers_of(folder.thumbnails_of(place), image.heat_range, heat)
        shown.append(shower.show(image, image.gt_label, budget.encode(layers, image.image_size)))
    notes = [*run.calibration["notes"], *facts.get("notes", []), note, *_on_labels(shown), *shower.notes(images)]
    metrics = read_json(results / "metrics.json", _test_again(run, results))
    return Content(
        title=run.title,
        subtitle=f"{len(images)} test images",
        is_labelled=len({each.truth for each in shown} - {None}) > 1,
        scale=_scale(run, threshold, heat, images),
        colours=heat_colours(),
        images=shown,
        part=part_of(run, read_tiles(results / "tiles.csv"), {}),
        metrics={name: _finite(value) for name, value in metrics.items() if not isinstance(value, (list, dict))},
        facts=facts_of(run, facts),
        configuration=run.settings.to_yaml(),
        notes=_distinct(notes),
    )
