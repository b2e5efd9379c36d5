"""Limits of the size of configurations and of the files of a run, checked before a parser reads them.

With aliases, a short YAML text may stand for a very long one, or nest deeper than a program can follow; a parser that
builds objects finds out when memory is full. So this module measures the parts of a text first, each part once.
"""

from __future__ import annotations

import json
import re
import stat
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

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

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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
        level = 0
        for event in yaml.parse(text, Loader=LOADER):  # before the nodes are built, which takes recursion
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            measure.check_depth(level)
        if (node := yaml.compose(text, Loader=LOADER)) is not None:
            measure.size_of(node)


class _Size(NamedTuple):
    """How large a part of a text is.

    Args:
        values: Number of values, the part itself included.
        depth: Levels of nesting.
    """

    values: int = 1
    depth: int = 0


class _Measure:
    """Measures the parts of a YAML text.

    Args:
        name: What the text is, for messages.
        settings: Whether each setting may occur only once.
    """

    def __init__(self, name: str, *, settings: bool) -> None:
        self._name, self._settings = name, settings
        self._sizes: dict[yaml.Node, _Size | None] = {}

    def size_of(self, node: yaml.Node) -> _Size:
        """Measure a part; what aliases repeat is measured once, and counts each time.

        Raises:
            ConfigurationError: A limit is exceeded.
        """
        if node not in self._sizes:
            self._sizes[node] = None
            self._sizes[node] = self._scalar(node) if isinstance(node, yaml.ScalarNode) else self._collection(node)
        if (size := self._sizes[node]) is None:
            raise self._refusal(node, "an anchor stands for something that it is a part of")
        return size

    def check_depth(self, depth: int) -> None:
        """Refuse a text that nests too deeply."""
        if depth > DEEPEST:
            message = f"{self._name} may nest {DEEPEST} levels deep, but nests deeper. Nest it less."
            raise ConfigurationError(message)

    def _scalar(self, node: yaml.ScalarNode) -> _Size:
        if not node.style and len(node.value) > LONGEST_NUMBER and node.value[0] in "+-.0123456789":
            raise self._refusal(node, f"a number has more than {LONGEST_NUMBER} characters")
        if "\0" in node.value:
            raise self._refusal(node, "a value holds a zero byte")
        return _Size()

    def _collection(self, node: yaml.CollectionNode) -> _Size:
        """Measure a list or mapping."""
        total, lines = _Size(), dict[str, int]()
        for part in node.value:
            name, value = part if isinstance(node, yaml.MappingNode) else (None, part)
            size, names, dots = self.size_of(value), 0, 0
            if isinstance(value, yaml.ScalarNode) and (len(value.value) > DEEPEST or "&" in value.value):
                # The text may be YAML itself, which jsonargparse reads.
                check_yaml(value.value, f"{self._name} (line {_line(value)})", settings=False)
            if name is not None:
                names, dots = self.size_of(name).values, str(name.value).count(".")
                self._check_unique(name, lines)
            total = _Size(total.values + size.values + names, max(total.depth, size.depth + dots))
        if total.values > MOST_VALUES:
            message = (
                f"{self._name} may hold {MOST_VALUES} values, each counted as often as it is used, but holds more. "
                "Shorten it."
            )
            raise ConfigurationError(message)
        self.check_depth(total.depth + 1)
        return _Size(total.values, total.depth + 1)

    def _check_unique(self, node: yaml.Node, lines: dict[str, int]) -> None:
        """Refuse a setting that occurs twice, of which YAML would take the last."""
        name = str(node.value)
        if self._settings and name in lines:
            message = (
                f"{self._name} must hold each setting once, but {name!r} is in line {lines[name]} "
                f"and again in line {_line(node)}. Remove one of them."
            )
            raise ConfigurationError(message)
        lines[name] = _line(node)

    def _refusal(self, node: yaml.Node, reason: str) -> ConfigurationError:
        return ConfigurationError(f"{self._name} cannot be used: in line {_line(node)}, {reason}. Correct it.")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
