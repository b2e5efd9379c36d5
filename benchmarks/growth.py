"""Measure whether the peak memory of this package grows with the number of images.

Runs ``fit`` and ``test`` with the given numbers of images, then with several times as many test images (which are the
validation images, too), then with several times as many training images.

    python -m benchmarks.growth --image_size 512 --train 12 --test 12
    python -m benchmarks.growth --markdown docs/performance.md
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from benchmarks.case import Case
from benchmarks.compare import case_of, parser_of_cases, results_of
from benchmarks.machine import describe_machine
from benchmarks.page import write_section
from benchmarks.programs import Tiled
from benchmarks.report import GIGABYTE, Result, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def main() -> None:
    """Measure the case of the command line, and those with more images."""
    parser = parser_of_cases(__doc__)
    parser.add_argument("--factor", type=int, default=4, help="how many times as many images")
    parser.add_argument("--processes", type=int, default=1, help="processes of fit")
    options = parser.parse_args()
    try:
        case = case_of(options)
    except ValueError as error:
        parser.error(str(error))
    found: dict[Case, list[Result]] = {}
    for each in grown(case, options.factor):
        folder = options.output.absolute() / f"growth-{each.name}"
        program = Tiled(each, each.boards(options.output), folder / "tiled", options.processes)
        print(each.title, flush=True)
        found[each] = list(results_of(program, keep=options.keep))
    content = [{"case": asdict(each), "results": [asdict(result) for result in found[each]]} for each in found]
    file = options.output / f"growth-{case.name}.json"
    file.write_text(json.dumps({"machine": describe_machine(), "cases": content}, indent=1), encoding="utf-8")
    text = growth_table(found)
    print(f"\n{text}\n\nNumbers: {file}")
    if options.markdown is not None:
        title = f"{case.model}, {case.image_size} × {case.image_size} pixels in {case.tiles} tiles"
        write_section(options.markdown, f"growth-{case.name}", f"## Growth: {title}\n\n{text}")


def grown(case: Case, factor: int) -> list[Case]:
    """Give the case, and those with more images.

    Args:
        case: The first case.
        factor: How many times as many images.
    """
    return [case, replace(case, test=factor * case.test), replace(case, train=factor * case.train)]


def growth_table(found: Mapping[Case, Sequence[Result]]) -> str:
    """Lay out peak memory of each phase, also relative to the first case.

    Args:
        found: Results of each case, that with the fewest images first.
    """
    first = next(iter(found.values()))
    rows = [
        [
            str(case.train),
            str(case.test),
            *(
                f"{result.peak_memory / GIGABYTE:.2f} ({result.peak_memory / before.peak_memory:.2f} ×)"
                for result, before in zip(results, first, strict=True)
            ),
        ]
        for case, results in found.items()
    ]
    return table(("training images", "test images", *(f"{each.phase}: peak memory, GB" for each in first)), rows)


if __name__ == "__main__":
    main()
