"""A made-up run of many tiles: a configuration, records, and models of a few bytes. No image is read or drawn."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import write_json, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.grid import TileGrid

TILE_SIDE = 64
"""Side of a tile in pixels: an image of 10,000 tiles then has 6,400 × 6,400."""

MODEL = b"a few bytes"


def settings_for(tiles: int) -> Settings:
    """Give a configuration with at least this number of tiles, in a square.

    Args:
        tiles: Number of tiles.
    """
    side, stages = math.isqrt(tiles - 1) + 1, "anomalib_tiled.stages"
    return Settings.from_mapping(
        {
            "seed_everything": 1,
            "default_root_dir": "results",
            "tiling": {"image_size": side * TILE_SIDE, "tile_size": TILE_SIDE, "stride": None},
            "model": {"class_path": "anomalib.models.Padim", "init_args": {}},
            "data": {"class_path": "anomalib.data.Folder", "init_args": {"name": "made_up", "normal_dir": "good"}},
            "trainer": {"accelerator": "cpu"},
            "merging": {"class_path": f"{stages}.merging.Mean"},
            "scoring": {"class_path": f"{stages}.scoring.Max"},
            "seam_smoothing": None,
            "normalization": {"stage": "tile", "method": {"class_path": f"{stages}.normalization.MinMax"}},
            "thresholding": {"stage": "tile", "method": {"class_path": f"{stages}.thresholding.F1AdaptiveThreshold"}},
            "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers", "init_args": {"processes": 1}},
            "metrics": {"image": ["AUROC"], "pixel": ["AUROC"]},
            "cache": None,
            "visualize": False,
        }
    )


def make_run(folder: Path, tiles: int) -> tuple[RunFolder, Settings, TileGrid]:
    """Make a run in which every tile is done.

    Args:
        folder: The run folder.
        tiles: Number of tiles.
    """
    settings, run = settings_for(tiles), RunFolder(folder)
    grid = grid_of(settings.tiling)
    write_text(run.config_file, settings.to_yaml())
    write_json(run.calibration_file, {})
    for tile in grid.tiles:
        path = run.checkpoint(tile)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(MODEL)
        record = TileRecord(
            1.0, 1, settings.training_hash, Checksum.of(path), path.stat().st_mtime_ns, "images", threads=1
        )
        run.record_file(tile).write_text(json.dumps(_plain(record), indent=2))
    return run, settings, grid


def _plain(record: TileRecord) -> dict[str, object]:
    return {**vars(record), "checkpoint": vars(record.checkpoint)}
