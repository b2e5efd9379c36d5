"""Loads checkpoints of a run after comparing them with their checksums."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.runs.checkpoints import check_shared
from anomalib_tiled.system.checksums import CheckedFiles, Checksum
from anomalib_tiled.system.out_of_memory import lack_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder


class VerifiedCheckpoints:
    """The checkpoints of a run; each checksum is compared once, not on every load.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._checked = CheckedFiles()
        self._checksums: dict[str, Checksum] = {}

    def check_changed(self, tiles: Iterable[Tile]) -> None:
        """Compare checkpoints with their checksums where size or time has changed since they were finished.

        Unchanged ones are not read. In a copied run without the original times, all are read here instead of on the
        first load.

        Args:
            tiles: The tiles, all trained.

        Raises:
            RunFolderError: A checkpoint was changed, and the run does not allow that.
        """
        if self.folder.allow_altered:
            return
        for tile in tiles:
            record, checkpoint = self.folder.record(tile), self.folder.checkpoint(tile)
            status = checkpoint.stat()
            if (record.checkpoint.size, record.modified) != (status.st_size, status.st_mtime_ns):
                self._checked.once(checkpoint, partial(self._check, tile))

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
        if not self.folder.allow_altered:
            self._checked.once(checkpoint, partial(self._check, tile))
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
        checksum = self.folder.record(tile).checkpoint
        if self._checksums.setdefault(tile.name, checksum) != checksum:
            message = f"Tile {tile.name} of {self.folder.path} was trained again meanwhile. Load the run again."
            raise RunFolderError(message)
        self.folder.check_checkpoint(tile)
