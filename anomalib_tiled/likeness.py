"""What of an object is not as in a new one of its class."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS_OF_MODULES = ("_modules", "_parameters", "_buffers")
"""Where PyTorch keeps what a module is made of; nobody writes these names."""

PLAIN = (str, bytes, int, float, complex, AbstractSet, deque, np.ndarray, type, BuiltinFunctionType)
"""What is compared as a whole, whatever else it holds."""

LACKING = object()


class Difference(NamedTuple):
    """Something in which two objects differ.

    Args:
        name: Dotted path of the attribute, "" for the objects themselves.
        what: What of it differs: ``value``; or of a tensor ``content``, ``shape`` and others.
    """

    name: str
    what: str


def changes(given: object, new: object, other: object) -> list[Difference]:
    """Find what of an object cannot be had by making it again: what is alike in two new ones, and not in this one.

    So weights that are drawn at random do not count, unless something was written into them after they were drawn.

    Args:
        given: The object.
        new: One that was made just now.
        other: Another one, made in the same way.

    Returns:
        Attributes nearest to the object first.
    """
    by_chance = set(_differences(other, new))
    return [each for each in _differences(given, new) if each not in by_chance]


def _differences(given: object, new: object) -> Iterator[Difference]:
    """Compare two objects, and all that they hold, attribute by attribute."""
    rest: deque[tuple[str, object, object]] = deque([("", given, new)])
    seen: dict[tuple[int, int], tuple[object, object]] = {}  # they are kept, as numbers of lost objects are used again
    while rest:
        name, one, two = rest.popleft()
        if one is two or (id(one), id(two)) in seen:
            continue
        seen[id(one), id(two)] = one, two
        one, two = _simple(one), _simple(two)
        if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
            yield from (Difference(name, what) for what in _between_tensors(one, two))
            continue
        parts = _parts(one, two) if type(one) is type(two) else None
        if parts is not None:
            rest.extend((_joined(name, part), *both) for part, both in parts.items())
        elif not _equal(one, two):
            yield Difference(name, "value")


def _simple(value: object) -> object:
    """Give a value in the form in which a configuration holds it, if it is in another one."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return [*value] if isinstance(value, tuple) else value


def _between_tensors(one: torch.Tensor, two: torch.Tensor) -> Iterator[str]:
    for what in ("shape", "dtype", "requires_grad"):
        if getattr(one, what) != getattr(two, what):
            yield what
    if _writes(one) != _writes(two):
        yield "writes"
    try:
        equal = torch.equal(one.detach().cpu(), two.detach().cpu())
    except (RuntimeError, TypeError):  # some tensors hold nothing that can be compared
        equal = False
    if not equal:
        yield "content"


def _writes(tensor: torch.Tensor) -> int | None:
    """Say how often something was written into a tensor; ``None`` if PyTorch does not count."""
    return None if tensor.is_inference() else tensor._version  # noqa: SLF001  # PyTorch has no other name for it


def _parts(one: object, two: object) -> dict[str, tuple[object, object]] | None:
    """Give what two objects of a class hold, by name; ``None`` if they hold nothing that can be looked at."""
    ours, theirs = _held(one), _held(two)
    if ours is None or theirs is None:
        return None
    names = [*(ours | theirs)]
    if not isinstance(one, (Mapping, list)):
        # What is there only since the object was used will be there again, but methods must stay those of the class.
        names = [name for name in names if name in theirs or hasattr(type(one), name)]
    return {name: (ours.get(name, LACKING), theirs.get(name, LACKING)) for name in names}


def _held(value: object) -> dict[str, object] | None:
    """Give what an object holds, by name or place; ``None`` if it is to be compared as a whole."""
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else str(place): value[name] for place, name in enumerate(value)}
    if isinstance(value, list):
        return {str(place): each for place, each in enumerate(value)}
    if isinstance(value, (FunctionType, MethodType, partial)):
        return _held_by_function(value)
    slots = [slot for each in type(value).__mro__ for slot in vars(each).get("__slots__", ())]
    if isinstance(value, PLAIN) or not (slots or hasattr(value, "__dict__")):
        return None
    return {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})


def _held_by_function(function: FunctionType | MethodType | partial[object]) -> dict[str, object]:
    """Give what a function does, and what it knows: two of one name may do different things."""
    if isinstance(function, MethodType):
        return {"function": function.__func__, "self": function.__self__}
    if isinstance(function, partial):
        return {"function": function.func, "arguments": function.args, "keywords": function.keywords}
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return {"module": function.__module__, "code": function.__code__, "defaults": function.__defaults__, "cells": cells}


def _joined(name: str, part: str) -> str:
    if part in PARTS_OF_MODULES:
        return name
    return f"{name}.{part}" if name else part


def _equal(one: object, two: object) -> bool:
    try:
        return bool(np.all(one == two) if isinstance(one, np.ndarray) else one == two)
    except (TypeError, ValueError, RuntimeError):
        return False
