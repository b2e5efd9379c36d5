"""Short names of stages: each stands for a registered class, and never for another imported class of that name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import yaml

from anomalib_tiled.cli.messages import broken_plugins
from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.stages import kinds
from anomalib_tiled.system.bounds import parse_yaml
from anomalib_tiled.system.packages import origin_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.stages.kinds import StageKind

NOTHING = ("null", "Null", "NULL", "~", "None")


def expand_short_names(configuration: Plain) -> Plain:
    """Replace the short names of stages in a configuration by dotted paths.

    Args:
        configuration: Content of a file; anything but a mapping is returned unchanged.

    Raises:
        ConfigurationError: No plugin registers such a name, or several do.
    """
    for kind in kinds.STAGE_KINDS:
        group, _, last = kind.setting.rpartition(".")
        inner = configuration.get(group) if group and isinstance(configuration, Mapping) else configuration
        if isinstance(inner, Mapping) and last in inner:
            changed = {**inner, last: _expanded(kind, inner[last])}
            configuration = {**configuration, group: changed} if group else changed
    return configuration


def expand_arguments(arguments: Sequence[str]) -> list[str]:
    """Replace the short names of stages in arguments of the command line, as `expand_short_names` does.

    Args:
        arguments: All arguments, such as ``--scoring Max``, ``--scoring=Max`` or ``--scoring.class_path Max``.
    """
    changed = [_expanded_argument(argument) for argument in arguments]
    for number, (option, value) in enumerate(pairwise(arguments), start=1):
        if kind := _kind_of(option):
            changed[number] = _expanded_text(kind, value)
    return changed


def _expanded_argument(argument: str) -> str:
    option, equals, value = argument.partition("=")
    kind = _kind_of(option)
    return f"{option}={_expanded_text(kind, value)}" if kind and equals else argument


def _kind_of(option: str) -> StageKind | None:
    name = option.removeprefix("--").removesuffix(".class_path")
    return kinds.kind_at(name) if option.startswith("--") else None


def _expanded_text(kind: StageKind, text: str) -> str:
    if text.lstrip().startswith("{"):
        value = parse_yaml(text, f"--{kind.setting}")
        return str(yaml.safe_dump(_expanded(kind, value), default_flow_style=True, width=10**9)).strip()
    return str(_expanded(kind, text))


def _expanded(kind: StageKind, value: Plain) -> Plain:
    if isinstance(value, Mapping) and isinstance(name := value.get("class_path"), str):
        return {**value, "class_path": _expanded(kind, name)}
    if not isinstance(value, str) or "." in value or value in NOTHING:
        return value
    choices = find_plugins().of(kind.name)
    match sorted({choice.class_path for choice in choices if choice.name == value}):
        case [path]:
            return path
        case []:
            allowed = f"{allowed_names(value, (choice.name for choice in choices))} Or give a dotted class path."
            message = f"There is no {value!r} for {kind.setting}. {allowed}{broken_plugins()}"
        case paths:
            listed = ", ".join(f"{path} of {origin_of(path)}" for path in paths)
            message = f"{value!r} for {kind.setting} may be any of {listed}. Give the dotted path of the one you mean."
    raise ConfigurationError(message)
