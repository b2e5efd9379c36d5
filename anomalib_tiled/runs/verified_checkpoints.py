"""Loads checkpoints of a run after comparing them with their checksums."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.runs.checkpoints import check_shared
from anomalib_tiled.system.out_of_memory import lack_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.system.checksums import Checksum


class VerifiedCheckpoints:
    """The checkpoints of a run.

    One with the size and time of its record is unchanged, and is not read for its checksum. Any other, as in a run that
    was copied without the times, is read once.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._verified: dict[str, tuple[int, ...]] = {}
        self._checksums: dict[str, Checksum] = {}

    def check(self, tiles: Iterable[Tile]) -> None:
        """Compare checkpoints and shared weights with their checksums.

        Args:
            tiles: The tiles; untrained ones are skipped.

        Raises:
            RunFolderError: A file was changed.
        """
        for tile in tiles:
            if self.folder.has_record(tile) and self.folder.checkpoint(tile).is_file():
                self._check(tile)
        check_shared(self.folder.path / "tiles")

    @contextmanager
    def of(self, tile: Tile) -> Iterator[Path]:
        """Give an unchanged checkpoint, to be loaded inside.

        Args:
            tile: The tile.

        Raises:
            RunFolderError: The checkpoint was changed, or cannot be loaded. A lack of memory is raised unchanged,
                because the checkpoint is not its cause.
        """
        checkpoint = self.folder.checkpoint(tile)
        self._check(tile)
        check_shared(checkpoint.parent)
        try:
            yield checkpoint
        except ConfigurationError as error:
            if (lack := lack_of_memory(error)) is not None:
                raise lack from None
            reason = error.__cause__ or error
            message = f"The checkpoint {checkpoint} cannot be loaded: {reason} {self.folder.retrain_advice(tile)}"
            raise RunFolderError(message) from error

    def _check(self, tile: Tile) -> None:
        path = self.folder.checkpoint(tile)
        status = path.stat()
        state = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if self._verified.get(tile.name) == state:
            return
        record = self.folder.record(tile)
        if self._checksums.setdefault(tile.name, record.checkpoint) != record.checkpoint:
            message = f"Tile {tile.name} of {self.folder.path} was trained again meanwhile. Load the run again."
            raise RunFolderError(message)
        if (record.checkpoint.size, record.modified) != (status.st_size, status.st_mtime_ns):
            record.checkpoint.check(path, self.folder.retrain_advice(tile))
        self._verified[tile.name] = state
