"""A picture of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.report import GIGABYTE, Comparison, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHADES = ("#31688e", "#8fb8d0")
REST: dict[str, Callable[[Result], float]] = {
    "peak memory, GB": lambda each: each.peak_memory / GIGABYTE,
    "disk, GB": lambda each: each.disk / GIGABYTE,
    "decodes per image": lambda each: each.decodes_per_image,
}


def draw(comparison: Comparison, path: Path) -> None:
    """Draw a bar for each program: wall time by phases, memory, disk, decodes.

    Args:
        comparison: The numbers.
        path: File of the picture; its ending says which format.
    """
    programs = comparison.programs
    figure = Figure(figsize=(12, 1.6 + 0.45 * len(programs)), layout="constrained")
    time, *others = figure.subplots(1, 1 + len(REST), sharey=True)
    _bars_of_time(time, programs)
    for axes, (title, part) in zip(others, REST.items(), strict=True):
        bars = axes.barh(range(len(programs)), [part(each) for each in comparison.totals], color=SHADES[0])
        axes.bar_label(bars, fmt="%.3g", padding=2)
        axes.set_title(title)
        axes.margins(x=0.25)
    names = [f"{total.program}\n{total.phase}" for total in comparison.totals]
    time.set_yticks(range(len(programs)), names)
    time.invert_yaxis()
    figure.suptitle(comparison.case.title, fontsize="medium")
    figure.savefig(path, dpi=120)


def _bars_of_time(axes: Axes, programs: list[list[Result]]) -> None:
    """Draw the phases of each program one behind the other, with their sum."""
    for position, phases in enumerate(programs):
        left = 0.0
        for number, phase in enumerate(phases):
            axes.barh(position, phase.seconds, left=left, color=SHADES[number % len(SHADES)])
            left += phase.seconds
        axes.annotate(f"{left:.3g}", (left, position), xytext=(2, 0), textcoords="offset points", va="center")
    axes.set_title("wall time, s (fit, test)")
    axes.margins(x=0.25)
