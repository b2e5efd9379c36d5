"""Compare ways to predict: time of an image, images per second, memory, and which defects are found.

A tiled ensemble and single models are trained on drawn circuit boards. Then the same test images are predicted by the
ensemble in Python and on the command line, by its tile models one after the other with anomalib's ``Engine``, by its
exports, and by one model on whole images and one on shrunk images. Each way is measured in a fresh
process, one after the other.

    python -m benchmarks.predicting
    python -m benchmarks.predicting --image_size 512 --tile_size 128 --train 8 --test 8
    python -m benchmarks.predicting --ways python,shrunk --markdown docs/speed.md
    python -m benchmarks.predicting --leave_out "whole=it would need 20 GB"
"""

from __future__ import annotations

import shutil
from argparse import Namespace

from benchmarks.compare import case_of, parser_of_cases
from benchmarks.machine import describe_machine
from benchmarks.page import write_section
from benchmarks.prediction_plot import draw
from benchmarks.prediction_report import Predictions, Row
from benchmarks.ways import WAYS, Bench

RATE = 0.001


def main() -> None:
    """Measure the ways of the command line."""
    options = _options()
    case, folder = options.case, options.output.absolute() / f"predicting-{options.case.name}"
    shutil.rmtree(folder / "work", ignore_errors=True)
    (folder / "work").mkdir(parents=True)
    print(f"{case.title}\n", flush=True)
    bench = Bench(case, case.boards(options.output), folder / "work", options.repeats, options.rate)
    rows = []
    for name in options.ways:
        reason = options.leave_out.get(name)
        row = bench.row(name) if reason is None else Row(WAYS[name].title, None, reason)
        print(f"{row.title}: {f'left out: {row.reason}' if row.reason else 'measured'}", flush=True)
        rows.append(row)
        predictions = Predictions(case, describe_machine(), options.rate, list(bench.prepared.values()), rows)
        predictions.write_json(folder / "results.json")  # after each, so that a failure loses nothing
        if not options.keep:
            bench.clear(name)
    draw(predictions, folder / "results.png")
    if not options.keep:
        shutil.rmtree(folder / "work")
    print(f"\n{predictions.to_markdown()}\n\nNumbers and picture: {folder}")
    if options.markdown is not None:
        write_section(options.markdown, f"predicting-{case.name}", f"## {case.title}\n\n{predictions.to_markdown()}")


def chosen_ways(names: str) -> list[str]:
    """Give the ways that are named, in the order of all.

    Args:
        names: Names with commas between them; empty for all.

    Raises:
        ValueError: There is no such way.
    """
    asked = names.split(",") if names else list(WAYS)
    for name in asked:
        _check_way(name)
    return [name for name in WAYS if name in asked]


def reasons(given: list[str]) -> dict[str, str]:
    """Give why ways are left out, by their names.

    Args:
        given: Texts such as ``whole=it would need 20 GB``.

    Raises:
        ValueError: There is no such way, or no reason.
    """
    pairs = [text.partition("=") for text in given]
    for name, _, reason in pairs:
        _check_way(name)
        if not reason:
            message = f"--leave_out must give a reason, found {name!r} alone. Write --leave_out '{name}=the reason'."
            raise ValueError(message)
    return {name: reason for name, _, reason in pairs}


def check_numbers(repeats: int, rate: float) -> None:
    """Check how often and at which rate is measured.

    Raises:
        ValueError: There is nothing to measure.
    """
    if repeats < 1:
        message = f"--repeats must be at least 1, found {repeats}."
        raise ValueError(message)
    if not 0 <= rate < 1:
        message = f"--rate must be from 0 to less than 1, found {rate}. It is a share of pixels, such as {RATE}."
        raise ValueError(message)


def _check_way(name: str) -> None:
    if name not in WAYS:
        message = f"Ways are {', '.join(WAYS)}, found {name!r}."
        raise ValueError(message)


def _options() -> Namespace:
    """Read the command line; case, ways and reasons are checked and ready."""
    parser = parser_of_cases(__doc__)
    parser.add_argument("--ways", default="", help=f"some of {','.join(WAYS)} (default: all)")
    parser.add_argument("--leave_out", action="append", default=[], metavar="WAY=REASON", help="a way to leave out")
    parser.add_argument("--repeats", type=int, default=9, help="how often the time of a single image is taken")
    parser.add_argument(
        "--rate", type=float, default=RATE, help="share of normal pixels above the threshold at which defects count"
    )
    options = parser.parse_args()
    try:
        options.case, options.ways = case_of(options), chosen_ways(options.ways)
        options.leave_out = reasons(options.leave_out)
        check_numbers(options.repeats, options.rate)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    main()
