"""What images cost a run of many tiles and images, measured by simulation: made-up names, caches and pixels.

A tile has `EDGE` pixels a side, and blocks that are not read are sparse files, so that the cache of a million images in
ten thousand tiles takes some 100 MB of disk.

    python -m benchmarks.scale_data --tiles 2500 --images 50000
"""

from __future__ import annotations

import pickle
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from zlib import crc32

import numpy as np

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.data.block_files import BYTES_AT_ONCE, HEADER, BlockFiles
from anomalib_tiled.data.cache import INDEX, ImageCache
from anomalib_tiled.data.names import Names
from anomalib_tiled.data.split import SUBSETS, Split, StoredSamples
from anomalib_tiled.data.split_table import NONE, ROW, SplitTable
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.run_split import read_split, write_split
from anomalib_tiled.system.files import write_json
from benchmarks.rows import Row, print_rows

EDGE = 4
"""Side of a tile, in pixels."""

FILLED = 200
"""Images that a cache is filled with: the time for one does not depend on how many follow."""

READ = 1_000
"""Images of which one tile is read."""

MOST_FILES = 100_000
"""Most images for which files are made, so that a command can look at them when it opens the run."""

PART = np.dtype([("pixels", np.uint8, (EDGE, EDGE, 3)), ("crc32", "<u4")])
"""A tile of an image in a file of the cache."""

STAGES = "anomalib_tiled.stages"

SETTINGS: dict[str, object] = {
    "seed_everything": 0,
    "model": {"class_path": "anomalib.models.Padim"},
    "trainer": {},
    "merging": {"class_path": f"{STAGES}.merging.Average"},
    "scoring": {"class_path": f"{STAGES}.scoring.Max"},
    "seam_smoothing": None,
    "normalization": {"stage": "none", "method": {"class_path": f"{STAGES}.normalization.MinMax"}},
    "thresholding": {"stage": "none", "method": {"class_path": f"{STAGES}.thresholding.F1AdaptiveThreshold"}},
    "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers"},
    "metrics": {"image": [], "pixel": []},
    "cache": {"directory": None},
    "visualize": False,
}
"""Of a run that nobody trains."""


def rows(tiles: int, images: int) -> list[Row]:
    """Measure what images cost.

    Args:
        tiles: Number of tiles; rounded down to a square.
        images: Number of images.
    """
    with TemporaryDirectory() as folder:
        simulation = Simulation(Path(folder), EDGE * isqrt(tiles), images)
        return [*simulation.filling(), *simulation.opening(), *simulation.reading()]


@dataclass(frozen=True)
class Simulation:
    """A run of made-up images, and its cache.

    Args:
        folder: Folder of images, cache and run.
        side: Side of an image, in pixels.
        number: Number of images.
    """

    folder: Path
    side: int
    number: int

    @cached_property
    def grid(self) -> TileGrid:
        """Tiles without overlap, so that each is a block."""
        return TileGrid(Size(self.side, self.side), Size(EDGE, EDGE), Size(EDGE, EDGE))

    @cached_property
    def job(self) -> TileJob:
        """The job of training the tiles."""
        tiling = {"image_size": [self.side, self.side], "tile_size": EDGE, "stride": EDGE}
        arguments = {"name": "made_up", "root": str(self.folder), "normal_dir": "images"}
        data = {"class_path": "anomalib.data.Folder", "init_args": arguments}
        changes = {"default_root_dir": str(self.folder), "tiling": tiling, "data": data}
        settings = Settings.from_mapping({**SETTINGS, **changes})
        return TileJob(RunFolder(self.folder / "v0"), settings, self.grid, cache=self.folder / "cache" / "made_up")

    def filling(self) -> Iterator[Row]:
        """Fill a cache."""
        (folder := self.folder / "filled").mkdir()
        image = np.random.default_rng(0).integers(0, 256, (*self.grid.image_size, 3), np.uint8)
        seconds = _seconds(BlockFiles(folder, "image", self.grid, FILLED, lambda _: image, (3,)).fill)
        yield "filling the cache, without decoding, for each image", 1000 * seconds / FILLED, "ms"
        yield "images for which each block is opened once", max(1, BYTES_AT_ONCE // image.size), "images"

    def opening(self) -> Iterator[Row]:
        """Open the images of a run in a command, then in a worker that has got its job."""
        folder, settings = self.job.folder, self.job.settings
        folder.path.mkdir()
        write_split(folder, self._split(with_files=self.number <= MOST_FILES))
        cache = self._make_up_cache()
        if self.number <= MOST_FILES:
            seconds = _seconds(lambda: RunData.read(folder, settings, self.grid)) + _seconds(cache.opened)
            yield "opening the images in a command", 1000 * seconds, "ms"
        table = folder.split_table_file
        moved = table.rename(table.with_suffix(".moved"))
        yield "opening the split of an earlier version, once", 1000 * _seconds(lambda: read_split(folder)), "ms"
        moved.replace(table)
        sent = pickle.dumps(self.job)
        yield "job that a worker is sent", len(sent) / 1e3, "kB"
        yield "opening the images in a worker", 1000 * _seconds(lambda: _data_of(sent)), "ms"
        yield "memory of a worker for images that are open", _megabytes(lambda: _data_of(sent)), "MB"

    def reading(self) -> Iterator[Row]:
        """Read one tile of many images."""
        data, tile = self.job.data, self.grid.tiles[-1]
        samples = [data.split.samples[place] for place in np.linspace(0, self.number - 1, READ, dtype=int).tolist()]

        def read() -> None:
            for sample in samples:
                data.source.image(sample, tile.rows, tile.columns)

        yield "reading a tile of an image, with its checksum", 1e6 * _seconds(read) / READ, "µs"
        yield "memory that a worker keeps after reading a tile of many images", _megabytes(read), "MB"

    def _split(self, *, with_files: bool) -> Split:
        names = [str(self.folder / "images" / f"{number:07}.png") for number in range(self.number)]
        if with_files:
            (self.folder / "images").mkdir()
            for name in names:
                Path(name).touch()
        uses = np.empty(self.number, ROW)
        uses["image"], uses["masks"], uses["label"] = np.arange(self.number), NONE, 0
        uses["subset"] = SUBSETS.index("train")
        return Split(StoredSamples(SplitTable(uses, Names.of(names), Names.of([]))))

    def _make_up_cache(self) -> ImageCache:
        """Make the files of a full cache; only that of the last tile has content, all of it black."""
        split = read_split(self.job.folder)
        cache = ImageCache(self.folder / "cache" / "made_up", self.grid, split.table.images, split.table.masks)
        cache.folder.mkdir(parents=True)
        for block in self.grid.blocks:
            with self._file(cache, block).open("wb") as file:
                file.truncate(HEADER + self.number * PART.itemsize)
        parts = np.zeros(self.number, PART)
        parts["crc32"] = crc32(parts["pixels"][0].data)
        with self._file(cache, self.grid.tiles[-1]).open("r+b") as file:
            file.seek(HEADER)
            file.write(parts.view(np.uint8).data)
        write_json(cache.folder / INDEX, cache.index)
        return cache

    @staticmethod
    def _file(cache: ImageCache, tile: Tile) -> Path:
        return cache.folder / f"image_{tile.name}.npy"


def _data_of(sent: bytes) -> RunData:
    """Open the images as a worker does."""
    job: TileJob = pickle.loads(sent)  # noqa: S301  # pickled by this program
    job.tile_data(job.grid.tiles[-1])
    return job.data


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _megabytes(function: Callable[[], object]) -> float:
    """Give the memory that is in use while the result of a function is kept."""
    tracemalloc.start()
    try:
        result = function()
        used, _ = tracemalloc.get_traced_memory()
        del result
        return used / 1e6
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    print_rows(rows, __doc__, tiles=2_500, images=50_000)
