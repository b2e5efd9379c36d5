"""Turn jsonargparse's error messages into single lines that list the allowed names."""

from __future__ import annotations

import re
from inspect import isabstract
from typing import TYPE_CHECKING

import anomalib.data
import anomalib.models
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule

from anomalib_tiled.config.anomalib_config import NAMED_HERE
from anomalib_tiled.data.boards import DemoBoards
from anomalib_tiled.errors import allowed_names
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.stages import kinds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jsonargparse import ArgumentParser

UNKNOWN = (
    r"Group '(\S+)' does not accept option '(\S+)'|Option '(\S+)' is not accepted|Unrecognized arguments: --([^\s=]+)"
)
"""Messages of jsonargparse about a setting that does not exist."""

NO_REASON = r"NoneType|^Expected a path|^Does not validate"
"""Lines of jsonargparse that are not the reason of an error."""

NO_CLASS = r"Expected a class: ([^.]+)|Problem with given class_path '(\S+)'"
"""Messages of jsonargparse about a name that is not that of a class."""

PARSED = ("Namespace(", "NestedArg(", "{")
"""Beginnings of values that hold more than the faulty one."""


def explained(parser: ArgumentParser, message: str) -> str:
    """Shorten a message of jsonargparse to a line, and add the allowed names.

    Args:
        parser: The parser that raised the error.
        message: Its message.
    """
    if unknown := re.search(UNKNOWN, message):
        return _unknown_setting(parser, ".".join(filter(None, unknown.groups())))
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("typing.Literal", "one of ")
    message = message.replace("Expected a dot import path string", "Expected a class")
    message = re.sub(r"\s+Subclass types expect one of:(\s+- a .*)+", "", message)
    if not (key := re.match(r'Parser key "(\S+)":\s*', message)):
        return message
    body, *rest = re.split(r"\s*Given value: ", message[key.end() :])
    listed = [" ".join(each.split()) for each in re.split(r"(?:^|\n)\s*- ", body.partition("\n  Given value type")[0])]
    reasons = [each.removesuffix(".") for each in listed[1:] if not re.search(NO_REASON, each)] or listed[:1]
    line = f"{key[1]}: {'; or '.join(reasons)}."
    if no_class := re.search(NO_CLASS, line):
        names = list(_classes_for(key[1]))
        allowed = f"{allowed_names(next(filter(None, no_class.groups())), names)} Or give" if names else "Give"
        return f"{line} {allowed} a dotted class path.{broken_plugins()}"
    shown = not rest or rest[0].startswith(PARSED) or any(each.endswith(rest[0]) for each in reasons)
    return line if shown else f"{line} Given: {rest[0]}."


def broken_plugins() -> str:
    """Name the plugins that cannot be loaded, and say why; empty if there are none."""
    broken = "; ".join(map(str, find_plugins().broken))
    return f" These plugins cannot be loaded: {broken}." if broken else ""


def _unknown_setting(parser: ArgumentParser, name: str) -> str:
    first, _, rest = name.partition(".")
    if first in NAMED_HERE:
        return f"{first!r} of anomalib's own tiled ensemble is called {NAMED_HERE[first]} here. Give that instead."
    top = _settings_of(parser, "")
    if not rest and (inner := _settings_of(parser, first)):
        return f"{first} is a group of settings. Give one of {', '.join(f'{first}.{each}' for each in inner)}."
    if first not in top:
        where, wrong, allowed = "", first, top
    elif rest and (inner := _settings_of(parser, first)):
        where, wrong, allowed = f"{first} has no setting", rest, inner
    else:
        where, wrong, allowed = "", name, top
    return f"{where or 'There is no setting'} {wrong!r}. {allowed_names(wrong, allowed)}"


def _settings_of(parser: ArgumentParser, group: str) -> list[str]:
    """Give the names of the settings in a group, or of the whole configuration."""
    prefix = f"{group}." if group else ""
    options = [action.dest for action in parser._actions]  # noqa: SLF001  # argparse has no public list of options
    names = {name[len(prefix) :].partition(".")[0] for name in options if name.startswith(prefix)}
    return sorted(names - {"help", "print_config", ""})


def _concrete(base: type, candidates: Iterable[object]) -> list[str]:
    classes = [each for each in candidates if isinstance(each, type)]
    return [each.__name__ for each in classes if issubclass(each, base) and not isabstract(each)]


def _classes_for(key: str) -> Iterable[str]:
    if key == "model":
        return _concrete(AnomalibModule, vars(anomalib.models).values())
    if key == "data":
        return _concrete(AnomalibDataModule, [*vars(anomalib.data).values(), DemoBoards])
    kind = kinds.kind_at(key)
    return [] if kind is None else [choice.name for choice in find_plugins().of(kind.name)]
