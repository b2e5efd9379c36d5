"""Compare anomalib's own tiled ensemble, this package, and a bare loop: time, memory, disk, decodes, metrics.

All work on the same drawn circuit boards, with the same random first weights, on processors, one after the other, each
phase in a fresh process. The numbers are printed as a Markdown table, and written with a picture into a folder.

    python -m benchmarks.compare
    python -m benchmarks.compare --repeats 3
    python -m benchmarks.compare --image_size 2048 --markdown docs/performance.md
    python -m benchmarks.compare --model Fastflow --programs reference,tiled
"""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.system.limits import cores
from benchmarks.case import LEARN_BY_EPOCHS, MODELS, Case
from benchmarks.decodes import Decodes
from benchmarks.machine import describe_machine
from benchmarks.measure import CommandError, disk_of, measured
from benchmarks.page import write_section
from benchmarks.plot import draw
from benchmarks.programs import Phase, Program, programs
from benchmarks.report import Comparison, Result

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTPUT = Path("results/benchmarks")
IMPORTS = "import anomalib.data, anomalib.engine, anomalib.models"


def main() -> None:
    """Measure the case of the command line."""
    parser = parser_of_cases(__doc__)
    parser.add_argument("--programs", help="some of reference,tiled,budget,train,loop (default: reference,tiled,loop)")
    parser.add_argument(
        "--processes",
        type=int,
        nargs="+",
        default=[cores()],
        help="processes of tiled and loop; several to measure each (default: one for each core, as tiled does)",
    )
    parser.add_argument("--repeats", type=int, default=1, help="measure all programs this often, in turn")
    options = parser.parse_args()
    try:
        case = case_of(options)
        folder = options.output.absolute() / case.name
        names = options.programs.split(",") if options.programs else _programs_for(case)
        programs(names, case, folder, folder, options.processes)  # before anything is drawn
    except ValueError as error:
        parser.error(str(error))
    chosen = programs(names, case, case.boards(options.output), folder, options.processes)
    print(f"{case.title}\n", flush=True)
    start = _start(folder)
    comparison = Comparison(case, describe_machine(), start)
    for program in chosen * options.repeats:
        try:
            comparison.results.extend([*results_of(program, keep=options.keep)])
        except CommandError as error:
            print(error, file=sys.stderr)
            comparison.failures.append(f"{program.name} ({' + '.join(phase.name for phase in program.phases)})")
        comparison.write_json(folder / "results.json")  # these numbers stay if the next program fails
    if comparison.results:
        draw(comparison, folder / "results.png")
    print(f"\n{comparison.to_markdown()}\n\nNumbers and picture: {folder}")
    if options.markdown is not None and not comparison.failures:  # an earlier table may be complete
        write_section(options.markdown, case.name, f"## {case.title}\n\n{comparison.to_markdown()}")
    sys.exit(bool(comparison.failures))


def parser_of_cases(description: str | None) -> ArgumentParser:
    """Give a parser of the arguments of a case.

    Args:
        description: Description of the command.
    """
    parser, defaults = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter), Case()
    parser.add_argument("--image_size", type=int, default=defaults.image_size, help="side of the images, in pixels")
    parser.add_argument("--tile_size", type=int, default=defaults.tile_size, help="side of a tile, in pixels")
    parser.add_argument("--train", type=int, default=defaults.train, help="number of training images")
    parser.add_argument("--test", type=int, default=defaults.test, help="number of test images")
    parser.add_argument("--model", choices=list(MODELS), default=defaults.model, help="anomalib's name of the model")
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help=f"of {', '.join(LEARN_BY_EPOCHS)}")
    parser.add_argument("--train_batch", type=int, default=defaults.train_batch, help="training tiles at a time")
    parser.add_argument("--eval_batch", type=int, default=defaults.eval_batch, help="test images at a time")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for images, runs and numbers")
    parser.add_argument("--keep", action="store_true", help="keep the runs, which take much disk space")
    parser.add_argument("--markdown", type=Path, help="page to write the table into, in place of an earlier one")
    return parser


def case_of(options: Namespace) -> Case:
    """Read the case from the command line.

    Raises:
        ValueError: It cannot be run.
    """
    return Case(**{field.name: getattr(options, field.name) for field in fields(Case) if field.name in options})


def results_of(program: Program, *, keep: bool) -> Iterator[Result]:
    """Measure the phases of a program, in a new folder.

    Args:
        program: The program.
        keep: Whether the folder is kept.

    Raises:
        CommandError: A phase failed; its folder is kept.
    """
    shutil.rmtree(program.folder, ignore_errors=True)
    program.folder.mkdir(parents=True)
    program.configure()
    for phase in program.phases:
        result = _measure(program, phase)
        print(f"{result.program}, {result.phase}: {result.seconds:.1f} s", flush=True)
        yield result
    if not keep:
        shutil.rmtree(program.folder)


def _measure(program: Program, phase: Phase) -> Result:
    folder, case = program.folder, program.case
    notes = folder.with_name(f"{folder.name}-{phase.name}")
    log, decodes = notes.with_suffix(".log"), notes.with_suffix(".decodes")
    usage = measured(phase.arguments, folder=folder, log=log, decodes=decodes)
    counted = Decodes.read(decodes, program.boards)
    return Result(
        program=program.name,
        phase=phase.name,
        seconds=usage.seconds,
        processor_seconds=usage.processor_seconds,
        peak_memory=usage.peak_memory,
        disk=disk_of(folder),
        image_decodes=counted.images,
        mask_decodes=counted.masks,
        images=case.test + (case.train if phase.trains else 0),
        metrics=program.metrics() if phase == program.phases[-1] else {},
    )


def _programs_for(case: Case) -> list[str]:
    return ["reference", "tiled", *([] if case.model in LEARN_BY_EPOCHS else ["loop"])]


def _start(folder: Path) -> float:
    """Measure how long anomalib takes to import, once its files have been read from the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    log, decodes = folder / "start.log", folder / "start.decodes"
    return min(measured(["-c", IMPORTS], folder=folder, log=log, decodes=decodes).seconds for _ in range(2))


if __name__ == "__main__":
    main()
