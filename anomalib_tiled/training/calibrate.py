"""Calibration: the stages learn from the predictions of the validation images."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import seed_everything

from anomalib_tiled.data.images import depth_notes, grey_mask_notes
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.cross_validation import ROUNDS, called_without_learning
from anomalib_tiled.ensemble.false_alarms import FalseAlarms
from anomalib_tiled.ensemble.observed import Observed
from anomalib_tiled.ensemble.spread import lenders_of, notes_on_spread
from anomalib_tiled.ensemble.validation_scores import ValidationScores
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import WHOLE
from anomalib_tiled.runs.result_files import remove_results
from anomalib_tiled.stages.contracts import errors_naming_stage
from anomalib_tiled.system.allocation import give_back_freed_memory
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.training.drift_reference import record_reference
from anomalib_tiled.training.observations import ObserveHere, ObserveOnPlaces
from anomalib_tiled.training.stored_predictions import is_tile_by_tile, lazy_predictions, remove_outdated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from anomalib_tiled.data.split import Split
    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.stored_images import LazyPrediction
    from anomalib_tiled.training.observations import Observe
    from anomalib_tiled.training.tile_learning import LearnedTile

logger = logging.getLogger(__name__)


def calibrate(run: Run) -> Calibration:
    """Let the stages learn from the validation images, first of tiles, then of whole images.

    One pass over the validation images is enough unless tiles are normalized and images thresholded: then the scale
    of the images is known only after the tiles have learned. With a global model one more is needed: what both show
    together is known only after each has learned its own scale.

    Args:
        run: A run with all tiles trained. Its validation images are used; the training images if there are none.
    """
    give_back_freed_memory()
    _remove_outdated_scores(run)
    run.check_tiles()
    run.folder.drift_reference_file.unlink(missing_ok=True)
    stages, observe, final = Stages.build(run.settings), _observing(run), list[Observed]()
    calibration = learn(stages, observe, final.append)
    for image in final:
        _save_scores(run, image)
    image = final[0] if final else observe(calibration, tiles=False, images=True).image
    record_reference(run, stages, calibration, image.normal)
    remove_outdated(run)
    if run.split.calibration_subset == "train":  # the models know these images: new ones have higher scores
        calibration = replace(calibration, false_alarms=None)
    alarming = calibration.note_on_false_alarms(on_test=run.split.calibrated_on_test)
    return replace(calibration, notes=(*_notes(run.split), *calibration.notes, *alarming))


def _observing(run: Run) -> Observe:
    masks_known = _masks_known(run.split)
    if is_tile_by_tile(run, "calibration"):
        return ObserveOnPlaces(run, masks_known)
    ensemble = run.ensemble()
    return ObserveHere(ensemble, partial(_validation_images, run, ensemble), masks_known)


def learn(stages: Stages, observe: Observe, on_images: Callable[[Observed], None] | None = None) -> Calibration:
    """Let stages learn.

    Args:
        stages: The stages.
        observe: Lets them see the validation images; called once for each pass.
        on_images: Receives the scores of whole images on their final scale before the normalization of images, if a
            pass has measured them.
    """
    final, fused = stages.normalize_at != "tile", stages.global_model is not None
    again = (stages.learn_from_images or fused) and not final
    tiles, image = observe(Calibration(), tiles=stages.learn_from_tiles, images=not again)
    lenders = lenders_of({name: spread for name, spread in tiles.spreads().items() if name != WHOLE})
    learned = tiles.learn(stages, lenders)
    if normal := sum(not each.has_anomalous for each in learned.values()):
        logger.info("%d of %d tiles have no anomalous validation tile to learn a threshold from.", normal, len(learned))
    calibration = Calibration(tiles={name: each.level for name, each in learned.items()}, borrowed=lenders)
    if again:
        _, image = observe(calibration, tiles=False, images=True)
    if fused:
        calibration = replace(calibration, branches=image.branches.learn())
        _, image = observe(calibration, tiles=False, images=True)
    if stages.learn_from_images and not final:
        image.take_rounding(each.rounding for each in learned.values())
    if on_images is not None and (final or stages.learn_from_images):
        on_images(image)
    with errors_naming_stage(stages.thresholder):
        notes = (*stages.thresholder.notes(image.scores), *notes_on_spread(lenders))
    calibration = replace(calibration, notes=notes, false_alarms=_false_alarms(stages, learned, image))
    if not stages.learn_from_images:
        return calibration
    normalize = stages.normalize_at == "image"
    level, regions = image.learn(stages, normalize=normalize), image.learn_regions(stages, normalize=normalize)
    return replace(calibration, image=level, regions=regions)


def _false_alarms(stages: Stages, tiles: Mapping[str, LearnedTile], image: Observed) -> FalseAlarms | None:
    """Estimate how many new normal images will be called anomalous; ``None`` if the validation images do not tell."""
    called = [tile.called for tile in tiles.values()]
    if stages.threshold_at == "image":
        normalize = stages.normalize_at == "image"
        called = [called_without_learning(stages, stages.thresholder, image, normalize=normalize, rounds=ROUNDS)]
    known = [each for each in called if each is not None]
    return FalseAlarms.of(np.any(known, axis=0)) if len(known) == len(called) else None


def _save_scores(run: Run, observed: Observed) -> None:
    ValidationScores.of(observed, run.settings.calibration_hash).write(run.folder.validation_scores_file)
    run.folder.note_checksum(run.folder.validation_scores_file)


def keep_calibration(run: Run, calibration: Calibration) -> None:
    """Write a calibration into the run. If it differs from the earlier one, the results of earlier tests are removed.

    Args:
        run: The run.
        calibration: The calibration.
    """
    stages = {"grid": run.grid.to_json(), "configuration": run.settings.calibration_hash}
    content, path = {**stages, **calibration.to_json()}, run.folder.calibration_file
    if _without_notes(json.loads(json.dumps(content))) != _without_notes(_earlier_calibration(path)):
        remove_results(run.folder.path)
    write_json(path, content)
    run.folder.note_checksum(path)


def _earlier_calibration(path: Path) -> dict[str, object]:
    """Read the earlier calibration; empty if there is none, or none that can be read."""
    try:
        return read_json(path)
    except RunFolderError:
        return {}


def _without_notes(content: dict[str, object]) -> dict[str, object]:
    """Leave out notes and the false alarms to expect, which decide nothing."""
    return {name: value for name, value in content.items() if name not in {"notes", "false_alarms"}}


def _remove_outdated_scores(run: Run) -> None:
    """Remove scores that other stages have kept: these stages may keep none."""
    path = run.folder.validation_scores_file
    try:
        scores = ValidationScores.read(path)
    except RunFolderError:  # the file has changed
        path.unlink()
        return
    if scores is not None and scores.configuration != run.settings.calibration_hash:
        path.unlink()


def _validation_images(run: Run, ensemble: EnsembleModel) -> Iterable[LazyPrediction]:
    seed_everything(run.settings.seed_everything, workers=True, verbose=False)  # every pass augments alike
    return lazy_predictions(run, ensemble, "calibration", run.folder.predictions, "Calibrating")


def _masks_known(split: Split) -> bool:
    """Whether a validation image with a defect has a mask, or none has a defect."""
    anomalous = [sample for sample in split.calibration_samples if sample.label == 1]
    return split.has_masks and (not anomalous or any(sample.masks for sample in anomalous))


def _notes(split: Split) -> tuple[str, ...]:
    """List what a reader of the results should know about the images."""
    samples = split.calibration_samples
    notes = []
    if unlabelled := sum(sample.label is None for sample in split.subset("val")):
        notes.append(f"{unlabelled} validation images are not used for calibration: their label is unknown.")
    if split.calibration_subset == "train":
        lack = "No validation image has a known label" if unlabelled else "There are no validation images"
        notes.append(f"{lack}: thresholds and normalization come from the training images.")
    if split.calibrated_on_test:
        notes.append("Validation images are test images: thresholds are tuned on the images that then measure them.")
    unmasked = sum(sample.label == 1 and not sample.masks for sample in samples) if _masks_known(split) else 0
    if unmasked:
        notes.append(f"{unmasked} anomalous validation images have no mask: they do not calibrate tiles and pixels.")
    notes += depth_notes(sample.image_path for sample in split.samples)
    notes += grey_mask_notes(split.samples)
    return tuple(notes)
