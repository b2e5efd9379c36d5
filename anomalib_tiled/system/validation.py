"""Builds objects from parsed JSON: anybody may have changed a file since this package wrote it."""

from __future__ import annotations

import reprlib
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def validated(kind: type[T], content: object) -> T:
    """Build an object whose fields have the types that its class declares.

    What can stand for a type is converted, such as 1 for true. Numbers must be finite. Other fields are left out.

    Args:
        kind: A dataclass or a ``TypedDict``; pydantic must find the names in its annotations at run time.
        content: What `parse_json` returns.

    Raises:
        ValueError: A field is missing, or its value is of another type.
    """
    from pydantic import ValidationError  # takes a tenth of a second, and most commands read no such file

    try:
        built: T = _adapter(kind).validate_python([content])[0]  # type: ignore[arg-type]  # every class is hashable
    except ValidationError as error:
        raise ValueError(_in_words(error)) from error
    return built


@cache
def _adapter(kind: type) -> TypeAdapter[list[Any]]:
    from pydantic import TypeAdapter

    # pydantic takes no settings for a class that is not its own, but such a class has those of the list around it.
    return TypeAdapter(list[kind], config={"allow_inf_nan": False})  # type: ignore[valid-type]


def _in_words(error: ValidationError) -> str:
    """Name all fields that are missing, or else show the first wrong one, as in ``score is 'x': it should ...``."""
    faults = {".".join(map(str, each["loc"][1:])) or "it": each for each in error.errors(include_url=False)}
    if lacking := sorted(name for name, each in faults.items() if each["type"] == "missing"):
        return f"lacks {', '.join(lacking)}"
    name, first = next(iter(faults.items()))
    return f"{name} is {reprlib.repr(first['input'])}: {first['msg'].replace('Input ', 'it ', 1)}"
