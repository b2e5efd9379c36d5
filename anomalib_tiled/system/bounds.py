"""Limits of the size of configurations and of the files of a run, checked before a parser reads them.

With aliases, a short YAML text may stand for a very long one, or nest deeper than a program can follow; a parser finds
out when memory is full. So this module measures a text first, in one pass that stops at the first exceeded limit.
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
"""Bytes of a JSON or CSV file of a run, or of one line where a file is read line by line."""

EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads YAML as a stream of events, without building objects."""

TEXT = re.compile(rb'"[^"]*"?')
STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""What brackets of JSON do to the depth, as signed bytes."""


def read_bytes(path: Path, most: int = LARGEST_FILE) -> bytes:
    """Read a file of limited size.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        ValueError: The file is too large, or is a pipe, a socket or a device.
        OSError: The file cannot be read.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # reading a folder fails with the system's own error
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
        OSError: The file cannot be read.
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
        content: What `read_bytes` or `read_lines` returns.

    Raises:
        ValueError: The content is not JSON, or nests too deeply.
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
        name: What the text is, for messages.

    Raises:
        ConfigurationError: The text is not YAML, or exceeds a limit.
    """
    check_yaml(text, name)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        message = f"{name} cannot be read as YAML: {error}"
        raise ConfigurationError(message) from error


def check_yaml(text: str, name: str, *, settings: bool = True) -> None:
    """Check the size of a YAML text before it is parsed.

    Args:
        text: The text. The parser reports its other errors.
        name: What the text is, for messages.
        settings: Whether the text holds settings by name, each of which may occur once.

    Raises:
        ConfigurationError: The text is too long, nests too deeply, has too many values, or a setting twice.
    """
    if len(text) > LONGEST_CONFIGURATION:
        message = f"{name} may have {LONGEST_CONFIGURATION} characters, but has more. Shorten it."
        raise ConfigurationError(message)
    measure = _Measure(name, settings=settings)
    with suppress(yaml.YAMLError, UnicodeEncodeError):  # file names may hold any bytes
        for event in yaml.parse(text, Loader=EVENTS):
            measure.take(event)


@dataclass
class _Node:
    """A list or mapping that has begun, or a complete value.

    Args:
        anchor: Name for aliases; ``None`` if there is none.
        level: Levels above this node; dots in the names of settings are levels too.
        lines: Lines of the settings in a mapping, by name; ``None`` for lists and scalars.
        values: Number of values in the node, itself included.
        depth: Number of levels in the node, itself included.
        parts: Number of direct parts so far; in a mapping, names and values in turn.
        dots: Levels that the dots in the name of the last setting stand for.
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
    """Measures a YAML text, event by event.

    Args:
        name: What the text is, for messages.
        settings: Whether each setting may occur only once.
    """

    def __init__(self, name: str, *, settings: bool) -> None:
        self._name, self._settings = name, settings
        self._open: list[_Node] = []
        self._known: dict[str, _Node] = {}

    def take(self, event: yaml.Event) -> None:
        """Take in the next event.

        Raises:
            ConfigurationError: A limit is exceeded.
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
            self._take_scalar(event)

    @property
    def _level(self) -> int:
        return self._open[-1].level + self._open[-1].dots if self._open else 0

    def _behind(self, alias: yaml.AliasEvent) -> _Node:
        if any(node.anchor == alias.anchor for node in self._open):
            raise self._refusal(alias, f"*{alias.anchor} stands for something that it is a part of")
        node = self._known.get(alias.anchor, _Node(None))
        return _Node(None, values=node.values, depth=node.depth)

    def _take_scalar(self, event: yaml.ScalarEvent) -> None:
        """Take in a scalar: the name of a setting, or a value, which may be YAML text itself."""
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
                f"{self._name} must hold each setting once, but {event.value!r} is in line {lines[event.value]} "
                f"and again in line {_line(event)}. Remove one of them."
            )
            raise ConfigurationError(message)
        lines[event.value] = _line(event)
        mapping.dots = event.value.count(".")
        self._check_depth(0)

    def _add(self, node: _Node) -> None:
        """Count a value for the list or mapping around it."""
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
