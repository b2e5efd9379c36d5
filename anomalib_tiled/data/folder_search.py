"""Searches folders: each once, even if several links lead to it; unreadable ones are reported."""

from __future__ import annotations

import errno
import os
from collections import deque
from contextlib import contextmanager
from fnmatch import filter as names_like
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
"""Error numbers of paths that lead nowhere, or in a circle."""

BELOW = "**"
"""Part of a pattern for a folder and all its subfolders."""


class Search:
    """A search, which remembers unreadable folders.

    Attributes:
        unreadable: Folders that cannot be read, each with the reason.
    """

    def __init__(self) -> None:
        self.unreadable: dict[Path, str] = {}

    def walk(self, top: Path) -> Iterator[tuple[Path, list[str]]]:
        """Yield a folder and all its subfolders, each with the names of its files; without hidden ones.

        A folder that several links lead to comes once, so circles of links end. It comes under its own name if it is
        below ``top``, because links are followed last.
        """
        visited: set[tuple[int, int]] = set()
        waiting = deque([str(top)])
        while waiting:
            for root, folders, names in os.walk(waiting.popleft(), onerror=self._note):
                if not self._is_new(root, visited):
                    folders.clear()
                    continue
                folders[:] = sorted(_visible(folders))
                links = (Path(root, name) for name in folders)
                waiting.extend(str(path) for path in links if os.path.islink(path))  # noqa: PTH114  # it never fails
                yield Path(root), _visible(names)

    def matching(self, start: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
        """Yield all paths that match a pattern, as `glob.glob` does; a path may come more than once.

        Args:
            start: Folder that the pattern begins in.
            pattern: Its parts.
        """
        if not pattern:
            yield start
            return
        part, rest = pattern[0], pattern[1:]
        if part == BELOW:
            yield from self._matching_below(start, rest)
            return
        for name in self._names_like(part, start):
            yield from self.matching(start / name, rest)

    def _matching_below(self, start: Path, pattern: tuple[str, ...]) -> Iterator[Path]:
        for folder, names in self.walk(start):
            if pattern:
                yield from self.matching(folder, pattern)
            else:
                yield from (folder, *(folder / name for name in names))

    def _names_like(self, part: str, folder: Path) -> list[str]:
        """Give the names that a part of a pattern matches; if a file has exactly that name, only this one."""
        with self._noting_unreadable(folder):
            if has_magic(part) and not os.path.lexists(folder / part):
                names = names_like(os.listdir(folder), part)  # noqa: PTH208  # only names are needed
                return names if part.startswith(".") else _visible(names)
            (folder / part).lstat()
            return [part]
        return []

    def _is_new(self, folder: str, visited: set[tuple[int, int]]) -> bool:
        with self._noting_unreadable(Path(folder)):
            status = os.stat(folder)  # noqa: PTH116  # of thousands of folders
            identity = status.st_dev, status.st_ino
            if identity not in visited:
                visited.add(identity)
                return True
        return False

    @contextmanager
    def _noting_unreadable(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                self.unreadable[folder] = error.strerror or str(error)

    def _note(self, error: OSError) -> None:
        with self._noting_unreadable(Path(error.filename)):
            raise error


def _visible(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith(".")]
