"""The numbers of a comparison: as values, as Markdown tables, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.case import Case

GIGABYTE = 1e9
REFERENCE = "anomalib's own"
TOLERANCE = 0.005
"""How much lower than the reference's a metric may be before that is said."""

COLUMNS = ("wall, s", "processor, s", "peak memory, GB", "disk, GB", "decodes per image", "image AUROC", "pixel AUROC")


@dataclass(frozen=True)
class Result:
    """Time, memory and results of one phase of a program, or of all phases together.

    Args:
        program: Name of the program.
        phase: Name of the phase.
        seconds: Wall time.
        processor_seconds: Processor time of all its processes, user and system.
        peak_memory: Highest sum of the proportional set sizes of all its processes, in bytes.
        disk: Bytes on the disk in the program's folder when the phase had ended.
        image_decodes: Number of times that an image was decoded.
        mask_decodes: Number of times that a mask was decoded.
        images: Number of images that it works on.
        metrics: Metrics of the test images, from the phase that tests.
    """

    program: str
    phase: str
    seconds: float
    processor_seconds: float
    peak_memory: int
    disk: int
    image_decodes: int
    mask_decodes: int
    images: int
    metrics: dict[str, float]

    @classmethod
    def together(cls, phases: list[Result]) -> Result:
        """Add up the phases of a program."""
        last = phases[-1]
        return cls(
            program=last.program,
            phase=" + ".join(each.phase for each in phases),
            seconds=sum(each.seconds for each in phases),
            processor_seconds=sum(each.processor_seconds for each in phases),
            peak_memory=max(each.peak_memory for each in phases),
            disk=last.disk,
            image_decodes=sum(each.image_decodes for each in phases),
            mask_decodes=sum(each.mask_decodes for each in phases),
            images=max(each.images for each in phases),
            metrics=last.metrics,
        )

    @classmethod
    def middle(cls, results: list[Result]) -> Result:
        """Give the medians of one phase that was measured several times."""
        first = results[0]
        return cls(
            program=first.program,
            phase=first.phase,
            seconds=median(each.seconds for each in results),
            processor_seconds=median(each.processor_seconds for each in results),
            peak_memory=int(median(each.peak_memory for each in results)),
            disk=int(median(each.disk for each in results)),
            image_decodes=int(median(each.image_decodes for each in results)),
            mask_decodes=int(median(each.mask_decodes for each in results)),
            images=first.images,
            metrics={name: median(each.metrics[name] for each in results) for name in first.metrics},
        )

    @property
    def decodes_per_image(self) -> float:
        """How often each image was decoded, on average."""
        return self.image_decodes / self.images


@dataclass(frozen=True)
class Comparison:
    """All numbers of a comparison.

    Args:
        case: What was measured on.
        machine: What was measured with.
        start: Seconds that importing anomalib takes; they are part of every phase.
        results: The phases, programs one after the other; all of them again for each repetition.
        failures: Programs that could not be measured, with their phases.
    """

    case: Case
    machine: dict[str, str | int]
    start: float
    results: list[Result] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def programs(self) -> list[list[Result]]:
        """The phases of each program, medians of all repetitions; ``train`` is a program by itself."""
        found: dict[tuple[str, bool], dict[str, list[Result]]] = {}
        for result in self.results:
            phases = found.setdefault((result.program, result.phase == "train"), {})
            phases.setdefault(result.phase, []).append(result)
        return [[Result.middle(results) for results in phases.values()] for phases in found.values()]

    @property
    def repeats(self) -> int:
        """How often a phase was measured."""
        first = self.results[0]
        return sum((each.program, each.phase) == (first.program, first.phase) for each in self.results)

    @property
    def totals(self) -> list[Result]:
        """All phases of each program together."""
        return [Result.together(phases) for phases in self.programs]

    def write_json(self, path: Path) -> None:
        """Write everything."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    def to_markdown(self) -> str:
        """Lay out what was measured with, the table, and how the programs compare with the reference."""
        parts = [
            _described(self.machine, self.start, self.repeats),
            self._table(),
            self._ratios(),
            self._doubts(),
            self._failed(),
        ]
        return "\n\n".join(filter(None, parts))

    @property
    def reference(self) -> Result | None:
        """All phases of the reference together, if it was measured."""
        return next((each for each in self.totals if each.program == REFERENCE), None)

    def _table(self) -> str:
        rows = []
        for phases in self.programs:
            rows += [_row(each) for each in phases]
            if len(phases) > 1:
                rows.append(_row(Result.together(phases)))
        return table(("program", "phase", *COLUMNS), rows)

    def _ratios(self) -> str:
        """Say what the programs take of what the reference takes; nothing if that was not measured."""
        reference = self.reference
        if reference is None:
            return ""
        parts: dict[str, Callable[[Result], float]] = {
            "wall time": lambda each: each.seconds,
            "processor time": lambda each: each.processor_seconds,
            "peak memory": lambda each: each.peak_memory,
            "disk": lambda each: each.disk,
            "decodes": lambda each: each.image_decodes,
        }
        rows = [
            [each.program, each.phase, *(f"{part(each) / part(reference):.2f}" for part in parts.values())]
            for each in self.totals
            if each.program != REFERENCE
        ]
        return table((f"of what {REFERENCE} takes", "phase", *parts), rows) if rows else ""

    def _doubts(self) -> str:
        """Say where a program is less right than the reference: then its other numbers are worth little."""
        known = self.reference.metrics if self.reference else {}
        return "\n\n".join(
            f"Doubt: {name} of {each.program}, {each.phase}, is {known[name] - value:.4f} lower than {REFERENCE}."
            for each in self.totals
            for name, value in each.metrics.items()
            if name in known and value < known[name] - TOLERANCE
        )

    def _failed(self) -> str:
        return f"Failed, so not measured: {', '.join(self.failures)}." if self.failures else ""


def table(titles: tuple[str, ...], rows: list[list[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(result: Result) -> list[str]:
    return [
        result.program,
        result.phase,
        f"{result.seconds:.1f}",
        f"{result.processor_seconds:.1f}",
        f"{result.peak_memory / GIGABYTE:.2f}",
        f"{result.disk / GIGABYTE:.3f}",
        f"{result.decodes_per_image:.1f}",
        *(f"{result.metrics[name]:.4f}" if name in result.metrics else "" for name in ("image_AUROC", "pixel_AUROC")),
    ]


def machine_in_words(machine: dict[str, str | int]) -> str:
    """Say what was measured with.

    Args:
        machine: What `benchmarks.machine.describe_machine` gives.
    """
    versions = ", ".join(f"{name} {machine[name]}" for name in ("anomalib", "torch", "python"))
    memory = f"{int(machine['memory']) / GIGABYTE:.0f} GB"
    return (
        f"{machine['cores']} cores of {machine['processor']}, {memory}, {versions}, "
        f"OMP_NUM_THREADS {machine['OMP_NUM_THREADS']}."
    )


def _described(machine: dict[str, str | int], start: float, repeats: int) -> str:
    text = f"{machine_in_words(machine)} Importing anomalib alone takes {start:.1f} s; that is in every phase."
    return text if repeats == 1 else f"{text} Medians of {repeats} runs of all programs in turn."
