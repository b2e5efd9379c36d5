"""Tiled ensembles for anomalib: one anomaly model per tile location of large images.

A module imports only from its own folder or from a line below, and never in a circle:

    __main__    `python -m anomalib_tiled`
    api         a run as Python objects: fit_ensemble, TiledEnsemble.load
    cli         text to settings to commands; the only place that prints errors; how `anomalib tiled` is reached
    pipeline    fit, test, predict: the steps of each command
    plugins     hooks, finding the packages that implement them, the built-in stages as a plugin
    training    one model per tile: trainer, attempts, calibration
    report      one page that shows a run: scores, thresholds, images, places, and how it was made
    drift       how new images differ from the normal images that a run was calibrated with
    export      a run as files for other programs
    results     metrics, regions, predictions, pictures, tables
    ensemble    all tile models and stages as one model
    workers     where the work on tiles is done: the scheduler, and the built-in engines
    runs        the run folder: files, checkpoints, checksums, states of tiles
    data        the split, the image cache, tiles, images from files and from memory, demonstration boards
    config      settings, the classes that they may name, configurations of anomalib itself
    stages      the contract of each kind of stage, and the built-in ones (engines: see workers)
    system      files, locks, memory, processes, logs: nothing about images
    grid        tile locations: integers only
    errors      the tree of all errors, drawn at its top
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anomalib_tiled.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from anomalib_tiled.api import TiledEnsemble, fit_ensemble
    from anomalib_tiled.grid import Size, TileGrid
    from anomalib_tiled.stages.alignment import Aligner, Alignment, Reference
    from anomalib_tiled.stages.assignment import Assignment
    from anomalib_tiled.stages.global_model import GlobalModel
    from anomalib_tiled.stages.merging import Merger
    from anomalib_tiled.stages.normalization import Normalizer
    from anomalib_tiled.stages.regions import RegionMap, Regions
    from anomalib_tiled.stages.scoring import Scorer
    from anomalib_tiled.stages.seams import SeamSmoother
    from anomalib_tiled.stages.thresholding import Thresholder
    from anomalib_tiled.stages.workers import Place, Workers

__version__ = "0.2.0.dev0"
__all__ = [
    "Aligner",
    "Alignment",
    "Assignment",
    "GlobalModel",
    "Merger",
    "Normalizer",
    "Place",
    "Reference",
    "RegionMap",
    "Regions",
    "Scorer",
    "SeamSmoother",
    "Size",
    "Thresholder",
    "TileGrid",
    "TiledEnsemble",
    "Workers",
    "fit_ensemble",
    "hookimpl",
]

_HOMES = {
    "Aligner": "stages.alignment",
    "Alignment": "stages.alignment",
    "Assignment": "stages.assignment",
    "GlobalModel": "stages.global_model",
    "Merger": "stages.merging",
    "Normalizer": "stages.normalization",
    "Place": "stages.workers",
    "Reference": "stages.alignment",
    "RegionMap": "stages.regions",
    "Regions": "stages.regions",
    "Scorer": "stages.scoring",
    "SeamSmoother": "stages.seams",
    "Size": "grid",
    "Thresholder": "stages.thresholding",
    "TileGrid": "grid",
    "TiledEnsemble": "api",
    "Workers": "stages.workers",
    "fit_ensemble": "api",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: PyTorch takes seconds to import, and ``--help`` does not need it."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, including those that are not imported yet."""
    return sorted([*globals(), *_HOMES])
