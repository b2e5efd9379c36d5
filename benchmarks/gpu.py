"""Measure on one GPU: this package, anomalib's own tiled ensemble and a bare loop, and run the tests that need a GPU.

It stops before its time is over: what matters most comes first, each phase of a program is a process of its own that is
ended when no time is left, and all numbers so far are written after each. Nothing is installed or downloaded.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --minutes 4 --only Padim
    python -m benchmarks.gpu --device cpu --tiny    # tries the plan where there is no GPU
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from benchmarks.efficient_ad import PENALTY, prepare
from benchmarks.gpu_memory import GpuWatch, card, in_use, watched
from benchmarks.gpu_plan import Entry, chosen, plan
from benchmarks.gpu_predict import PredictionTimes
from benchmarks.gpu_report import FAILED, GpuReport, Row
from benchmarks.machine import describe_machine
from benchmarks.measure import CHECKOUT, CommandError, LimitError, measured
from benchmarks.page import write_section

if TYPE_CHECKING:
    from benchmarks.programs import Phase, Program

MINUTES = 8.0
TO_FINISH = 10
"""Seconds to keep for the end: to end a command, to remove its run, and to write the numbers."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
TESTS = "tests"
MARK = "pytest.mark.gpu"
SHARE_OF_TESTS = 0.25
"""Most of the time that tests may take."""


@dataclass(frozen=True)
class Clock:
    """The time that is left.

    Args:
        end: When all must have ended, by `time.monotonic`.
    """

    end: float

    @property
    def left(self) -> float:
        """Seconds that a measurement may still take."""
        return self.end - monotonic() - TO_FINISH


@dataclass(frozen=True)
class Bench:
    """Measures entries of the plan, one after the other.

    Args:
        clock: The time that is left.
        report: Takes the numbers.
        output: Folder for images that are drawn; runs go into that of the report.
        gpu: Index or UUID of the GPU; ``None`` for the processor.
        before: Bytes of the GPU that other programs use.
    """

    clock: Clock
    report: GpuReport
    output: Path
    gpu: str | None
    before: int

    def measure(self, entry: Entry, *, keep: bool) -> None:
        """Measure the phases of a program as far as there is time.

        Args:
            entry: What to measure.
            keep: Whether its folder is kept.
        """
        if self._is_left_out(entry, ""):
            return
        program = entry.make(entry.case, entry.case.boards(self.output), self.report.folder / entry.name)
        shutil.rmtree(program.folder, ignore_errors=True)
        program.folder.mkdir(parents=True)
        program.configure()
        for phase in program.phases:
            if self._is_left_out(entry, f", {phase.name}"):
                break
            row = self._measured(entry, program, phase)
            self.report.rows.append(row)
            self.report.write()
            print(" | ".join(filter(None, (row.case, *row.cells))), flush=True)
            if row.note:
                break
        if not keep:
            shutil.rmtree(program.folder)

    def _is_left_out(self, entry: Entry, what: str) -> bool:
        left = self.clock.left
        if left >= entry.least:
            return False
        lack = f"{max(0, left):.0f} of at least {entry.least:.0f} s were left"
        self.report.left_out.append(f"{entry.name}{what} ({lack})")
        self.report.write()
        return True

    def _measured(self, entry: Entry, program: Program, phase: Phase) -> Row:
        log, limit = self.report.folder / f"{entry.name}-{phase.name}.log", self.clock.left
        usage, note = None, ""
        with self._watched() as watch:
            try:
                files = {"folder": program.folder, "log": log, "decodes": log.with_suffix(".decodes")}
                usage = measured(phase.arguments, **files, limit=limit)
            except LimitError:
                note = f"not done after {limit:.0f} s"
            except CommandError as error:
                print(error, file=sys.stderr)
                note = f"{FAILED}, see {log.name}"
        times = PredictionTimes.read(program.folder) if phase.name == "predict" and not note else None
        peak = None if watch is None else watch.peak
        return Row(entry.case.title, program.name, phase.name, usage, peak, times, note)

    def _watched(self) -> AbstractContextManager[GpuWatch | None]:
        return nullcontext() if self.gpu is None else watched(self.gpu, self.before)

    def test(self) -> None:
        """Run the tests that need a GPU."""
        if find_spec("pytest") is None:
            self.report.left_out.append(f"{TESTS} (pytest is not installed)")
            return
        log, limit = self.report.folder / f"{TESTS}.log", SHARE_OF_TESTS * self.clock.left
        files = [
            str(path) for path in sorted((CHECKOUT / "tests").rglob("test_*.py")) if MARK in path.read_text("utf-8")
        ]
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *files]
        began = monotonic()
        try:
            with log.open("wb") as out:
                done = subprocess.run(command, cwd=CHECKOUT, stdout=out, stderr=out, timeout=limit, check=False)  # noqa: S603
            self.report.tests = f"{FAILED}: {_last_line(log)}" if done.returncode else _last_line(log)
        except subprocess.TimeoutExpired:
            self.report.tests = f"not done after {monotonic() - began:.0f} s, see {log.name}"
        print(f"Tests: {self.report.tests}", flush=True)
        self.report.write()


def main() -> None:
    """Measure what the command line names."""
    began = monotonic()
    parser, options = _options()
    folder, clock = (options.output / "gpu").absolute(), Clock(began + 60 * options.minutes)
    cache = folder / "cache"
    entries = {entry.name: entry for entry in plan(options.device, cache / PENALTY, tiny=options.tiny)}
    try:
        names = chosen([TESTS, *entries], options.only)
    except ValueError as error:
        parser.error(str(error))
    gpu = _gpu(parser, options.device)
    shutil.rmtree(folder, ignore_errors=True)
    prepare(cache)
    report = GpuReport(folder, "No GPU" if gpu is None else card(gpu), describe_machine())
    bench = Bench(clock, report, options.output, gpu, 0 if gpu is None else in_use(gpu))
    for name in names:
        if name == TESTS:
            bench.test()
        else:
            bench.measure(entries[name], keep=options.keep)
    print(f"\n{report.to_markdown()}\n\nNumbers: {folder}")
    if options.markdown is not None:
        write_section(options.markdown, "gpu", f"### {report.card}\n\n{report.to_markdown()}")
    sys.exit(report.has_failures)


def _options() -> tuple[ArgumentParser, Namespace]:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="where models are")
    parser.add_argument("--tiny", action="store_true", help="a few tiny images: tries the plan, measures nothing")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="when to stop (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", default=[], help="parts of names: tests, Padim, 1024-reference (default: all)"
    )
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder for images and numbers")
    parser.add_argument("--keep", action="store_true", help="keep the runs, which take much disk space")
    parser.add_argument("--markdown", type=Path, help="page to write the numbers into, in place of earlier ones")
    return parser, parser.parse_args()


def _gpu(parser: ArgumentParser, device: str) -> str | None:
    """Choose one GPU, which every command that starts from now on sees alone; ``None`` for the processor."""
    if device == "cpu":
        return None
    gpu = os.environ.setdefault(VISIBLE, "0").split(",")[0]
    os.environ[VISIBLE] = gpu
    import torch  # takes seconds, and reads the variable

    if not torch.cuda.is_available():
        parser.error(f"PyTorch sees no GPU ({VISIBLE} is {gpu!r}). To try the plan without one: --device cpu --tiny.")
    return gpu


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].strip("= ") if lines else "nothing was said"


if __name__ == "__main__":
    main()
