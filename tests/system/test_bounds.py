from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system import bounds
from anomalib_tiled.system.bounds import (
    DEEPEST,
    LONGEST_CONFIGURATION,
    LONGEST_NUMBER,
    MOST_VALUES,
    check_yaml,
    parse_json,
    parse_yaml,
    read_bytes,
    read_lines,
)


def mapped(levels: int) -> str:
    return "{a: " * levels + "1" + "}" * levels


def tenfold(levels: int) -> str:
    """Lists of ten times the list before."""
    lists = [f"l{number}: &l{number} [{', '.join([f'*l{number - 1}'] * 10)}]" for number in range(1, levels)]
    return "\n".join(["l0: &l0 [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", *lists])


ALLOWED = {
    "nothing": "",
    "broken": "tiling: [1,\nb",
    "an unknown alias": "a: *b",
    "1,500 folders, each normal, abnormal and masked": "\n".join(
        f"{kind}_dir: [{', '.join(f'{kind}/{number}' for number in range(1500))}]"
        for kind in ("normal", "abnormal", "mask")
    ),
    "as deep as may be": mapped(DEEPEST),
    "as many values as may be": f"a: [{'1,' * (MOST_VALUES - 3)}]",
    "a name of any bytes": "/images/\udcfc.png",
    "a long text": f"a: '{'b' * (LONGEST_NUMBER + 1)}'",
    "merged settings": "base: &base {a: 1, b: 2}\none: {<<: *base, a: 3}\ntwo: {<<: *base, b: 4}",
    "lists of settings": "[{a: 1}, {a: 1}]",
    "a text with a name twice": "prompt: 'a: 1\n\n  a: 2'",
}


@pytest.mark.parametrize("text", ALLOWED.values(), ids=ALLOWED)
def test_what_is_within_bounds_is_the_parsers_concern(text: str) -> None:
    check_yaml(text, "It")


DEEP, MANY = (
    "It may nest 100 levels deep, but nests deeper.",
    "It may hold 5000 values, each counted as often as it is",
)
REFUSED = {
    "lists": ("[" * (DEEPEST + 1), DEEP),
    "settings": (mapped(DEEPEST + 1), DEEP),
    "dots of dots": (f"a{'.a' * 60}:\n  b{'.b' * 60}: 1", DEEP),
    "aliases in depth": (f"a: &a {mapped(60)}\nb: {mapped(60).replace('1', '*a')}", DEEP),
    "values": (f"[{'1,' * MOST_VALUES}]", MANY),
    "values behind aliases": (tenfold(4), MANY),
    "merged values": (f"{tenfold(3)}\nm: {{<<: [{'*l0, ' * 10}], n: [*l2, *l2, *l2, *l2]}}", MANY),
    "a circle": (
        "a: &a [*a]",
        "It cannot be used: in line 1, an anchor stands for something that it is a part of.",
    ),
    "length": (
        f"# {'a' * LONGEST_CONFIGURATION}",
        f"It may have {LONGEST_CONFIGURATION} characters, but has more. Shorten it.",
    ),
    "a word": (f"\na: {'9' * (LONGEST_NUMBER + 1)}", "in line 2, a number has more than 4000 characters."),
    "a zero byte": ('a: "b\\0c"', "It cannot be used: in line 1, a value holds a zero byte. Correct it."),
    "within a text": (f"\na: '{mapped(DEEPEST + 1)}'", "It (line 2) may nest 100 levels deep, but nests deeper."),
    "a text within a text": (json.dumps({"a": json.dumps({"b": mapped(101)})}), "It (line 1) (line 1) may nest"),
    "a setting twice": (
        "a: 1\nb: 2\na: 3",
        "must hold each setting once, but 'a' is in line 1 and again in line 3.",
    ),
    "a setting of JSON twice": ('{"a": 1,\n"a": 2}', "but 'a' is in line 1 and again in line 2. Remove one"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_beyond_bounds_is_told_with_the_bound(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check_yaml(text, "It")


def test_nothing_beyond_bounds_reaches_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_yaml("a: [1, 2]", "It") == {"a": [1, 2]}
    monkeypatch.setattr(yaml, "safe_load", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(ConfigurationError, match="nests deeper"):
        parse_yaml(mapped(DEEPEST + 1), "It")


@pytest.mark.parametrize("text", ["[1", "!!python/name:os.system", "2001-99-99", "{a: b: c}"])
def test_what_is_no_yaml(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^It cannot be read as YAML: "):
        parse_yaml(text, "It")


@pytest.mark.parametrize(
    "content", [{"a": ["[[[", "\\", '\\"[', "]]"]}, [[]] * 1000, "[" * 1000, {"a": {"b": "\udcfc"}}, ['"' + "{" * 200]]
)
def test_json_is_what_it_is(content: object) -> None:
    assert parse_json(json.dumps(content).encode()) == content


@pytest.mark.parametrize("opening", ["[", '{"a":', '["]]]",['])
def test_deep_json_is_not_parsed(opening: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds.json, "loads", lambda *_: pytest.fail("it was parsed"))
    for times in (DEEPEST + 1, 10_000):
        with pytest.raises(ValueError, match="nests more than 100 levels deep"):
            parse_json((opening * times).encode())


def test_a_file_is_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "any").write_bytes(b"12345\n1234\n")
    assert read_bytes(path, 11) == b"12345\n1234\n"
    with pytest.raises(ValueError, match="it has more than 10 bytes"):
        read_bytes(path, 10)
    monkeypatch.setattr(bounds, "LARGEST_FILE", 6)
    assert list(read_lines(path)) == [b"12345\n", b"1234\n"]
    monkeypatch.setattr(bounds, "LARGEST_FILE", 5)
    with pytest.raises(ValueError, match="it has more than 5 bytes"):
        list(read_lines(path))


def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="it is a pipe, a socket or a device, not a file"):
            read_bytes(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)
