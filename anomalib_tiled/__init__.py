"""Tiled ensembles for anomalib: one anomaly model per tile location of large images.

A module imports only from modules on its own line or below:

    __main__  host  autoload                    how the commands are reached
    cli                                         text to commands; the only place that prints errors
    commands  fitting                           what each command does | a run from Python objects
    written_objects                             objects as class paths and arguments
    arguments  explanations  short_names        text to settings; mistakes in our words; names of stages
    builtin  pipeline  loaded                   built-in stages as a plugin | the whole story | a run as a Python object
    preparation  exporting                      what is checked before a run | a run as files for other programs
    training                                    one model per tile location, workers, calibration
    results                                     tables, pictures, logs
    run                                         a run folder with everything that is read from it
    decisions                                   other thresholds than those that were calibrated
    ensemble  evaluation  tile_evaluation       all tiles as one model, metrics of images and of tiles
    tile_models  tile_predictions  fresh_models  all tile models within a budget | what they said | untrained ones
    tile_model  plugins  trusted_checkpoints    one of them | finding stages | checkpoints as they were finished
    checkpoints  missing_weights                weights of tiles, those that all share once | what models are made from
    supported_models  model_rules               which models work with tiles, and what they need
    spread                                      what stages learn of tiles whose scores do not vary
    calibration  validation_scores              what stages learn, and from which scores
    contracts  class_metric                     what each kind of stage must do | metrics of other packages
    data                                        split, cache, tiles, demonstration images
    altered                                     what of a run is not what it was
    run_folder  run_settings  run_files  tile_record  names and contents of a run's files
    versions                                    numbered folders of runs
    reference_config  post_processor            what is written for anomalib itself, read as settings
    difference                                  where two configurations differ
    devices  layout  uninspected                where models predict | the grid of a run | pixels that no model sees
    config  metric_classes                      settings | metrics by name, class and arguments
    allowed_classes                             what a configuration may name
    stages  workers                             what users choose: contracts, kinds and built-in ones | who trains
    lock  working_folder  leftovers             one process in a folder | what is half done | what must not stay
    grid  files  progress  memory  sensitivity  tile locations, safe writing, progress bars, free memory, decisions
    origin  seals  out_of_memory                packages of classes, checksums of files, lack of memory
    system_errors  bounds                       what the operating system refuses, in words | how much is read
    errors  copied_process  termination         what the user can mend | what workers are copied from | SIGTERM
    batch_lock  torch_defaults                  one thread at a time, forks too | what new tensors are like
    allocation  free_memory                     how memory comes from the system, and how much there is
    cores  control_groups  import_warnings      processor cores for this process | what limits it | what imports say
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from anomalib_tiled.plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from anomalib_tiled.api import TiledEnsemble
    from anomalib_tiled.fitting import fit_ensemble
    from anomalib_tiled.grid import Size, TileGrid
    from anomalib_tiled.stages.merging import Merger
    from anomalib_tiled.stages.normalization import Normalizer
    from anomalib_tiled.stages.scoring import Scorer
    from anomalib_tiled.stages.seams import SeamSmoother
    from anomalib_tiled.stages.thresholding import Thresholder
    from anomalib_tiled.stages.workers import Outcome, Workers

__version__ = "0.2.0.dev0"
__all__ = [
    "Merger",
    "Normalizer",
    "Outcome",
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
    "Merger": "stages.merging",
    "Normalizer": "stages.normalization",
    "Outcome": "workers",
    "Scorer": "stages.scoring",
    "SeamSmoother": "stages.seams",
    "Size": "grid",
    "Thresholder": "stages.thresholding",
    "TileGrid": "grid",
    "TiledEnsemble": "loaded",
    "Workers": "workers",
    "fit_ensemble": "fitting",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: PyTorch takes seconds, and ``--help`` does not need it."""
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, those that are not imported yet among them."""
    return sorted([*globals(), *_HOMES])
