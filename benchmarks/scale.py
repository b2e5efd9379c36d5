"""What tiles and images cost, measured by simulation: a table of cost against their numbers, with the target of each.

No model is trained and no image is drawn: records, caches and predictions are made up, models have a few bytes. Each
set of rows is measured in a process of its own. Takes some minutes, and some GB in the folder of temporary files.

    python -m benchmarks.scale --tiles 2500 10000 20000 --images 50000
    python -m benchmarks.scale --markdown docs/performance.md
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import scale_calibration, scale_data, scale_runs
from benchmarks.machine import describe_machine
from benchmarks.page import write_section
from benchmarks.report import table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

IMAGES_OF_CALIBRATION = 2
"""Images that are calibrated and tested: their predictions are written in full, and cost is given for an image."""

TARGETS = {
    "`status`, with": "2 s",
    "`status`, without": "2 s",
    "listing predictions": "2 s",
    "calibration of tiles: this process": "50 ms, both",
    "calibration of images: this process": "50 ms, both",
    "opening the images in a worker": "nothing: the job carries it",
    "memory of a worker for images": "that of its tile",
    "images for which each block is opened once": "a constant number of times per batch",
}
"""What a row should be below, by the beginning of its name."""

MEMORY_TARGETS = {"`status`": "600 MB"}
"""The same of rows about memory."""

Row = tuple[str, float, str]
"""What was measured, its value, and the unit."""


class Scale(NamedTuple):
    """Numbers to simulate."""

    tiles: int
    images: int

    def __str__(self) -> str:
        """Write the numbers as the title of a column."""
        return f"{self.tiles:,} tiles, {self.images:,} images"


def main() -> None:
    """Measure the numbers of the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[2_500, 10_000, 20_000])
    parser.add_argument("--images", type=int, nargs="+", default=[50_000])
    parser.add_argument("--markdown", type=Path, help="page to write the table into")
    options = parser.parse_args()
    found = {scale: measured(scale) for scale in map(Scale._make, product(options.tiles, options.images))}
    machine = describe_machine()
    text = f"{machine['processor']}, {machine['cores']} cores.\n\n{scale_table(found)}"
    print(f"\n{text}")
    if options.markdown is not None:
        write_section(options.markdown, "scale", text)


def measured(scale: Scale) -> list[Row]:
    """Measure all rows of a number of tiles and images.

    Args:
        scale: The numbers.
    """
    print(f"{scale} ...", flush=True)
    return [
        *_in_own_process(scale_runs.rows, scale.tiles, scale.images),
        *_in_own_process(scale_data.rows, scale.tiles, scale.images),
        *_in_own_process(scale_calibration.rows, scale.tiles, IMAGES_OF_CALIBRATION),
    ]


def scale_table(found: Mapping[Scale, Sequence[Row]]) -> str:
    """Lay out what was measured: a line for each row, a column for each scale, then the target.

    Args:
        found: The rows of each scale; a scale may lack some.
    """
    values = {scale: {name: f"{value:.3g} {unit}" for name, value, unit in rows} for scale, rows in found.items()}
    names = dict.fromkeys(name for rows in values.values() for name in rows)
    lines = [[name, *(rows.get(name, "") for rows in values.values()), target_of(name)] for name in names]
    return table(("what", *map(str, found), "target"), lines)


def target_of(name: str) -> str:
    """Give what a row should be below; "" if nobody has said so."""
    targets = MEMORY_TARGETS if name.endswith("memory") else TARGETS
    return next((target for beginning, target in targets.items() if name.startswith(beginning)), "")


def _in_own_process(rows: Callable[[int, int], list[Row]], tiles: int, images: int) -> list[Row]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(rows, tiles, images).result()


if __name__ == "__main__":
    main()
