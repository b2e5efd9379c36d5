"""Python objects as a configuration holds them: class path and arguments.

A run makes its objects anew, again and again: for each tile, in other processes, and when it is loaded. So arguments
are read from the object, and two new ones are made with them. Unless both are like the given one, it is refused.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from torch import nn
from torchmetrics import Metric

from anomalib_tiled.allowed_classes import check_classes
from anomalib_tiled.config import ClassSpec
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.likeness import changes

if TYPE_CHECKING:
    from anomalib_tiled.config import Plain
    from anomalib_tiled.likeness import Difference

COMPONENTS = {
    "pre_processor": "Give the class of the model, and its pre_processor in model_args={...}, instead.",
    "post_processor": "Leave it out: with tiles, `normalization` and `thresholding` are set instead.",
    "evaluator": 'Leave it out: with tiles, metrics={"image": [...], "pixel": [...]} are set instead.',
    "visualizer": "Leave it out: with tiles, `visualize` is set instead.",
}
"""Parts of anomalib's models that are arguments too, and what to do about one that is not the model's own."""

NOTES_OF_LIGHTNING = {"_hparams", "_hparams_initial"}
"""Where Lightning notes arguments; they are compared where they have an effect."""

MADE_BY_SETUP = {
    *("_samples", "_is_setup", "train_data", "val_data", "test_data", "trainer", "external_collate_fn"),
}
"""What a data module holds once it is set up."""

NAMELESS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def written_down(setting: str, value: Plain, package: str = "") -> Plain:
    """Give the value of a setting as YAML holds it.

    Args:
        setting: Dotted name of the setting.
        value: Plain values, classes, and objects of the classes that a configuration may name; in mappings and lists
            too.
        package: Package of the object that this is an argument of; classes of it may be named too.

    Raises:
        ConfigurationError: It cannot be written down so that the same is read again.
    """
    if value is None or type(value) in {str, int, float, bool}:
        return value
    if isinstance(value, Mapping):
        return {name: written_down(f"{setting}.{name}", each, package) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [written_down(setting, each, package) for each in value]
    if isinstance(value, (Enum, np.generic)):
        return value.value if isinstance(value, Enum) else value.item()
    if isinstance(value, (Path, timedelta)):
        return str(value)
    return path_of(value) if isinstance(value, type) else _class_and_arguments(setting, value, package)


def path_of(class_type: type) -> str:
    """Give the dotted path of a class.

    Raises:
        ConfigurationError: It leads nowhere.
    """
    found: object = import_module(class_type.__module__)
    for name in class_type.__qualname__.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, type):
        message = (
            f"A run must find its classes by their names, but {class_type.__qualname__} is not in the module "
            f"{class_type.__module__}. Define it there, outside of functions."
        )
        raise ConfigurationError(message)
    return f"{class_type.__module__}.{class_type.__qualname__}"


def _class_and_arguments(setting: str, value: object, package: str) -> dict[str, Plain]:
    """Find out what an object was made with, and try it out."""
    _check_kind(setting, value, package)
    spec = ClassSpec(path_of(type(value)), _arguments(setting, value))
    try:
        new, other = spec.build(type(value)), spec.build(type(value))
    except (ConfigurationError, ValueError) as error:  # jsonargparse has no subclasses of some kinds of classes
        message = (
            f"A run makes its objects anew, but no {type(value).__name__} can be made with the arguments that this one "
            f"tells, {dict(spec.init_args)}. {_advice(setting, value)}"
        )
        raise ConfigurationError(message) from error
    ignored = NOTES_OF_LIGHTNING | (MADE_BY_SETUP if isinstance(value, AnomalibDataModule) else set())
    found = [each for each in changes(value, new, other) if _first(each.name) not in ignored]
    if found:
        name = min(found, key=_rank).name
        raise _refusal(setting, value, name, set(_parameters(value)) - set(spec.init_args))
    return {"class_path": spec.class_path, "init_args": dict(spec.init_args)}


def _first(name: str) -> str:
    return name.partition(".")[0]


def _rank(change: Difference) -> int:
    """Rank changes by what they tell: that a model was used, that it has parts of others, then all others.

    Tensors of its parts tell nothing: they change when it is trained.
    """
    if change.name == "_trainer":
        return 0
    if _first(change.name) in COMPONENTS:
        return 1 if change.what == "value" else 3
    return 2


def _check_kind(setting: str, value: object, package: str) -> None:
    """Check that an object is of a kind that a configuration may name."""
    try:
        check_classes(value if inspect.isroutine(value) else type(value), package)
    except ConfigurationError as error:
        message = (
            f"{setting} must be a value that YAML can hold, or a model, data module, stage, callback or logger, but is "
            f"of the type {type(value).__name__}."
        )
        if setting == "trainer":
            message += ' Give the arguments of the trainer, such as trainer={"max_epochs": 10}.'
        raise ConfigurationError(message) from error
    if isinstance(value, Metric):
        message = (
            f"{setting} must be names of metrics, or classes with their arguments, but holds an object. "
            f"{_advice(setting, value)}"
        )
        raise ConfigurationError(message)
    if not isinstance(value, AnomalibModule) and isinstance(value, nn.Module) and value.state_dict():
        message = f"{setting} holds tensors, which a configuration cannot. {_advice(setting, value)}"
        raise ConfigurationError(message)


def _arguments(setting: str, value: object) -> dict[str, Plain]:
    """Read the arguments of an object; those that it does not tell are left out if they need not be given."""
    known = _kept(value)
    arguments = dict.fromkeys(_switched_off(value), False)
    for name, parameter in _parameters(value).items():
        if name in known:
            try:
                package = type(value).__module__.partition(".")[0]
                given = _named(parameter, known[name])
                arguments[name] = written_down(f"{setting}.init_args.{name}", given, package)
            except ConfigurationError as error:
                if parameter.default is parameter.empty or isinstance(value, AnomalibModule):
                    raise _refusal(setting, value, name) from error
        elif parameter.default is parameter.empty:
            raise _refusal(setting, value, name)
    return arguments


def _parameters(value: object) -> dict[str, inspect.Parameter]:
    """Give the arguments that an object may tell, by name."""
    given = inspect.signature(type(value).__init__).parameters
    left_out = {"self", *(COMPONENTS if isinstance(value, AnomalibModule) else ())}
    return {name: each for name, each in given.items() if name not in left_out and each.kind not in NAMELESS}


def _switched_off(value: object) -> list[str]:
    """Give the parts of anomalib's models that a model was made without."""
    given = inspect.signature(type(value).__init__).parameters if isinstance(value, AnomalibModule) else {}
    return [name for name in COMPONENTS if name in given and getattr(value, name) is None]


def _named(parameter: inspect.Parameter, value: Plain) -> Plain:
    """Give the name of a member of an ``Enum``, by which jsonargparse knows it, unless the argument may be text."""
    text = parameter.annotation is parameter.empty or re.search(r"\bstr\b", str(parameter.annotation))
    return value.name if isinstance(value, Enum) and not text else value


def _kept(value: object) -> dict[str, Plain]:
    """Give what may be arguments: what Lightning notes of them, and attributes, which may begin with an underscore."""
    attributes = vars(value) if hasattr(value, "__dict__") else {}
    modules = dict(value.named_children()) if isinstance(value, nn.Module) else {}
    private = {name.removeprefix("_"): each for name, each in attributes.items()}
    known = private | modules | attributes | dict(getattr(value, "hparams", {}))
    for name in _parameters(value):
        if name not in known and isinstance(inspect.getattr_static(type(value), name, None), property):
            with suppress(Exception):  # one that does not work yet tells nothing
                known[name] = getattr(value, name)
    return known


def _refusal(setting: str, value: object, name: str, untold: AbstractSet[str] = frozenset()) -> ConfigurationError:
    """Say what of an object cannot be written down, and what to do.

    Args:
        setting: Dotted name of the setting.
        value: The object.
        name: What of it: an argument, or an attribute that is not as in a new object.
        untold: Arguments that the object does not keep; one of them may be the reason.
    """
    first, kind = _first(name), type(value).__name__
    if isinstance(value, AnomalibModule) and first in COMPONENTS:
        return ConfigurationError(f"The {first} of the {kind} is not the model's own. {COMPONENTS[first]}")
    kept = f"does not keep {', '.join(sorted(untold))}" if untold and first not in untold else ""
    if isinstance(value, AnomalibModule):
        message = (
            f"A run makes a new {kind} for each tile, but {name} of the one given is not as in a new one: it was "
            f"trained or changed{kept and f', or {kept}'}."
        )
    else:
        message = (
            f"A run writes its configuration down, but {name or 'the kind'} of the {kind} cannot be told from the "
            f"object{kept and f', which {kept}'}."
        )
    return ConfigurationError(f"{message} {_advice(setting, value)}")


def _advice(setting: str, value: object) -> str:
    if isinstance(value, AnomalibModule):
        return "Give a new one, or its class with model_args={...}, instead."
    path = f"{type(value).__module__}.{type(value).__qualname__}"
    return f'Give {setting} as {{"class_path": "{path}", "init_args": {{...}}}} instead.'
