"""The numbers of a GPU: as Markdown, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import GIGABYTE, machine_in_words, table

if TYPE_CHECKING:
    from benchmarks.gpu_predict import PredictionTimes
    from benchmarks.measure import Usage

JSON, MARKDOWN = "results.json", "results.md"

FAILED = "failed"
"""Beginning of the note of a phase that failed."""

TITLES = (
    *("program", "phase", "wall, s", "GPU memory, GB", "of it tensors, GB", "memory, GB"),
    *("single image, ms", "images/s, 4 at a time", "16 at a time", "from files"),
)


@dataclass(frozen=True)
class Row:
    """A phase of a program.

    Args:
        case: The case in words.
        program: Name of the program.
        phase: Name of the phase.
        usage: Time and memory; ``None`` if it was not finished.
        gpu_memory: Most bytes of the GPU in use, beyond those before; ``None`` if it is not known.
        times: How long predictions take, for a phase that measures that.
        note: Why it was not finished; "" if it was.
    """

    case: str
    program: str
    phase: str
    usage: Usage | None = None
    gpu_memory: int | None = None
    times: PredictionTimes | None = None
    note: str = ""

    @property
    def cells(self) -> list[str]:
        """Its row of a table."""
        if self.usage is None:
            return [self.program, self.phase, self.note, *[""] * (len(TITLES) - 3)]
        seconds = self.usage.seconds if self.times is None else self.times.cold
        tensors = None if self.times is None else self.times.tensors
        memory = (_gigabytes(each) for each in (self.gpu_memory, tensors, self.usage.peak_memory))
        return [self.program, self.phase, f"{seconds:.1f}", *memory, *self._rates]

    @property
    def _rates(self) -> list[str]:
        if self.times is None:
            return [""] * 4
        rates = (*self.times.rates.values(), self.times.from_files)
        return [f"{1000 * self.times.single:.0f}", *("" if each is None else f"{each:.1f}" for each in rates)]


@dataclass
class GpuReport:
    """All numbers so far.

    Args:
        folder: Where they are written.
        card: The GPU in words.
        machine: The rest of the machine.
        rows: What was measured.
        tests: What pytest has said of the tests that need a GPU; "" if they were not run.
        left_out: What was not measured, and why.
    """

    folder: Path
    card: str
    machine: dict[str, str | int]
    rows: list[Row] = field(default_factory=list)
    tests: str = ""
    left_out: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write all numbers so far: a script that is ended later has left these."""
        content = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / JSON).write_text(json.dumps(content, indent=1), encoding="utf-8")
        (self.folder / MARKDOWN).write_text(f"{self.to_markdown()}\n", encoding="utf-8")

    @property
    def has_failures(self) -> bool:
        """Whether something failed, as opposed to being left out or ended."""
        return any(note.startswith(FAILED) for note in (self.tests, *(row.note for row in self.rows)))

    def to_markdown(self) -> str:
        """Lay out what was measured with, a table for each case, and what was left out."""
        cases = list(dict.fromkeys(row.case for row in self.rows))
        parts = [f"{self.card}; {machine_in_words(self.machine)}"]
        for case in cases:
            parts += [f"**{case}**", table(TITLES, [row.cells for row in self.rows if row.case == case])]
        if self.tests:
            parts.append(f"Tests that need a GPU: {self.tests}.")
        if self.left_out:
            parts.append(f"Left out: {'; '.join(self.left_out)}.")
        return "\n\n".join(parts)


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / GIGABYTE:.2f}"
