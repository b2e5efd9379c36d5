"""Calibration: the stages learn from the predictions of the validation images."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lightning.pytorch import seed_everything

from anomalib_tiled.calibration import Calibration, Observed, Truth
from anomalib_tiled.data.images import has_more_than_8_bits
from anomalib_tiled.progress import track
from anomalib_tiled.stages.distribution import TILE_BITS
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold

if TYPE_CHECKING:
    from anomalib_tiled.calibration import Stages
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
    stages, notes = ensemble.stages, _notes(run, ensemble.stages)
    tiles = {tile.name: Observed(TILE_BITS) for tile in run.grid.tiles} if stages.learn_from_tiles else {}
    image, normalize_tiles = Observed(), stages.normalize_at == "tile"
    _observe(run, ensemble, tiles, image)
    learned = {
        name: observed.learn(stages, normalize=normalize_tiles, rule=stages.tile_rule)
        for name, observed in tiles.items()
    }
    normal = sum(not observed.scores.has_anomalous for observed in tiles.values())
    logger.info("%d of %d tiles have no anomalous validation tile to learn a threshold from.", normal, len(tiles))
    calibration = Calibration(tiles=learned, notes=notes)
    if not stages.learn_from_images:
        return calibration
    if normalize_tiles:
        ensemble.calibration, image = calibration, Observed()
        _observe(run, ensemble, {}, image)
    return replace(calibration, image=image.learn(stages, normalize=stages.normalize_at == "image"))


def _observe(run: Run, ensemble: TiledEnsemble, tiles: dict[str, Observed], image: Observed) -> None:
    """Count the scores of images, and of those tiles that there are distributions for."""
    seed_everything(run.settings.seed_everything, workers=True, verbose=False)  # for augmentations, in every pass
    for batch in track(run.images(run.split.calibration_subset), "Calibrating"):
        truth = Truth.of(batch.gt_label, batch.gt_mask, len(batch.image))
        raw = ensemble.predict_raw(batch.image, partial(_observe_tile, tiles, truth) if tiles else None)
        image.add(raw.scores, raw.maps if raw.has_maps else None, truth)


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
