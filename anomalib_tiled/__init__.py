"""Tiled ensembles for anomalib: one anomaly model per tile location of large images.

A module imports only from modules on its own line or below:

    __main__  host  autoload                    how the commands are reached
    cli                                         text to commands; the only place that prints errors
    commands  arguments                         what each command does; text to settings
    builtin  pipeline                           the built-in stages as a plugin | fit, test, status: the whole story
    training                                    one model per tile location, workers, calibration
    results                                     tables, pictures, logs
    run                                         a run folder with everything that is read from it
    ensemble  evaluation                        all tiles as one model, metrics
    tile_models  tile_model  plugins            all tile models within a budget, one of them | finding stages
    supported_models  model_rules               which models work with tiles, and what they need
    calibration                                 what stages learn
    data  stages                                split, cache, tiles, demonstration images | contracts, built-in stages
    run_folder                                  names and contents of a run's files
    reference_config                            files of anomalib's own tiled ensemble, read as settings
    config                                      settings
    grid  files  progress  memory               tile locations, safe writing, progress bars, free memory
    errors                                      what the user can mend
"""

from __future__ import annotations

from anomalib_tiled.plugins.specification import hookimpl

__version__ = "0.1.0"
__all__ = ["hookimpl"]
