"""What jsonargparse says of a mistake, in a line that says what is allowed."""

from __future__ import annotations

import re
from inspect import isabstract
from typing import TYPE_CHECKING

import anomalib.data
import anomalib.models
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule

from anomalib_tiled.data.boards import DemoBoards
from anomalib_tiled.errors import allowed_names
from anomalib_tiled.origin import origin_of
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.reference_config import NAMED_HERE
from anomalib_tiled.stages import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jsonargparse import ArgumentParser

NO_REASON = r"NoneType|^Expected a path|^Does not validate"
"""What jsonargparse says beside the reason."""

SAID_ALREADY = r"There is no setting|has no setting|Got value|is required|Given value: (?:Namespace|NestedArg)\("
"""Reasons that hold what was given or need not, and values in the form that only jsonargparse knows."""


def explained(parser: ArgumentParser, message: str) -> str:
    """Add to a message of jsonargparse which names are allowed.

    Args:
        parser: The parser that refused something.
        message: What it says.
    """
    for pattern, explain in EXPLANATIONS.items():
        if found := re.search(pattern, message, re.DOTALL):
            return explain(parser, *found.groups())
    return _condensed(message)


def _no_settings(parser: ArgumentParser, given: str) -> str:
    del parser
    return f"A configuration must hold settings by name, but holds {given.strip() or 'nothing'}."


def _unknown_in_group(parser: ArgumentParser, group: str, name: str) -> str:
    return f"{group} has no setting {name!r}. {allowed_names(name, _settings_of(parser, group))}"


def ambiguous(key: str, name: str, paths: Iterable[str]) -> str:
    """Say what a short name may stand for.

    Args:
        key: The setting.
        name: The short name.
        paths: Dotted paths of the classes.
    """
    listed = ", ".join(f"{path} of {origin_of(path)}" for path in paths)
    return f"{name!r} for {key} may be any of {listed}. Give the dotted path of the one you mean."


def unknown_class(key: str, name: str) -> str:
    """Say that there is no such class, and which there are.

    Args:
        key: The setting.
        name: A short name, or a dotted path that leads nowhere.
    """
    known = [] if "." in name else list(_classes_for(key))
    allowed = f"{allowed_names(name, known)} Or give" if known else "Give the name of a class, or"
    return f"There is no {name!r} for {key}. {allowed} a dotted class path.{_broken_plugins()}"


def _clash(parser: ArgumentParser, key: str, name: str, paths: str) -> str:
    del parser
    return ambiguous(key, name, paths.split(", "))


def _unknown_class(parser: ArgumentParser, key: str, name: str) -> str:
    del parser
    return unknown_class(key, name)


def _not_importable(parser: ArgumentParser, key: str, path: str, module: str) -> str:
    if f"{path}.".startswith(f"{module}."):
        return _unknown_class(parser, key, path)
    return f"{path} for {key} cannot be imported: there is no module {module!r}. Install what it belongs to."


def _broken_plugins() -> str:
    """Say which plugins bring nothing because they cannot be loaded."""
    broken = "; ".join(map(str, find_plugins().broken))
    return f" These plugins cannot be loaded: {broken}." if broken else ""


def _condensed(message: str) -> str:
    """Shorten what jsonargparse says of a value that fits none of several types."""
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("typing.Literal", "one of ")
    if not (key := re.match(r'Parser key "(\S+)":\s*', message)):
        return message
    reasons = [line for line in re.findall(r"^\s*- (.*)$", message, re.MULTILINE) if not re.search(NO_REASON, line)]
    if not reasons:
        return f"{key[1]}: {message[key.end() :]}"
    given = re.search(r"Given value: (.*)$", message)
    repeated = given is None or re.search(SAID_ALREADY, f"{reasons[0]} {given[0]}")
    said = "" if given is None or repeated else f" Given: {given[1]}."
    return f"{key[1]}: {'; or '.join(reasons)}{'' if reasons[-1].endswith('.') else '.'}{said}"


def _unknown_setting(parser: ArgumentParser, name: str) -> str:
    first, _, rest = name.partition(".")
    if first in NAMED_HERE:
        return f"{first!r} of anomalib's own tiled ensemble is {NAMED_HERE[first]} here, on the command line too."
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
    options = [action.dest for action in parser._actions]  # noqa: SLF001  # argparse has no public list of them
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


EXPLANATIONS: dict[str, Callable[..., str]] = {
    r"^Unexpected config:\s*(.*)": _no_settings,
    r"Group '(\S+)' does not accept option '(\S+)'": _unknown_in_group,
    r"Option '(\S+)' is not accepted": _unknown_setting,
    r"Unrecognized arguments: --([^\s=]+)": _unknown_setting,
    r'Parser key "(\S+)":.*Multiple subclasses with name (\S+)\. .*ambiguity: ((?:[\w.]+, )*[\w.]*\w)': _clash,
    r'Parser key "(\S+)":.*(?:import path string|accessible or invalid): (\S+)': _unknown_class,
    r"Parser key \"(\S+)\":.*class_path '(\S+)':\s+No module named '(\S+)'": _not_importable,
    r"Parser key \"(\S+)\":.*class_path '(\S+)':\s+module \S+ has no attribute": _unknown_class,
}
"""What jsonargparse says, and what is said instead."""
