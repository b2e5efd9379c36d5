"""Turn Python objects into what a configuration holds: class path and arguments.

A run builds its objects many times: for each tile, in other processes, and when it is loaded. The arguments of an
object are those in Lightning's ``hparams``, as all models of anomalib have them; or else its attributes of the same
names, if an object that is built with these has the same attributes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from enum import Enum
from importlib import import_module
from pathlib import Path

import numpy as np
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from torch import nn

from anomalib_tiled.config.allowed_classes import check_classes
from anomalib_tiled.config.settings import ClassSpec, Plain
from anomalib_tiled.errors import ConfigurationError

COMPONENTS = {
    "pre_processor": "Give the class of the model, and its pre_processor in model_args={...}, instead.",
    "post_processor": "Leave it out: with tiles, `normalization` and `thresholding` are set instead.",
    "evaluator": 'Leave it out: with tiles, metrics={"image": [...], "pixel": [...]} are set instead.',
    "visualizer": "Leave it out: with tiles, `visualize` is set instead.",
}
"""Arguments of anomalib's models that Lightning does not keep, and what to do with one that is not the model's own."""

KEPT_AS_THREE = "augmentations"
"""Argument that data modules of anomalib keep in three: ``train_``, ``val_`` and ``test_augmentations``."""

LACKING = object()


def to_plain(setting: str, value: Plain, package: str = "") -> Plain:
    """Give the value of a setting as YAML holds it.

    Args:
        setting: Dotted name of the setting.
        value: Plain values, classes, and objects of the classes that a configuration may name; also in mappings and
            lists.
        package: Package of the object that has this argument; its own classes are allowed too.

    Raises:
        ConfigurationError: The value cannot be written and read back.
    """
    if value is None or type(value) in {str, int, float, bool}:
        return value
    if isinstance(value, Mapping):
        return {name: to_plain(f"{setting}.{name}", each, package) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(setting, each, package) for each in value]
    if isinstance(value, (Enum, np.generic)):
        return value.value if isinstance(value, Enum) else value.item()
    if isinstance(value, (Path, timedelta)):
        return str(value)
    return path_of(value) if isinstance(value, type) else _class_and_arguments(setting, value, package)


def path_of(class_type: type) -> str:
    """Give the dotted path of a class.

    Raises:
        ConfigurationError: The class cannot be imported by that path.
    """
    found: object = import_module(class_type.__module__)
    for name in class_type.__qualname__.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, type):
        message = (
            f"A run must import its classes by name, but {class_type.__qualname__} is not in the module "
            f"{class_type.__module__}. Define it there, outside of functions."
        )
        raise ConfigurationError(message)
    return f"{class_type.__module__}.{class_type.__qualname__}"


def _class_and_arguments(setting: str, value: object, package: str) -> dict[str, Plain]:
    _check_kind(setting, value, package)
    switched_off = _switched_off(value) if isinstance(value, AnomalibModule) else {}
    spec = ClassSpec(path_of(type(value)), switched_off | _arguments(setting, value))
    if not isinstance(value, AnomalibModule) and not getattr(value, "hparams", {}):
        _check_rebuilt(setting, value, spec)
    return asdict(spec)


def _check_kind(setting: str, value: object, package: str) -> None:
    """Check that a configuration may name the class of an object, and that the object holds no tensors."""
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
    if isinstance(value, nn.Module) and not isinstance(value, AnomalibModule) and value.state_dict():
        raise _refusal(setting, value, "it holds tensors")


def _switched_off(model: AnomalibModule) -> dict[str, Plain]:
    """Give the components that a model was built without.

    Raises:
        ConfigurationError: The model was trained, or a component is not its own.
    """
    kind, parts = type(model).__name__, [name for name in COMPONENTS if name in _parameters(model)]
    if model._trainer is not None:  # noqa: SLF001  # the public name raises where there is none
        message = (
            f"A run trains a new {kind} for each tile, but the given one is already trained, and its weights would not "
            "be used. Give a new one, or its class with model_args={...}."
        )
        raise ConfigurationError(message)
    for name in parts:
        if (part := getattr(model, name)) is not None:
            own = getattr(model, f"configure_{name}")()
            if repr((type(part), vars(part))) != repr((type(own), vars(own))):
                message = f"The {name} of the {kind} is not the model's own. {COMPONENTS[name]}"
                raise ConfigurationError(message)
    return {name: False for name in parts if getattr(model, name) is None}


def _parameters(value: object) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(value)).parameters


def _arguments(setting: str, value: object) -> dict[str, Plain]:
    """Give the arguments that an object was built with."""
    package, arguments = type(value).__module__.partition(".")[0], {}
    for name, parameter in _parameters(value).items():
        if isinstance(value, AnomalibModule) and name in COMPONENTS:
            continue
        if (kept := _kept(value, name)) is LACKING:
            if isinstance(value, AnomalibDataModule) and name == KEPT_AS_THREE:
                continue
            raise _refusal(setting, value, f"it does not keep its argument {name}")
        try:
            arguments[name] = to_plain(f"{setting}.init_args.{name}", _named(parameter, kept), package)
        except ConfigurationError as error:
            reason = f"its {name} is a {type(kept).__name__}, which cannot be written"
            raise _refusal(setting, value, reason) from error
    return arguments


def _kept(value: object, name: str) -> Plain:
    """Give the value that an object keeps of an argument: in ``hparams``, an attribute or a property."""
    hparams, held = getattr(value, "hparams", {}), getattr(value, "__dict__", {})
    if name in hparams:
        return hparams[name]
    return next((held[each] for each in (name, f"_{name}") if each in held), getattr(value, name, LACKING))


def _named(parameter: inspect.Parameter, value: Plain) -> Plain:
    """Give the name of an ``Enum`` member, which jsonargparse expects, unless the argument may be a string."""
    text = parameter.annotation is parameter.empty or re.search(r"\bstr\b", str(parameter.annotation))
    return value.name if isinstance(value, Enum) and not text else value


def _check_rebuilt(setting: str, value: object, spec: ClassSpec) -> None:
    """Check that an object keeps its arguments unchanged, and not doubled for example."""
    try:
        again = _arguments(setting, spec.build(type(value)))
    except (ConfigurationError, ValueError) as error:  # jsonargparse has no subclasses of some kinds of classes
        reason = f"none can be built with the arguments that it keeps, {dict(spec.init_args)}"
        raise _refusal(setting, value, reason) from error
    for name, kept in spec.init_args.items():
        if again[name] != kept and not _are_one_path(again[name], kept):
            reason = f"its {name} is not the argument: one that is built with {kept!r} has {again[name]!r}"
            raise _refusal(setting, value, reason)


def _are_one_path(one: Plain, other: Plain) -> bool:
    """Whether two strings are paths of one file, such as ``./images`` and ``images``."""
    return isinstance(one, str) and isinstance(other, str) and Path(one) == Path(other)


def _refusal(setting: str, value: object, reason: str) -> ConfigurationError:
    kind, path = type(value).__name__, f"{type(value).__module__}.{type(value).__qualname__}"
    return ConfigurationError(
        f"A run must write the class and arguments of an object into config.yaml, but cannot do so for this {kind}: "
        f'{reason}. Give {setting} as {{"class_path": "{path}", "init_args": {{...}}}} instead.'
    )
