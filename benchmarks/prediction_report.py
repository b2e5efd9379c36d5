"""The numbers of all ways to predict: as Markdown tables, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import GIGABYTE, machine_in_words, table

if TYPE_CHECKING:
    from benchmarks.case import Case
    from benchmarks.map_quality import Quality
    from benchmarks.timing import Timing

NOT_MEASURED = "–"


@dataclass(frozen=True)
class Prepared:
    """What it took to make what predicts.

    Args:
        title: What was made.
        seconds: Wall time.
        peak_memory: Highest sum of the proportional set sizes of all its processes, in bytes.
        disk: Bytes that it takes on the disk.
    """

    title: str
    seconds: float
    peak_memory: int
    disk: int


@dataclass(frozen=True)
class Measured:
    """What a way to predict takes, and what its predictions are worth.

    Args:
        timing: Its times.
        peak_memory: As in `Prepared`, loading included.
        quality: Of the test images.
    """

    timing: Timing
    peak_memory: int
    quality: Quality


@dataclass(frozen=True)
class Row:
    """A way to predict.

    Args:
        title: Its name in tables.
        measured: Its numbers; ``None`` if it was left out.
        reason: Why it was left out.
    """

    title: str
    measured: Measured | None
    reason: str = ""


@dataclass(frozen=True)
class Predictions:
    """All numbers.

    Args:
        case: What was measured on.
        machine: What was measured with.
        rate: Share of the pixels of normal images that may be called anomalous when defects are counted.
        prepared: What was made, in its order.
        rows: The ways, in their order.
    """

    case: Case
    machine: dict[str, str | int]
    rate: float
    prepared: list[Prepared]
    rows: list[Row]

    @property
    def measured(self) -> list[tuple[str, Measured]]:
        """Titles and numbers of the ways that were not left out."""
        return [(row.title, row.measured) for row in self.rows if row.measured is not None]

    def write_json(self, path: Path) -> None:
        """Write everything."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def to_markdown(self) -> str:
        """Lay out what was measured with, the ways, and what it took to make what they need."""
        return "\n\n".join(filter(None, [self._described(), self._ways(), self._making()]))

    def _ways(self) -> str:
        titles = (
            *("way", "first image, s", "one image, s", "images/s", "peak memory, GB"),
            *("image AUROC", "pixel AUROC", "best pixel F1", "defects found", "small ones found"),
        )
        return table(titles, [_cells(row, len(titles)) for row in self.rows])

    def _making(self) -> str:
        if not self.prepared:
            return ""
        rows = [
            [each.title, f"{each.seconds:.1f}", f"{each.peak_memory / GIGABYTE:.2f}", f"{each.disk / GIGABYTE:.3f}"]
            for each in self.prepared
        ]
        return table(("what has to be made before", "wall, s", "peak memory, GB", "disk, GB"), rows)

    def _described(self) -> str:
        text = machine_in_words(self.machine)
        if not self.measured:
            return text
        quality = self.measured[0][1].quality
        return (
            f"{text} Defects are found at a threshold that {self.rate:.2%} of the pixels of normal images are above; "
            f"there are {quality.defects}, and the {quality.small} small ones have {quality.largest_small} pixels at "
            "most."
        )


def _cells(row: Row, columns: int) -> list[str]:
    if row.measured is None:
        return [row.title, f"left out: {_in_a_cell(row.reason)}", *[""] * (columns - 2)]
    timing, quality = row.measured.timing, row.measured.quality
    return [
        row.title,
        f"{timing.first:.1f}",
        NOT_MEASURED if timing.latency is None else f"{timing.latency:.3f}",
        NOT_MEASURED if timing.images_per_second is None else f"{timing.images_per_second:.2f}",
        f"{row.measured.peak_memory / GIGABYTE:.2f}",
        f"{quality.image_auroc:.4f}",
        f"{quality.pixel_auroc:.4f}",
        f"{quality.pixel_f1:.4f}",
        f"{quality.found} of {quality.defects}",
        f"{quality.small_found} of {quality.small}",
    ]


def _in_a_cell(text: str) -> str:
    """Give a text in which nothing ends a cell of a table."""
    return " ".join(text.replace("|", "/").split())
