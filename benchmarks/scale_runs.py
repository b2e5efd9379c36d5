"""What a run of many tiles costs its commands, measured by simulation: made-up records, models of a few bytes.

Seconds are those of the processor. A network drive adds its time for each file that is opened or looked at.

python -m benchmarks.scale_runs --tiles 10000 --images 50000
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.ensemble.spread import Spread, lend, lenders_of
from anomalib_tiled.ensemble.tile_job import TileJob
from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.ensemble.tile_predictions import RECORD, VALUE, TilePredictions
from anomalib_tiled.results.tile_metrics import TileMeasurements
from anomalib_tiled.runs.checkpoints import VerifiedCheckpoints
from anomalib_tiled.system.allocation import long_lived_kept_apart
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.training.stored_predictions import PredictionJob
from benchmarks.made_up_run import make_run
from benchmarks.rows import Row, print_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomalib_tiled.grid import TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder

WRITTEN = 200
"""Tiles whose predictions are written, among those of all others."""

MEASURING = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""
"""A small program that runs another one: what a process starts counts the memory of that process as its own."""


def rows(tiles: int, images: int) -> list[Row]:
    """Measure what commands do with all tiles.

    Args:
        tiles: Number of tiles; rounded up to a square.
        images: Number of images whose predictions are stored.
    """
    with TemporaryDirectory() as folder, long_lived_kept_apart():
        run, settings, grid = make_run(Path(folder) / "v0", tiles)
        job = TileJob(run, settings, grid)
        simulation = Simulation(job, images)
        return [*simulation.states(), *simulation.predictions(), *simulation.stages()]


@dataclass(frozen=True)
class Simulation:
    """Commands of a made-up run.

    Args:
        job: The run.
        images: Number of images whose predictions are stored.
    """

    job: TileJob
    images: int

    @property
    def folder(self) -> RunFolder:
        """The run folder."""
        return self.job.folder

    @property
    def grid(self) -> TileGrid:
        """Where the tiles lie."""
        return self.job.grid

    def states(self) -> Iterator[Row]:
        """Look at the tiles, first without the index of their records, then with it."""
        settings, check = self.job.settings, VerifiedCheckpoints
        for which in ("without an index", "with its index"):
            seconds, megabytes = _command("status", "--ckpt_dir", str(self.folder.path))
            yield f"`status`, {which}", seconds, "s"
            yield f"`status`, {which}: memory", megabytes, "MB"
            left = partial(self.folder.to_train, self.grid, settings)
            yield f"which tiles are to be trained, {which}", _seconds(left), "s"
            yield f"comparing checkpoints, {which}", _seconds(lambda: check(self.folder).check(self.grid.tiles)), "s"
            yield f"writing the index, {which}", _seconds(partial(self.folder.write_index, self.grid)), "s"

    def predictions(self) -> Iterator[Row]:
        """List predictions, and write some."""
        stored = self._stored
        for tile in self.grid.tiles:
            _make_up(stored, tile.name, self.folder.checksum_of(tile).sha256, self.images)
        for which in ("without an index", "with its index"):
            yield f"listing predictions, {which}", _seconds(self._list), "s"
            stored.write_index()
        scores = TilePrediction(torch.zeros(min(self.images, 1000)), None)

        def write() -> None:
            for tile in self.grid.tiles[:WRITTEN]:
                stored.write(tile, self.folder.checksum_of(tile), [scores])

        yield "storing the predictions of a tile, beside computing them", 1000 * _seconds(write) / WRITTEN, "ms"

    def stages(self) -> Iterator[Row]:
        """Do what is left for the process of the command after all tiles were counted."""
        nothing = torch.zeros(2, dtype=torch.bool).numpy()
        truth = Truth(nothing, None)
        tiles = {tile.name: Observed.of_a_tile(self.grid) for tile in self.grid.tiles}
        for number, observed in enumerate(tiles.values()):
            observed.add(torch.tensor([1.0, 1.0 + (number % 3)]), None, truth)  # the scores of every third do not vary

        def find_lenders() -> dict[str, str]:
            return lenders_of({name: Spread.of(tile) for name, tile in tiles.items()})

        lenders = find_lenders()
        yield "finding tiles without spread", _seconds(find_lenders), "s"
        yield (
            "lending scores to a third of all tiles",
            _seconds(lambda: [lend(tiles[a], tiles[b]) for a, b in lenders.items()]),
            "s",
        )
        level = Level(*[Learned(1.0, {"minimum": 0.0, "maximum": 2.0, "threshold": 1.0})] * 2)
        calibration, path = Calibration(tiles=dict.fromkeys(tiles, level)), self.folder.calibration_file
        yield "writing calibration.json", _seconds(lambda: write_json(path, calibration.to_json())), "s"
        yield "reading calibration.json", _seconds(lambda: Calibration.from_json(read_json(path))), "s"
        yield "metrics of all tiles, for tiles.csv", _seconds(TileMeasurements(self.grid).results), "s"

    @property
    def _prediction(self) -> PredictionJob:
        return PredictionJob(self.job, "calibration", self.folder.predictions)

    @cached_property
    def _stored(self) -> TilePredictions:
        return TilePredictions(self.folder.predictions / "made_up", self.grid, "made up")

    def _list(self) -> None:
        missing = self._prediction.missing(TilePredictions(self._stored.folder, self.grid, "made up"))
        if missing:
            message = f"All predictions are there, but {len(missing)} were not found."
            raise AssertionError(message)


def _make_up(stored: TilePredictions, name: str, checkpoint: str, images: int) -> None:
    """Make a file of as many scores, all zero and without a place on the disk, and its record."""
    stored.folder.mkdir(parents=True, exist_ok=True)
    path = stored.folder / f"{name}.{checkpoint[:16]}.values"
    with path.open("wb") as file:
        file.truncate(images * VALUE.itemsize)
    state = path.stat()
    values = {"size": state.st_size, "sha256": "0" * 64}
    facts = {"checkpoint": checkpoint, "images": "made up", "has_maps": False}
    write_json(stored.folder / f"{name}{RECORD}", {**facts, "values": values, "modified": state.st_mtime_ns})


def _command(*arguments: str) -> tuple[float, float]:
    """Run a command of this package; give its processor seconds, and its peak memory in MB."""
    measuring = [sys.executable, "-c", MEASURING, sys.executable, "-m", "anomalib_tiled", *arguments]
    done = subprocess.run(measuring, check=True, capture_output=True, text=True)  # noqa: S603  # of this program
    seconds, kilobytes = done.stdout.split()
    return float(seconds), int(kilobytes) * 1024 / 1e6


def _seconds(function: Callable[[], object]) -> float:
    """Give the processor time of a function, user and system: other programs do not count."""
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    print_rows(rows, __doc__, tiles=10_000, images=50_000)
