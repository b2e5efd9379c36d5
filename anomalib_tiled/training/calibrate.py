"""Calibration: the stages learn from the predictions of the validation images."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from lightning.pytorch import seed_everything

from anomalib_tiled.calibration import Calibration, Observed, Truth
from anomalib_tiled.contracts import images_noted, noting
from anomalib_tiled.data.images import has_more_than_8_bits
from anomalib_tiled.progress import track
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.validation_scores import ValidationScores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch
    from anomalib.data import ImageBatch

    from anomalib_tiled.calibration import Level, Stages
    from anomalib_tiled.ensemble import TiledEnsemble
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.run import Run
    from anomalib_tiled.tile_model import TilePrediction

logger = logging.getLogger(__name__)


def calibrate(run: Run) -> Calibration:
    """Let the stages learn, those of the tiles first.

    One pass over the validation images is enough unless tiles are normalized and images thresholded: then the scale
    of the images is known only after the tiles have learned.

    Args:
        run: A run with all tiles trained. Its validation images are used; the training images if there are none.
    """
    ensemble = run.ensemble(Calibration())
    calibration = learn(ensemble, partial(_validation_images, run), partial(_keep, run))
    return replace(calibration, notes=_notes(run, ensemble.stages))


def learn(
    ensemble: TiledEnsemble,
    images: Callable[[], Iterable[ImageBatch]],
    on_images: Callable[[Observed], None] | None = None,
) -> Calibration:
    """Let the stages of an ensemble learn.

    Args:
        ensemble: The ensemble; what its stages learned from tiles is part of it afterwards.
        images: Gives the images to learn from, each time anew.
        on_images: Told the scores of whole images on the scale that they are predicted on, if they have been seen.
    """
    stages = ensemble.stages
    tiles = {tile.name: Observed() for tile in ensemble.grid.tiles} if stages.learn_from_tiles else {}
    image = _observe(ensemble, tiles, images())
    learned = {name: _learn_tile(stages, name, observed) for name, observed in tiles.items()}
    normal = sum(not observed.scores.has_anomalous for observed in tiles.values())
    logger.info("%d of %d tiles have no anomalous validation tile to learn a threshold from.", normal, len(tiles))
    calibration = Calibration(tiles=learned)
    if not stages.learn_from_images:
        if on_images is not None and stages.normalize_at != "tile":
            on_images(image)
        return calibration
    if stages.normalize_at == "tile":
        ensemble.calibration = calibration
        image = _observe(ensemble, {}, images())
    if on_images is not None:
        on_images(image)
    return replace(calibration, image=image.learn(stages, normalize=stages.normalize_at == "image"))


def _keep(run: Run, observed: Observed) -> None:
    scores = ValidationScores.of(observed)
    scores.write(run.folder.validation_scores_file, run.settings.calibration_hash)


def _learn_tile(stages: Stages, name: str, observed: Observed) -> Level:
    with noting(f"Tile: {name}."):
        return observed.learn(stages, normalize=stages.normalize_at == "tile", rule=stages.tile_rule)


def _validation_images(run: Run) -> Iterable[ImageBatch]:
    seed_everything(run.settings.seed_everything, workers=True, verbose=False)  # for augmentations, in every pass
    return track(run.images(run.split.calibration_subset), "Calibrating")


def _observe(ensemble: TiledEnsemble, tiles: dict[str, Observed], images: Iterable[ImageBatch]) -> Observed:
    """Count the scores of images, and of those tiles that there are distributions for."""
    image = Observed()
    for batch in images:
        pixels = cast("torch.Tensor", batch.image)
        truth = Truth.of(batch.gt_label, batch.gt_mask, len(pixels))
        with noting(images_noted(batch.image_path)):
            raw = ensemble.predict_raw(pixels, partial(_observe_tile, tiles, truth) if tiles else None)
        image.add(raw.scores, raw.maps if raw.has_maps else None, truth)
    return image


def _observe_tile(tiles: dict[str, Observed], truth: Truth, tile: Tile, raw: TilePrediction) -> None:
    tiles[tile.name].add(raw.scores, raw.maps, truth.cut(tile.rows, tile.columns))


def _notes(run: Run, stages: Stages) -> tuple[str, ...]:
    """Say what a reader of the results should know."""
    samples = run.split.subset(run.split.calibration_subset)
    notes = []
    if run.split.calibration_subset == "train":
        notes.append("There are no validation images: thresholds and normalization come from the training images.")
    if run.split.calibrated_on_test:
        notes.append("Validation images are test images: thresholds are tuned on what they are then measured on.")
    adaptive = isinstance(stages.thresholder, F1AdaptiveThreshold)
    if adaptive and not any(sample.label == 1 for sample in samples):
        notes.append("No validation image is anomalous: the threshold is the highest normal score.")
    if deep := sum(has_more_than_8_bits(sample.image_path) for sample in run.split.samples):
        notes.append(f"{deep} images have more than 8 bits per channel: anomalib reads values above 255 as white.")
    return tuple(notes)
