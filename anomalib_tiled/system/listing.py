"""A folder of many small files, looked at once: its names, their sizes and times, and the content of JSON files."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, cast

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import read_json, write_text
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INDEX = "index.json"
"""A copy of all JSON files of a folder. It may be deleted at any time, which costs time and nothing else."""


class FileState(NamedTuple):
    """Facts that differ between a file and any other that takes its name, and that change with its content.

    Args:
        inode: Number of the file in its file system.
        size: Number of bytes.
        modified: Time of the last change of the content, in nanoseconds.
        changed: Time of the last change of content, name or permissions, in nanoseconds.
    """

    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        """Take the state from what the system says of a file."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Listing:
    """The files of a folder at one moment.

    One look at the folder gives all names; state or content of a file costs one request more. The
    content comes from the index as long as the file has the state that it had then, else from the file, which stays the
    truth. On a network drive, opening ten thousand files takes half a minute, and looking at them a second.

    Args:
        folder: The folder; it need not exist.

    Raises:
        RunFolderError: The folder cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._states: dict[str, FileState] = {}
        with readable(folder), suppress(FileNotFoundError), os.scandir(folder) as entries:
            self._files = {entry.name: entry for entry in entries if entry.is_file()}
            return
        self._files = {}

    def __contains__(self, name: str) -> bool:
        """Whether the folder holds a file of this name."""
        return name in self._files

    def state(self, name: str) -> FileState:
        """Give the state of a file; it is looked up once.

        Raises:
            RunFolderError: The file was removed meanwhile.
        """
        if (known := self._states.get(name)) is not None:
            return known
        try:
            state = self._states[name] = FileState.of(self._files[name].stat())
        except OSError:
            with readable(self.folder / name):
                raise
        return state

    def content(self, name: str) -> dict[str, object]:
        """Give the content of a JSON file, from the index if the file is the same.

        Raises:
            RunFolderError: The file cannot be read.
        """
        state, known = self.state(name), self._index.get(name)
        if known is not None and known[0] == state:
            return known[1]
        content = read_json(self.folder / name)
        self._index[name] = state, content
        return content

    def write_index(self, names: Iterable[str]) -> None:
        """Write the content of these JSON files into the index, unless it has them already.

        Args:
            names: Names of the files; those that cannot be read are left out.

        Raises:
            StorageError: The disk is full.
        """
        before = dict(self._index)
        for name in names:
            with suppress(RunFolderError):
                self.content(name)
        current = {name: each for name, each in self._index.items() if name in self._files}
        if current != before:
            write_text(self.folder / INDEX, json.dumps(current, separators=(",", ":")) + "\n")

    @cached_property
    def _index(self) -> dict[str, tuple[FileState, dict[str, object]]]:
        """State and content of each file in the index; empty if there is none that can be read."""
        if INDEX not in self._files:
            return {}
        try:
            content = cast("dict[str, tuple[list[int], dict[str, object]]]", read_json(self.folder / INDEX))
            return {name: (FileState(*state), each) for name, (state, each) in content.items()}
        except (RunFolderError, TypeError, ValueError):  # the files themselves are there
            return {}
