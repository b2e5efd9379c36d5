"""The hooks that anomalib-tiled loads: three stages, and a journal of tested runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anomalib_tiled import Aligner, SeamSmoother, Thresholder, hookimpl
from anomalib_tiled_factory import journal
from anomalib_tiled_factory.alignment import Silhouette
from anomalib_tiled_factory.seams import MedianSeams
from anomalib_tiled_factory.thresholding import MedianDeviation


@hookimpl
def register_aligners() -> Sequence[type[Aligner]]:
    """Give the aligner."""
    return [Silhouette]


@hookimpl
def register_seam_smoothers() -> Sequence[type[SeamSmoother]]:
    """Give the seam smoother."""
    return [MedianSeams]


@hookimpl
def register_thresholders() -> Sequence[type[Thresholder]]:
    """Give the threshold rule."""
    return [MedianDeviation]


@hookimpl
def run_tested(run_folder: Path, output: Path, metrics: Mapping[str, object]) -> None:
    """Append the metrics to the journal, if FACTORY_JOURNAL names one."""
    journal.append(run_folder=str(run_folder), output=str(output), metrics=dict(metrics))
