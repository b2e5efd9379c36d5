"""The stages that come with the package, registered as any plugin's are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.plugins import hookimpl
from anomalib_tiled.stages import merging, normalization, scoring, seams, thresholding
from anomalib_tiled.training.workers import LocalWorkers

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        thresholding.ManualThreshold,
        thresholding.QuantileThreshold,
        thresholding.ExtremeValueThreshold,
    ]


@hookimpl
def register_workers() -> Sequence[type]:
    """Give the built-in workers."""
    return [LocalWorkers]
