"""The built-in stages, registered by the same hooks as those of any plugin."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalib.data import ImageItem

from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.grid import Tile
from anomalib_tiled.plugins import hookimpl
from anomalib_tiled.results.prediction_row import decision_on
from anomalib_tiled.stages import (
    aligners,
    alignment,
    assignment,
    global_model,
    merging,
    normalization,
    regions,
    scoring,
    seams,
    thresholding,
)
from anomalib_tiled.stages.workers import Workers
from anomalib_tiled.workers.local import LocalWorkers
from anomalib_tiled.workers.ray import RayWorkers
from anomalib_tiled.workers.slurm import SlurmWorkers

logger = logging.getLogger(__name__)


@hookimpl
def register_aligners() -> Sequence[type[alignment.Aligner]]:
    """Give the built-in aligners."""
    return [aligners.Translation, aligners.Rigid, aligners.Affine, aligners.Homography]


@hookimpl
def register_regions() -> Sequence[type[regions.Regions]]:
    """Give the built-in regions."""
    return [regions.Regions]


@hookimpl
def register_assignments() -> Sequence[type[assignment.Assignment]]:
    """Give the built-in assignments."""
    return [assignment.PerTile, assignment.Shared, assignment.Grid, assignment.Clusters, assignment.Groups]


@hookimpl
def register_global_models() -> Sequence[type[global_model.GlobalModel]]:
    """Give the built-in global models."""
    return [global_model.GlobalModel, global_model.WeightedMean]


@hookimpl
def register_mergers() -> Sequence[type[merging.Merger]]:
    """Give the built-in mergers."""
    return [merging.Mean, merging.Gaussian, merging.Hann, merging.Max]


@hookimpl
def register_scorers() -> Sequence[type[scoring.Scorer]]:
    """Give the built-in scorers."""
    return [scoring.Max, scoring.Mean, scoring.TopK]


@hookimpl
def register_seam_smoothers() -> Sequence[type[seams.SeamSmoother]]:
    """Give the built-in seam smoother."""
    return [seams.GaussianSeams]


@hookimpl
def register_normalizers() -> Sequence[type[normalization.Normalizer]]:
    """Give the built-in normalizers."""
    return [normalization.MinMax, normalization.Quantile, normalization.Standardize]


@hookimpl
def register_thresholders() -> Sequence[type[thresholding.Thresholder]]:
    """Give the built-in threshold rules."""
    return [
        thresholding.F1AdaptiveThreshold,
        thresholding.CostThreshold,
        thresholding.ManualThreshold,
        thresholding.QuantileThreshold,
        thresholding.ExtremeValueThreshold,
    ]


@hookimpl
def register_workers() -> Sequence[type[Workers]]:
    """Give the built-in workers."""
    return [LocalWorkers, RayWorkers, SlurmWorkers]


@hookimpl
def tile_trained(tile: Tile, seconds: float, epochs: int) -> None:
    """Log that a tile was trained."""
    logger.info("Tile %s: trained in %.1f s, epochs: %d.", tile.name, seconds, epochs)


@hookimpl
def run_calibrated(calibration: Calibration) -> None:
    """Log what the stages learned."""
    logger.info("Calibrated: %s.", calibration.image or f"{len(calibration.tiles)} tiles")
    for note in calibration.notes:
        logger.info("%s", note)


@hookimpl
def image_predicted(prediction: ImageItem) -> None:
    """Log the prediction of an image."""
    logger.info("%s", decision_on(prediction))


@hookimpl
def run_tested(output: Path, metrics: Mapping[str, object]) -> None:
    """Log the metrics."""
    logger.info("Results in %s: %s.", output, ", ".join(f"{name} {value}" for name, value in metrics.items()))
