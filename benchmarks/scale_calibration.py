"""Simulate calibration and test of images in thousands of tiles: made-up predictions on the disk, no model.

Measures what a place needs for an image, and what is left for the process of the command, which merges the counts.

    python -m benchmarks.scale_calibration --tiles 10000 --images 3
"""

from __future__ import annotations

import math
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from PIL import Image

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.data.images import Pixels
from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level
from anomalib_tiled.ensemble.stored_images import StoredImages
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.ensemble.tile_predictions import TilePredictions
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.measured import RunMeasurements
from anomalib_tiled.results.measuring import MeasureImages, MeasureTiles
from anomalib_tiled.results.tested_folder import TestedFolder
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.training.observations import ObserveImages, ObserveTiles, unseen_image
from anomalib_tiled.training.tile_learning import LearnTiles, TileAlone
from benchmarks.rows import Row, print_rows

TILE = 64
"""Side of a tile in pixels: 10,000 of them make an image of 6,400 × 6,400 pixels."""

CHECKPOINT = Checksum(1, "0" * 64)
MEGABYTE = 2**20
LEVEL = Level(*[Learned(1.0, {"minimum": 0.0, "maximum": 20.0, "threshold": 7.0})] * 2)


@dataclass(frozen=True)
class MadeUp:
    """Grey images; every second one has a defect in its upper left corner.

    Args:
        fingerprint: As of a cache, so that tiles count as readable without their images.
        scope: All pixels count.
    """

    fingerprint: str = "made up"
    scope: Scope = EVERYTHING

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        """Give a rectangle of an image."""
        del sample
        return np.full((rows.stop - rows.start, columns.stop - columns.start, 3), 128, np.uint8)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        """Give a rectangle of a mask."""
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        mask[: max(0, 20 - rows.start), : max(0, 20 - columns.start)] = sample.label or 0
        return mask

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> None:
        """Give ``None``: all pixels count."""
        del sample, rows, columns


def stored(folder: Path, tiles: int, images: int) -> StoredImages:
    """Write predictions.

    Args:
        folder: An empty folder.
        tiles: Number of tiles; rounded up to a square.
        images: Number of images.
    """
    side = math.isqrt(tiles - 1) + 1
    grid = TileGrid(Size(TILE * side, TILE * side), Size(TILE, TILE), Size(TILE, TILE))
    settings = _settings(folder, grid)
    samples = tuple(Sample("test", folder / f"{number:06}.png", None, number % 2) for number in range(images))
    for sample in samples:
        Image.new("1", (grid.image_size.width, grid.image_size.height)).save(sample.image_path)
    datamodule = Folder(name="made_up", normal_dir="nowhere", eval_batch_size=8)
    job = TileJob(RunFolder(folder / "v0"), settings, grid, RunData(Split(samples), MadeUp(), datamodule))
    predictions = TilePredictions(folder / "predictions", grid, "made up")
    random = torch.Generator().manual_seed(0)
    for tile in grid.tiles:
        maps = 5 + (1 + 0.1 * tile.row) * torch.rand(images, 1, TILE, TILE, generator=random).square()
        job.folder.write_record(tile, TileRecord(1.0, 1, settings.training_hash, CHECKPOINT))
        predictions.write(tile, CHECKPOINT, [TilePrediction(maps.amax((1, 2, 3)), maps)])
    return StoredImages(job, "test", predictions, 0, images, job.at_once(grid.image_size, 2**22), stay=True)


def _settings(folder: Path, grid: TileGrid) -> Settings:
    stages = "anomalib_tiled.stages"
    return Settings.from_mapping(
        {
            "seed_everything": 0,
            "default_root_dir": str(folder),
            "tiling": {"image_size": [*grid.image_size], "tile_size": TILE, "stride": TILE},
            "model": {"class_path": "anomalib.models.Padim"},
            "data": {"class_path": "anomalib.data.Folder"},
            "trainer": {"accelerator": "cpu"},
            "merging": {"class_path": f"{stages}.merging.Mean"},
            "scoring": {"class_path": f"{stages}.scoring.Max"},
            "seam_smoothing": None,
            "normalization": {"stage": "image", "method": {"class_path": f"{stages}.normalization.MinMax"}},
            "thresholding": {"stage": "image", "method": {"class_path": f"{stages}.thresholding.F1AdaptiveThreshold"}},
            "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers"},
            "metrics": {"image": ["AUROC", "F1Score"], "pixel": ["AUROC", "F1Score", "AUPRO"]},
            "cache": {"directory": str(folder / "cache")},
            "visualize": False,
            "memory_budget": None,
            "unfitted_tiles": "leave_out",
        }
    )


@dataclass
class Spent:
    """What a piece of work has needed.

    Args:
        seconds: Time of the processor, which other programs do not change.
        bytes: Memory in addition to that before.
    """

    seconds: float = 0.0
    bytes: int = 0


@contextmanager
def spent() -> Iterator[Spent]:
    """Measure time and memory of a piece of work."""
    Path("/proc/self/clear_refs").write_text("5")  # from now on, VmHWM is the highest
    result, before, started = Spent(), _memory("VmRSS"), process_time()
    yield result
    result.seconds, result.bytes = process_time() - started, _memory("VmHWM") - before


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def measured(
    name: str, images: StoredImages, items: Sequence[Any], work: Callable[[Any], Any], merge: Callable[[Any], None]
) -> list[Row]:
    """Do work as places do it, and merge what they send as the process of the command does.

    Args:
        name: What the work is.
        images: The images.
        items: The items of the work.
        work: The work.
        merge: Takes the value of an item.
    """
    with spent() as of_place:
        sent = [pickle.dumps(work(item), protocol=5) for item in items]
    with spent() as of_driver:
        for value in sent:
            merge(pickle.loads(value))  # noqa: S301  # pickled above
    number = images.number
    return [
        (f"{name}: a place, for an image", of_place.seconds / number, "s"),
        (f"{name}: memory of a place", of_place.bytes / MEGABYTE, "MB"),
        (f"{name}: this process, for an image", 1000 * of_driver.seconds / number, "ms"),
        (f"{name}: sent for an image", sum(map(len, sent)) / number / MEGABYTE, "MB"),
        (f"{name}: a task", len(pickle.dumps((work, items[0]))) / 1000, "kB"),
    ]


def rows(tiles: int, images: int) -> list[Row]:
    """Simulate calibration and test.

    Args:
        tiles: Number of tiles.
        images: Number of images.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = stored(Path(folder), tiles, images)
        grid, settings = made.job.grid, made.job.settings
        calibration = Calibration(image=LEVEL, tiles={tile.name: LEVEL for tile in grid.tiles})
        seen, measurements = unseen_image(grid), RunMeasurements(settings, grid)

        learned: dict[str, TileAlone] = {}
        learn = LearnTiles(made, ObserveTiles(made, masks_known=True).of_tile)
        groups, shards = made.shards_of_tiles(), made.shards()
        measure = MeasureImages(made, calibration, TestedFolder(Path(folder) / "tested"), None)
        return [
            *measured("calibration of tiles", made, groups, learn, learned.update),
            *measured(
                "calibration of images",
                *(made, shards, ObserveImages(made, Calibration(), masks_known=True), seen.merge),
            ),
            *measured("test of tiles", made, groups, MeasureTiles(made), measurements.add_tiles),
            *measured("test of images", made, shards, measure, lambda part: measurements.merge(part.measurements)),
        ]


if __name__ == "__main__":
    print_rows(rows, __doc__, tiles=10_000, images=3)
