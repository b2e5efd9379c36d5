"""A picture of all ways to predict: defects found against time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.map_quality import Quality
    from benchmarks.prediction_report import Predictions

SHARES: dict[str, Callable[[Quality], float]] = {
    "small defects found": lambda quality: quality.small_found / quality.small,
    "pixel AUROC": lambda quality: quality.pixel_auroc,
}


def draw(predictions: Predictions, path: Path) -> None:
    """Draw a point for each way whose time was measured.

    Args:
        predictions: The numbers.
        path: File of the picture; its ending says which format.
    """
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, (title, share) in zip(figure.subplots(1, len(SHARES)), SHARES.items(), strict=True):
        _points(axes, predictions, share)
        axes.set_title(title)
    figure.suptitle(predictions.case.title, fontsize="medium")
    figure.savefig(path, dpi=120)


def _points(axes: Axes, predictions: Predictions, share: Callable[[Quality], float]) -> None:
    for number, (title, measured) in enumerate(predictions.measured):
        if (rate := measured.timing.images_per_second) is None:
            continue
        marker = "os^Dvp*X"[number % 8]
        label = title.replace("`", "")
        axes.plot(1 / rate, share(measured.quality), marker, color=f"C{number}", markersize=9, label=label, alpha=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("seconds per image")
    axes.margins(0.15)
    if axes.lines:
        axes.legend(fontsize="small")
