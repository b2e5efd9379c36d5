"""Fitting an ensemble from Python objects instead of a configuration file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data import AnomalibDataModule

from anomalib_tiled import pipeline
from anomalib_tiled.arguments import fit_parser, settings_from
from anomalib_tiled.config import ClassSpec
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.loaded import TiledEnsemble
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.preparation import prepare

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.config import Plain


PLAIN = (str, int, float, list, dict, type(None))
"""What a configuration can hold."""

NOT_SETTINGS = {
    *("_samples", "_is_setup", "train_data", "val_data", "test_data", "trainer", "external_collate_fn"),
    *("_hparams", "_hparams_initial"),
}
"""What a data module holds once it is set up, and what Lightning notes of its arguments."""


def fit_ensemble(
    model: type[AnomalibModule] | str,
    data: AnomalibDataModule | Mapping[str, Plain],
    tiling: int | Mapping[str, Plain],
    *,
    model_args: Mapping[str, Plain] | None = None,
    **settings: Plain,
) -> TiledEnsemble:
    """Train one model per tile location, calibrate, and load the ensemble. What ``anomalib tiled fit`` does.

    Args:
        model: Class of the model, or its name.
        data: A data module; or its ``class_path`` and ``init_args``.
        tiling: Side of the tiles in pixels; or ``tile_size``, ``stride`` and ``image_size``.
        model_args: Arguments of the model.
        settings: Any other setting of a configuration by its name, such as ``default_root_dir="results"``,
            ``merging="Gaussian"`` or ``trainer={"max_epochs": 10}``.

    Returns:
        The ensemble; its ``run_folder`` is what later commands take as ``--ckpt_dir``.

    Raises:
        ConfigurationError: A setting is unknown, contradicts another, or cannot be written down.
        TrainingError: Tiles failed; the message says how to go on.
    """
    named = model if isinstance(model, str) else _path_of(model)
    configuration = {
        **settings,
        "model": {"class_path": named, "init_args": dict(model_args or {})},
        "data": data if isinstance(data, Mapping) else _written_down(data),
        "tiling": {"tile_size": tiling} if isinstance(tiling, int) else dict(tiling),
    }
    # Others would run the caller's script once more, unless it takes care of that.
    configuration.setdefault("workers", {"class_path": "LocalWorkers", "init_args": {"processes": 1}})
    parser = fit_parser("fit_ensemble")
    folder = prepare(settings_from(parser, parser.parse_object(configuration)))
    pipeline.fit(folder, Observers(find_plugins().loaded))
    return TiledEnsemble.load(folder.path)


def _written_down(data: AnomalibDataModule) -> dict[str, Plain]:
    """Find out which arguments a data module was made with, for the configuration of the run.

    They are what Lightning's ``save_hyperparameters`` keeps, or attributes of the same names, as in anomalib.

    Raises:
        ConfigurationError: They cannot be told from the object.
    """
    arguments = {name: _plain(value) for name, value in _arguments_of(data).items()}
    for name, value in arguments.items():
        if not isinstance(value, PLAIN):
            _refuse(data, name)
    spec = ClassSpec(_path_of(type(data)), arguments)
    for name, value in vars(spec.build(AnomalibDataModule)).items():
        if name not in NOT_SETTINGS and _plain(getattr(data, name, None)) != _plain(value):
            _refuse(data, name)
    return {"class_path": spec.class_path, "init_args": arguments}


def _arguments_of(data: AnomalibDataModule) -> dict[str, Plain]:
    """Give the arguments that are kept; one that is not must be found by making the object again."""
    known = {name.removeprefix("_"): value for name, value in vars(data).items()} | dict(data.hparams)
    return {name: known[name] for name in inspect.signature(type(data).__init__).parameters if name in known}


def _refuse(data: AnomalibDataModule, name: str) -> None:
    message = (
        f"A run writes its configuration down, but {name} of the {type(data).__name__} cannot be told from the object. "
        'Give data={"class_path": ..., "init_args": {...}} instead.'
    )
    raise ConfigurationError(message)


def _path_of(class_type: type) -> str:
    return f"{class_type.__module__}.{class_type.__qualname__}"


def _plain(value: Plain) -> Plain:
    """Give a value as YAML holds it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value
