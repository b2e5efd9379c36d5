"""Folders in which images appear: each image is given out once, when its file is complete.

The folders are looked at again and again. The notifications of the system (inotify) would cost nothing while nothing
happens, but say nothing of files that other machines write to a network drive, which is how cameras deliver.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anomalib_tiled.data.find_images import images_below, inside
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.files import absolute

PAUSE = 0.5
"""Seconds between two looks, and for which a file must not change until it is read."""

SHARE = 1 / 30
"""Share of the time that looks take at most, where there are so many files that a look takes long."""

PATIENCE = 10.0
"""Seconds after its last change until an image that cannot be read has failed."""

SLICE = 0.1
"""Seconds of sleep until which a wish to end is noticed."""

GIVEN_UP = 2
"""Number of tries to read a file that does not change: the first may come while another program still writes."""

FileState = tuple[int, int] | None
"""Size in bytes, and time of the last change in nanoseconds; ``None`` if the file cannot be opened."""


@dataclass
class _Image:
    """An image that is not predicted yet.

    Args:
        state: State of its file.
        since: When the file was first seen in this state.
        tries: Number of times that reading it in this state has failed.
    """

    state: FileState
    since: float
    tries: int = 0


@dataclass(frozen=True)
class Clock:
    """The time; tests have their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def folders_to_watch(given: Iterable[str]) -> list[Path]:
    """Give the absolute paths of the folders that are named.

    Raises:
        ConfigurationError: A name is no folder.
    """
    names = list(given)
    for name in names:
        if not name or not os.path.isdir(absolute(name)):  # noqa: PTH112  # it never fails
            message = (
                f"--watch takes folders that exist in --data, in which images appear, but {name!r} is none. "
                "Name the folder, or leave --watch out to predict files, patterns and lists."
            )
            raise ConfigurationError(message)
    return list(dict.fromkeys(map(absolute, names)))


class Watch:
    """Folders in which images appear.

    A file is complete if its size and time stay the same for a while, and it can be read. A folder that vanishes, such
    as that of a network drive, is waited for.

    Args:
        folders: The folders; their subfolders are watched, too.
        apart_from: Folders of pictures of predictions, which are no images to predict.
        report: Called with a line when a folder vanishes or is back.
        clock: The time.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        apart_from: Sequence[Path],
        report: Callable[[str], None],
        clock: Clock = Clock(),
    ) -> None:
        self.folders = folders
        self.waited = 0.0
        """Seconds without an image to predict."""
        self._left_out, self._report, self._clock = inside(apart_from), report, clock
        self._known: set[str] = set()
        self._pending: dict[Path, _Image] = {}
        self._ready: deque[tuple[Path, _Image]] = deque()
        self._in_hand: dict[Path, _Image] = {}
        self._away: set[Path] = set()
        self._next_look = self._clock.now()

    @property
    def waiting(self) -> int:
        """Number of images that were seen, but neither given out nor given up."""
        return len(self._ready) + sum(image.tries < GIVEN_UP for image in self._pending.values())

    def present(self) -> list[Path]:
        """Give the images that are in the folders now, complete or not."""
        return list(dict.fromkeys(path for folder in self.folders for path in self._below(folder)))

    def leave_out(self, paths: Iterable[str]) -> None:
        """Leave out images that were predicted before."""
        self._known.update(paths)

    def batches(self, size: int, stopped: Callable[[], bool]) -> Iterator[list[Path]]:
        """Yield images as they become complete: as many as there are, but no more than a batch.

        Args:
            size: Number of images of a full batch.
            stopped: Whether to end.
        """
        while not stopped():
            if self._clock.now() >= self._next_look:
                self._look()
            if self._ready:
                self._in_hand = dict(self._ready.popleft() for _ in range(min(size, len(self._ready))))
                yield list(self._in_hand)
            else:
                self._wait(stopped)

    def takes_back(self, path: Path) -> bool:
        """Take back an image that was given out and cannot be read, to try it again when its file is complete.

        Args:
            path: The image, which is in the batch that was yielded last.

        Returns:
            Whether it is tried again soon. Otherwise it has failed, and is tried again if its file changes.
        """
        image, state, now = self._in_hand.pop(path), _state_of(path), self._clock.now()
        self._known.discard(str(path))
        if not os.path.lexists(path) and not self._is_away(path):
            image = _Image(state, now, GIVEN_UP)
        elif state != image.state:
            image = _Image(state, now)
        else:
            image.tries = GIVEN_UP if now - image.since >= PATIENCE else 1
        self._pending[path] = image
        return image.tries < GIVEN_UP

    def _look(self) -> None:
        """Look at all folders, and at the files that are not known yet."""
        began, found = self._clock.now(), dict.fromkeys(self.present())
        for folder in self.folders:
            self._notice(folder, is_away=folder in found)
        for path in found:
            if path not in self._away:
                self._look_at(path)
        self._forget_vanished(self._pending.keys() - found)
        now = self._clock.now()
        self._next_look = now + max(PAUSE, (now - began) / SHARE)

    def _below(self, folder: Path) -> Iterator[Path]:
        return images_below(folder, self._known, self._left_out)

    def _notice(self, folder: Path, *, is_away: bool) -> None:
        """Report a folder that has vanished or is back, once."""
        if is_away and folder not in self._away:
            self._away.add(folder)
            self._report(f"warning: {folder} cannot be read now. Waiting until it is back.")
        elif not is_away and folder in self._away:
            self._away.remove(folder)
            self._report(f"Note: {folder} is back.")

    def _look_at(self, path: Path) -> None:
        """Put an image into the queue if its file is as it was at the last look, or has been so for long enough."""
        state, now = _state_of(path), self._clock.now()
        image = self._pending.get(path)
        if image is None or image.state != state:
            image = self._pending[path] = _Image(state, now)
        elif not image.tries or (image.tries < GIVEN_UP and now - image.since >= PATIENCE):
            self._ready.append((path, self._pending.pop(path)))
            self._known.add(str(path))

    def _forget_vanished(self, vanished: Collection[Path]) -> None:
        """Forget files that vanished before they were complete."""
        for path in vanished:
            if self._pending[path].tries < GIVEN_UP:
                del self._pending[path]
            else:
                self._pending[path].state = None  # if it comes back, even unchanged, it is tried again

    def _is_away(self, path: Path) -> bool:
        """Whether a file may have vanished only because its folder has."""
        return not any(map(os.path.isdir, filter(path.is_relative_to, self.folders)))

    def _wait(self, stopped: Callable[[], bool]) -> None:
        """Sleep until the next look."""
        began = self._clock.now()
        while (left := self._next_look - self._clock.now()) > 0 and not stopped():
            self._clock.sleep(min(left, SLICE))
        self.waited += self._clock.now() - began


def _state_of(path: Path) -> FileState:
    """Give the state of a file. It is opened, so that NFS asks the server, and gives no state of seconds ago."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
