"""Fitting an ensemble from Python objects instead of a configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from anomalib.models.components import AnomalibModule

from anomalib_tiled import pipeline
from anomalib_tiled.api import TiledEnsemble
from anomalib_tiled.cli.options import fit_parser, settings_from
from anomalib_tiled.config.objects import written_down
from anomalib_tiled.config.settings import TilingSettings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import TileGrid
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.thresholding import Thresholder
from anomalib_tiled.training.preparation import prepare

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

    from anomalib_tiled.config.settings import Plain


SIZES = ("tile_size", "stride", "image_size")
"""What a grid and the settings of one have in common."""


def fit_ensemble(
    model: AnomalibModule | type[AnomalibModule] | str | Mapping[str, Plain],
    data: AnomalibDataModule | Mapping[str, Plain],
    tiling: int | tuple[int, int] | TileGrid | Mapping[str, Plain],
    *,
    model_args: Mapping[str, Plain] | None = None,
    **settings: Plain,
) -> TiledEnsemble:
    """Train one model per tile location, calibrate, and load the ensemble. What ``anomalib tiled fit`` does.

    Objects are written down as their classes and arguments, and made anew from these: models for each tile. What was
    changed in an object after it was made, such as weights that were loaded into a model, has no effect.

    Args:
        model: A new model; its class or name; or ``class_path`` and ``init_args``.
        data: A data module; or its ``class_path`` and ``init_args``.
        tiling: Side of the tiles in pixels; height and width; a grid; or ``tile_size``, ``stride`` and ``image_size``.
        model_args: Arguments of a model that is given as a class or name.
        settings: Any other setting of a configuration by its name, such as ``default_root_dir="results"``,
            ``merging=Gaussian()``, ``merging="Gaussian"`` or ``trainer={"max_epochs": 10, "callbacks": [...]}``; and
            ``keep_going=True`` to try all tiles, although two of them fail alike.

    Returns:
        The ensemble; its ``run_folder`` is what later commands take as ``--ckpt_dir``.

    Raises:
        ConfigurationError: A setting is unknown, contradicts another, or is an object that cannot be written down.
        TrainingError: Tiles failed; the message says how to go on.
    """
    for name in ("normalization", "thresholding"):
        if name in settings:
            settings[name] = _stage_at(settings[name])
    configuration = {
        **{name: written_down(name, value) for name, value in settings.items()},
        "model": _model(model, model_args),
        "data": written_down("data", data),
        "tiling": _tiling(tiling),
    }
    # Others would run the caller's script once more, unless it takes care of that.
    configuration.setdefault("workers", {"class_path": "LocalWorkers", "init_args": {"processes": 1}})
    parser = fit_parser("fit_ensemble")
    parsed = parser.parse_object(configuration)
    folder = prepare(settings_from(parser, parsed))
    pipeline.fit(folder, Observers(find_plugins().loaded), keep_going=parsed.keep_going)
    return TiledEnsemble.load(folder.path)


def _model(model: object, arguments: Mapping[str, Plain] | None) -> Plain:
    """Give the class of the model and its arguments.

    Raises:
        ConfigurationError: It is none, or has arguments already.
    """
    if isinstance(model, (str, type)):
        written = written_down("model", model)
        return {"class_path": written, "init_args": written_down("model_args", arguments or {})}
    if not isinstance(model, (AnomalibModule, Mapping)):
        message = f"model must be a model of anomalib, its class or its name, but is a {type(model).__name__}."
        raise ConfigurationError(message)
    if arguments is not None:
        message = "model_args are for a model that is given as a class, but this one has its arguments. Take them out."
        raise ConfigurationError(message)
    return written_down("model", model)


def _stage_at(value: Plain) -> Plain:
    """Give a stage alone the place where it is applied unless something else is said."""
    return {"method": value} if isinstance(value, (type, Normalizer, Thresholder)) else value


def _tiling(tiling: Plain) -> Plain:
    """Read the forms that the tiling may have.

    Raises:
        ConfigurationError: It has another one.
    """
    if isinstance(tiling, (TileGrid, TilingSettings)):
        tiling = {name: getattr(tiling, name) for name in SIZES}
    elif _is_side(tiling) or _is_pair(tiling):
        tiling = {"tile_size": tiling}
    if isinstance(tiling, Mapping):
        return written_down("tiling", tiling)
    message = (
        "tiling must be the side of the tiles in pixels, (height, width) of a tile, a TileGrid, or such as "
        f'{{"tile_size": 256, "stride": 192}}, but is {tiling!r}.'
    )
    raise ConfigurationError(message)


def _is_side(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_pair(value: object) -> bool:
    match value:
        case [height, width]:
            return _is_side(height) and _is_side(width)
    return False
