"""How much is read of a configuration, and of the files of a run: measured before a parser sees it.

A short text may stand for a long one, or nest deeper than a program can follow, and a parser finds out only when memory
is full. So a text is measured first, in one pass from its beginning to its end, which stops where a bound is passed.
"""

from __future__ import annotations

import json
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import yaml

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_CONFIGURATION = 2**20
"""Characters of a configuration."""

MOST_VALUES = 5_000
"""Values of a configuration; what an anchor such as ``&name`` marks counts again for each ``*name``.

The time that jsonargparse takes for a list grows with the square of its length: 3 seconds for 1,500 folders, half a
minute for 5,000, hours for 50,000. Folders of images and their masks, each listed, are three values for one.
"""

DEEPEST = 100
"""Levels of nesting, of a configuration and of JSON; each dot in the name of a setting is one."""

LONGEST_NUMBER = 4_000
"""Characters of a number."""

LARGEST_FILE = 2**26
"""Bytes of a file of JSON or CSV that belongs to a run, or of a line of one that is read line by line."""

EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""What reads YAML piece by piece, without putting the pieces together."""

TEXT = re.compile(rb'"[^"]*"?')
STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""What brackets of JSON do to the depth, as signed bytes."""


def read_bytes(path: Path, most: int = LARGEST_FILE) -> bytes:
    """Read a file, but none that is too large, or has no end.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        ValueError: It is too large, or no file.
        OSError: It cannot be read.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder, the system says what is wrong
        message = "it is a pipe, a socket or a device, not a file"
        raise ValueError(message)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        message = f"it has more than {most} bytes"
        raise ValueError(message)
    return content


def read_lines(path: Path) -> Iterator[bytes]:
    """Read a file line by line.

    Raises:
        ValueError: A line is too long.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        while line := file.readline(LARGEST_FILE + 1):
            if len(line) > LARGEST_FILE:
                message = f"it has more than {LARGEST_FILE} bytes"
                raise ValueError(message)
            yield line


def parse_json(content: bytes) -> object:
    """Parse JSON.

    Args:
        content: As `read_bytes` or `read_lines` gives it.

    Raises:
        ValueError: It is none, or nests too deeply.
    """
    outside_of_texts = TEXT.sub(b"", content.replace(rb"\\", b"").replace(rb"\"", b""))
    brackets = re.sub(rb"[^][{}]+", b"", outside_of_texts).translate(STEPS)
    if max(accumulate(memoryview(brackets).cast("b")), default=0) > DEEPEST:
        message = f"it nests more than {DEEPEST} levels deep"
        raise ValueError(message)
    return json.loads(content.decode())


def parse_yaml(text: str, name: str) -> object:
    """Parse YAML without tags.

    Args:
        text: The text.
        name: What it is, for messages.

    Raises:
        ConfigurationError: It is none, or larger than it may be.
    """
    check_yaml(text, name)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        message = f"{name} cannot be read as YAML: {error}"
        raise ConfigurationError(message) from error


def check_yaml(text: str, name: str, *, settings: bool = True) -> None:
    """Measure a text of YAML before it is parsed.

    Args:
        text: The text. What is wrong with it otherwise, the parser says.
        name: What it is, for messages.
        settings: Whether it holds settings by name, of which each may stand there once.

    Raises:
        ConfigurationError: It is too long, nests too deeply, has too many values, or a setting twice.
    """
    if len(text) > LONGEST_CONFIGURATION:
        message = f"{name} may have {LONGEST_CONFIGURATION} characters, but has more. Shorten it."
        raise ConfigurationError(message)
    measure = _Measure(name, settings=settings)
    with suppress(yaml.YAMLError, UnicodeEncodeError):  # names of files may be of any bytes; as YAML, they are words
        for event in yaml.parse(text, Loader=EVENTS):
            measure.take(event)


@dataclass
class _Node:
    """A list or mapping that has begun, or a value that is complete.

    Args:
        anchor: Name that aliases call it by; ``None`` if it has none.
        level: How many levels it lies below the whole; dots in the names of settings are levels too.
        lines: Lines of the settings in it, by their names; ``None`` in a list, and for a word.
        values: Values in it, with itself.
        depth: Levels in it, with itself.
        parts: What it consists of so far; in a mapping, names and values in turn.
        dots: Levels that the name of the last setting stands for.
    """

    anchor: str | None
    level: int = 0
    lines: dict[str, int] | None = None
    values: int = 1
    depth: int = 1
    parts: int = 0
    dots: int = 0

    @property
    def awaits_name(self) -> bool:
        """Whether the name of a setting comes next."""
        return self.lines is not None and self.parts % 2 == 0


class _Measure:
    """Takes in a text of YAML, event by event.

    Args:
        name: What it is.
        settings: Whether a setting may stand there once only.
    """

    def __init__(self, name: str, *, settings: bool) -> None:
        self._name, self._settings = name, settings
        self._open: list[_Node] = []
        self._known: dict[str, _Node] = {}

    def take(self, event: yaml.Event) -> None:
        """Take in the next event.

        Raises:
            ConfigurationError: A bound is passed.
        """
        if isinstance(event, yaml.CollectionStartEvent):
            lines: dict[str, int] | None = {} if isinstance(event, yaml.MappingStartEvent) else None
            self._open.append(_Node(event.anchor, self._level + 1, lines))
            self._check_depth(0)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self._open.pop())
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._behind(event))
        elif isinstance(event, yaml.ScalarEvent):
            self._take_word(event)

    @property
    def _level(self) -> int:
        return self._open[-1].level + self._open[-1].dots if self._open else 0

    def _behind(self, alias: yaml.AliasEvent) -> _Node:
        if any(node.anchor == alias.anchor for node in self._open):
            raise self._refusal(alias, f"*{alias.anchor} stands for something that it is a part of")
        node = self._known.get(alias.anchor, _Node(None))
        return _Node(None, values=node.values, depth=node.depth)

    def _take_word(self, event: yaml.ScalarEvent) -> None:
        """Take in a word, which is the name of a setting, or may be a text of YAML itself."""
        if not event.style and len(event.value) > LONGEST_NUMBER and event.value[0] in "+-.0123456789":
            raise self._refusal(event, f"a number has more than {LONGEST_NUMBER} characters")
        if "\0" in event.value:
            raise self._refusal(event, "a value holds a zero byte")
        if self._open and self._open[-1].awaits_name:
            self._take_name(self._open[-1], event)
        elif self._open and (len(event.value) > DEEPEST or "&" in event.value):
            check_yaml(event.value, f"{self._name} (line {_line(event)})", settings=False)
        self._add(_Node(event.anchor, depth=0))

    def _take_name(self, mapping: _Node, event: yaml.ScalarEvent) -> None:
        lines = cast("dict[str, int]", mapping.lines)
        if self._settings and event.value in lines:
            message = (
                f"{self._name} must hold each setting once, but {event.value!r} stands in line {lines[event.value]} "
                f"and again in line {_line(event)}. Remove one of them."
            )
            raise ConfigurationError(message)
        lines[event.value] = _line(event)
        mapping.dots = event.value.count(".")
        self._check_depth(0)

    def _add(self, node: _Node) -> None:
        """Count a value to the list or mapping that it is in."""
        self._check_depth(node.depth)
        if node.anchor is not None:
            self._known[node.anchor] = node
        if not self._open:
            return
        whole = self._open[-1]
        whole.depth = max(whole.depth, node.depth + whole.dots + 1)
        whole.parts += 1
        whole.values += node.values
        if whole.values > MOST_VALUES:
            message = (
                f"{self._name} may hold {MOST_VALUES} values, each counted as often as it is used, but holds more. "
                "Shorten it."
            )
            raise ConfigurationError(message)

    def _check_depth(self, further: int) -> None:
        if self._level + further > DEEPEST:
            message = f"{self._name} may nest {DEEPEST} levels deep, but nests deeper. Lay it out flatter."
            raise ConfigurationError(message)

    def _refusal(self, event: yaml.Event, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self._name} cannot be used: in line {_line(event)}, {reason}. Correct it.")


def _line(event: yaml.Event) -> int:
    return int(event.start_mark.line) + 1
