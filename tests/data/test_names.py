from __future__ import annotations

import os

import pytest

from anomalib_tiled.data import names as module
from anomalib_tiled.data.names import Names

NAMES = ["/data/b.png", "/data/a.png", "", os.fsdecode(b"/data/\xfc.png"), "/data/ü.png"]


def test_names_keep_their_order_and_their_bytes() -> None:
    names = Names.of(NAMES)
    assert [*names] == NAMES
    assert (names[-1], names[1:3], len(names)) == (NAMES[-1], NAMES[1:3], 5)
    with pytest.raises(IndexError):
        _ = names[5]


def test_a_name_is_found() -> None:
    names = Names.of(NAMES)
    assert [names.place_of(name) for name in NAMES] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match=r"c\.png"):
        names.place_of("c.png")


def test_names_of_the_same_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_hash", lambda name: len(name) // 100)
    names = Names.of(NAMES)
    assert [names.place_of(name) for name in NAMES] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        names.place_of("c.png")


def test_there_may_be_no_names() -> None:
    assert [*Names.of([])] == []
    with pytest.raises(KeyError):
        Names.of([]).place_of("")
