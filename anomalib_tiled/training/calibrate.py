"""Calibration: the stages learn from the predictions of the validation images."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from lightning.pytorch import seed_everything

from anomalib_tiled.data.images import depth_notes, grey_mask_notes
from anomalib_tiled.ensemble.calibration import Calibration, Observed, Truth
from anomalib_tiled.ensemble.spread import borrowed, lend, notes_on_spread
from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.ensemble.validation_scores import ValidationScores
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.cleanup import remove_results
from anomalib_tiled.stages.contracts import images_noted, naming_stage, noting
from anomalib_tiled.stages.distribution import tile_bits
from anomalib_tiled.system.allocation import give_back_freed_memory
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.training.stored_predictions import predictable, remove_outdated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from anomalib_tiled.data.split import Split
    from anomalib_tiled.ensemble.calibration import Level, Stages
    from anomalib_tiled.ensemble.ensemble import TiledEnsemble
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.training.stored_predictions import Predictable

logger = logging.getLogger(__name__)


def calibrate(run: Run) -> Calibration:
    """Let the stages learn, those of the tiles first.

    One pass over the validation images is enough unless tiles are normalized and images thresholded: then the scale
    of the images is known only after the tiles have learned.

    Args:
        run: A run with all tiles trained. Its validation images are used; the training images if there are none.
    """
    give_back_freed_memory()
    _remove_outdated_scores(run)
    ensemble = run.ensemble(Calibration())
    masks_known = _masks_known(run.split)
    images = partial(_validation_images, run, ensemble)
    calibration = learn(ensemble, images, partial(_keep, run), masks_known=masks_known)
    remove_outdated(run)
    return replace(calibration, notes=(*_notes(run.split), *calibration.notes))


def learn(
    ensemble: TiledEnsemble,
    images: Callable[[], Iterable[Predictable]],
    on_images: Callable[[Observed], None] | None = None,
    *,
    masks_known: bool = True,
) -> Calibration:
    """Let the stages of an ensemble learn.

    Args:
        ensemble: The ensemble; what its stages learned from tiles is part of it afterwards.
        images: Gives the images to learn from, each time anew.
        on_images: Told the scores of whole images on the scale that they are predicted on, if they have been seen.
        masks_known: Whether to learn from masks; a defect without a mask then teaches nothing of tiles and pixels.
    """
    stages = ensemble.stages
    observe = partial(_observe, uninspected=uninspected_pixels(ensemble.grid), masks_known=masks_known)
    names = [tile.name for tile in ensemble.grid.tiles] if stages.learn_from_tiles else []
    tiles = {name: Observed(tile_bits(len(names))) for name in names}
    image = observe(tiles, images())
    lenders = borrowed(tiles)
    tiles |= {name: lend(tiles[name], tiles[lender]) for name, lender in lenders.items()}
    calibration = Calibration(tiles=_learn_tiles(stages, tiles), borrowed=lenders)
    final = stages.normalize_at != "tile"
    if stages.learn_from_images and not final:
        ensemble.calibration = calibration
        image, final = observe({}, images()), True
        image.take_rounding_of(stages.normalizer, ((tiles[name], level) for name, level in calibration.tiles.items()))
    if on_images is not None and final:
        on_images(image)
    with naming_stage(stages.thresholder):
        notes = (*stages.thresholder.notes(image.scores), *notes_on_spread(lenders))
    if not stages.learn_from_images:
        return replace(calibration, notes=notes)
    level = image.learn(stages, normalize=stages.normalize_at == "image")
    return replace(calibration, image=level, notes=notes)


def _keep(run: Run, observed: Observed) -> None:
    ValidationScores.of(observed, run.settings.calibration_hash).write(run.folder.validation_scores_file)
    run.folder.note_checksum(run.folder.validation_scores_file)


def keep_calibration(run: Run, calibration: Calibration) -> None:
    """Write what the stages learned. Results of a test with stages that had learned something else are removed.

    Args:
        run: The run.
        calibration: What they learned.
    """
    stages = {"grid": run.grid.to_json(), "configuration": run.settings.calibration_hash}
    content, path = {**stages, **calibration.to_json()}, run.folder.calibration_file
    if _decides(json.loads(json.dumps(content))) != _decides(_before(path)):
        remove_results(run.folder.path)
    write_json(path, content)
    run.folder.note_checksum(path)


def _before(path: Path) -> dict[str, object]:
    """Read what stages had learned before; nothing where that is not known."""
    try:
        return read_json(path)
    except RunFolderError:
        return {}


def _decides(content: dict[str, object]) -> dict[str, object]:
    """Leave out what is only said of a calibration."""
    return {name: value for name, value in content.items() if name != "notes"}


def _remove_outdated_scores(run: Run) -> None:
    """Remove scores that were kept with other stages, as these may keep none."""
    path = run.folder.validation_scores_file
    try:
        scores = ValidationScores.read(path)
    except RunFolderError:  # they were altered
        path.unlink()
        return
    if scores is not None and scores.configuration != run.settings.calibration_hash:
        path.unlink()


def _learn_tiles(stages: Stages, tiles: Mapping[str, Observed]) -> dict[str, Level]:
    normal = sum(not observed.scores.has_anomalous for observed in tiles.values())
    logger.info("%d of %d tiles have no anomalous validation tile to learn a threshold from.", normal, len(tiles))
    return {name: _learn_tile(stages, name, observed) for name, observed in tiles.items()}


def _learn_tile(stages: Stages, name: str, observed: Observed) -> Level:
    with noting(f"Tile: {name}."):
        return observed.learn(stages, normalize=stages.normalize_at == "tile", rule=stages.tile_rule)


def _validation_images(run: Run, ensemble: TiledEnsemble) -> Iterable[Predictable]:
    seed_everything(run.settings.seed_everything, workers=True, verbose=False)  # for augmentations, in every pass
    return predictable(run, ensemble, run.calibration_images(), run.folder.predictions, "Calibrating")


def _observe(
    tiles: dict[str, Observed],
    images: Iterable[Predictable],
    *,
    uninspected: NDArray[np.bool_] | None,
    masks_known: bool,
) -> Observed:
    """Count the scores of images, and of those tiles that there are distributions for."""
    image = Observed(uninspected=uninspected)
    for batch, predict in images:
        number = len(cast("torch.Tensor", batch.image))
        truth = Truth.of(batch.gt_label, batch.gt_mask if masks_known else None, number)
        # A defect that lies nobody knows where teaches what the score of an image is, but nothing of tiles and pixels.
        known = truth.masks is not None or not masks_known
        with noting(images_noted(batch.image_path)):
            raw = predict(partial(_observe_tile, tiles, truth) if tiles and known else None)
        image.add(raw.scores, raw.maps if raw.has_maps and known else None, truth)
    return image


def _observe_tile(tiles: dict[str, Observed], truth: Truth, tile: Tile, raw: TilePrediction) -> None:
    tiles[tile.name].add(raw.scores, raw.maps, truth.cut(tile.rows, tile.columns))


def _masks_known(split: Split) -> bool:
    """Whether some defects of the validation images have masks, or there are none that need any."""
    anomalous = [sample for sample in split.calibration_samples if sample.label == 1]
    return split.has_masks and (not anomalous or any(sample.masks for sample in anomalous))


def _notes(split: Split) -> tuple[str, ...]:
    """Say what a reader of the results should know of the images."""
    samples = split.calibration_samples
    notes = []
    if unlabelled := sum(sample.label is None for sample in split.subset("val")):
        notes.append(f"{unlabelled} validation images are left out of calibration: their label is unknown.")
    if split.calibration_subset == "train":
        lack = "No validation image has a known label" if unlabelled else "There are no validation images"
        notes.append(f"{lack}: thresholds and normalization come from the training images.")
    if split.calibrated_on_test:
        notes.append("Validation images are test images: thresholds are tuned on what they are then measured on.")
    unmasked = sum(sample.label == 1 and not sample.masks for sample in samples) if _masks_known(split) else 0
    if unmasked:
        notes.append(f"{unmasked} anomalous validation images have no mask: tiles and pixels learn nothing from them.")
    notes += depth_notes(sample.image_path for sample in split.samples)
    notes += grey_mask_notes(split.samples)
    return tuple(notes)
