"""Where the images to predict come from: a list that is known from the beginning, or folders that are watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anomalib_tiled.errors import OutOfMemoryError, UnalignedError
from anomalib_tiled.results.shards import batches_of
from anomalib_tiled.system.termination import noted_when_stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from anomalib_tiled.data.watching import Watch
    from anomalib_tiled.errors import TiledError
    from anomalib_tiled.results.recording import Recording


class Source(Protocol):
    """Gives images to predict, in batches."""

    images: Sequence[Path]
    """The images that are there at the beginning."""

    places: Sequence[Path]
    """Paths in whose common folder all images are."""

    @property
    def waited(self) -> float:
        """Seconds without an image to predict."""

    def batches(self, recording: Recording, size: int) -> Generator[Sequence[Path], None, None]:
        """Yield the images that are not predicted yet.

        Args:
            recording: Takes the results; knows those of an earlier command.
            size: Number of images of a full batch.
        """

    def fail(self, recording: Recording, path: Path, error: TiledError) -> None:
        """Take an image of the last batch that cannot be read, or in which the part is not found.

        Args:
            recording: Takes it, unless it is tried again.
            path: The image.
            error: The reason.
        """


class ListedImages(Source):
    """Images that are all known.

    Args:
        images: The images.
    """

    waited = 0.0

    def __init__(self, images: Sequence[Path]) -> None:
        self.images = self.places = images

    def batches(self, recording: Recording, size: int) -> Generator[Sequence[Path], None, None]:
        """Yield first the images that failed before."""
        for group in recording.groups(size):
            yield from batches_of(group, size)

    def fail(self, recording: Recording, path: Path, error: TiledError) -> None:
        """Record the failure."""
        recording.fail(path, error)


class WatchedImages(Source):
    """Images that appear in folders, until Ctrl-C or SIGTERM.

    Args:
        watch: The folders.
        report: Called with a line when watching begins, and when it ends before all images are predicted.
    """

    def __init__(self, watch: Watch, report: Callable[[str], None]) -> None:
        self._watch, self._report = watch, report
        self._failed: set[Path] = set()
        self.images = watch.present()
        self.places = [folder / "any" for folder in watch.folders]

    @property
    def waited(self) -> float:
        """Seconds without an image to predict."""
        return self._watch.waited

    def batches(self, recording: Recording, size: int) -> Generator[Sequence[Path], None, None]:
        """Yield images as they appear, each once it is complete."""
        self._watch.leave_out(recording.done)
        with noted_when_stopped() as stopped:
            self._report(f"Watching {', '.join(map(str, self._watch.folders))}. Ctrl-C ends it.")
            for paths in self._watch.batches(size, stopped):
                if again := self._failed.intersection(paths):
                    recording.take_back(again)
                    self._failed -= again
                yield paths
        if waiting := self._watch.waiting:
            self._report(f"Note: {waiting} images are not predicted yet. Resume with --skip_existing.")

    def fail(self, recording: Recording, path: Path, error: TiledError) -> None:
        """Record the failure, unless another program may still write the file."""
        is_unreadable = not isinstance(error, (UnalignedError, OutOfMemoryError))
        if is_unreadable and self._watch.takes_back(path):
            return
        if is_unreadable:
            self._failed.add(path)
        recording.fail(path, error)
