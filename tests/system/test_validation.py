from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from typing_extensions import NotRequired, TypedDict

from anomalib_tiled.grid import Size
from anomalib_tiled.system.validation import validated


@dataclass(frozen=True)
class Part:
    name: str
    score: float | None = None


@dataclass(frozen=True)
class Whole:
    size: Size
    count: int
    label: bool = False
    parts: tuple[Part, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)


class Facts(TypedDict):
    host: str
    notes: Sequence[str]
    limit: NotRequired[float]


def test_fields_get_their_types() -> None:
    content = {"size": [3, 4], "count": 2, "label": 1, "parts": [{"name": "a", "score": 1}], "scores": {"a": 2}}
    whole = validated(Whole, {**content, "of a later version": 3})
    assert whole == Whole(Size(3, 4), 2, True, (Part("a", 1.0),), {"a": 2.0})  # noqa: FBT003
    assert [type(each) for each in (whole.size, whole.label, whole.parts[0].score)] == [Size, bool, float]
    assert validated(Facts, {"host": "a", "notes": [], "more": 1}) == {"host": "a", "notes": []}


FAULTS = {
    "parts, size": ({"count": 1}, "lacks size"),
    "all": ({}, "lacks count, size"),
    "nested": ({"size": [3, 4], "count": 1, "parts": [{}]}, "lacks parts.0.name"),
    "text": ({"size": [3, 4], "count": "x"}, "count is 'x': it should be a valid integer"),
    "fraction": ({"size": [3, 4], "count": 0.5}, "count is 0.5: it should be a valid integer"),
    "null": ({"size": None, "count": 1}, "size is None: it should be "),
    "infinity": ({"size": [3, 4], "count": 1, "scores": {"a": float("inf")}}, "scores.a is inf: it should be a fin"),
    "no number": ({"size": [3, 4], "count": 1, "scores": {"a": float("nan")}}, "scores.a is nan: it should be a fi"),
    "huge": ({"size": [3, 4], "count": 1, "scores": {"a": 10**400}}, "scores.a is 1000000"),
    "long": ({"size": [3, 4], "count": "x" * 999}, "count is 'xxxxxxxxxxxx...xxxxxxxxxxxxx': it"),
    "list": ([1], "it is [1]: it should be a dictionary or an instance of Whole"),
}


@pytest.mark.parametrize(("content", "words"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_named_and_shown_in_short(content: object, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        validated(Whole, content)
