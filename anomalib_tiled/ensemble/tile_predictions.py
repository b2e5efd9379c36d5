"""Raw tile predictions for images of a run, on the disk: images are predicted once for all calibrations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.errors import NotFiniteError, RunFolderError
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, replacing, write_json
from anomalib_tiled.system.listing import FileState, Listing
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.grid import Tile, TileGrid

VALUE = np.dtype(np.float32)

RECORD, VALUES = ".json", ".values"
"""What the names of the record of a tile and of its predictions end with."""


class _Record(NamedTuple):
    """The record of the predictions of a tile.

    Args:
        checkpoint: Checksum of the checkpoint that predicted them.
        images: Fingerprint of the images, and of the code that predicted them.
        has_maps: Whether the model gives maps.
        values: Checksum of the file of the predictions.
        modified: Modification time of that file in nanoseconds.
    """

    checkpoint: str
    images: str
    has_maps: bool
    values: Checksum
    modified: int

    @classmethod
    def from_json(cls, content: Mapping[str, Plain]) -> _Record:
        """Read a record."""
        return cls(**{**content, "values": Checksum(**content["values"])})


class TilePredictions:
    """Raw scores and maps of all tiles of a list of images, in a folder.

    The predictions of a tile are in ``r00_c00.<checkpoint>.values``: for each image its score, then its map row by row,
    as 32-bit floats in the order of the machine. ``r00_c00.json``, written last, holds checksums.

    Args:
        folder: The folder.
        grid: Where the tiles lie.
        images: Fingerprint of the images, and of the code that predicts them.
    """

    def __init__(self, folder: Path, grid: TileGrid, images: str) -> None:
        self.folder = folder
        self.grid = grid
        self._images = images
        self._records: dict[str, _Record] = {}

    def __reduce__(self) -> tuple[type[TilePredictions], tuple[Path, TileGrid, str]]:
        """Pickle without the records that were read."""
        return TilePredictions, (self.folder, self.grid, self._images)

    @staticmethod
    def bytes_for(grid: TileGrid, images: int) -> int:
        """Give the bytes that the predictions of this number of images take up on the disk."""
        return VALUE.itemsize * images * sum(1 + tile.size.height * tile.size.width for tile in grid.predicted)

    def find_all(self, checkpoints: Mapping[str, Checksum], *, compare: bool = True) -> set[str]:
        """Find the predictions of many tiles with one look at the folder, so that they can be read.

        Args:
            checkpoints: The checkpoint that must have predicted a tile, by the names of the tiles.
            compare: As for `find`.

        Returns:
            Names of the tiles whose predictions exist and have not changed.
        """
        listing = Listing(self.folder)
        return {
            name
            for name, checkpoint in checkpoints.items()
            if f"{name}{RECORD}" in listing and self._finds(name, checkpoint, listing, compare=compare)
        }

    def find(self, tile: Tile, checkpoint: Checksum, *, compare: bool = True) -> bool:
        """Find the predictions of a tile, so that they can be read.

        Args:
            tile: The tile.
            checkpoint: The checkpoint that must have predicted them.
            compare: Whether to compare their content where the time of the file is not that of its record, as in a run
                that was copied without the times.

        Returns:
            Whether they exist and have not changed.
        """
        return self._finds(tile.name, checkpoint, None, compare=compare)

    def has_found(self, tile: Tile) -> bool:
        """Whether the predictions of a tile were found."""
        return tile.name in self._records

    def _finds(self, name: str, checkpoint: Checksum, listing: Listing | None, *, compare: bool) -> bool:
        try:
            record_file = f"{name}{RECORD}"
            content = read_json(self.folder / record_file) if listing is None else listing.content(record_file)
            record = _Record.from_json(content)
            if (record.checkpoint, record.images) != (checkpoint.sha256, self._images):
                return False
            path = self._file(name, record.checkpoint)
            state = _state(path) if listing is None else listing.state(path.name)
            if (state.size, state.modified) != (record.values.size, record.modified):
                (record.values.check if compare else record.values.check_size)(path, "")
        except (RunFolderError, KeyError, TypeError, ValueError):
            return False  # the tile is predicted again
        self._records[name] = record
        return True

    def write(self, tile: Tile, checkpoint: Checksum, batches: Iterable[TilePrediction]) -> None:
        """Write the predictions of a tile, batch by batch.

        Args:
            tile: The tile.
            checkpoint: The checkpoint of the model.
            batches: Predictions in the order of the images.

        Raises:
            NotFiniteError: The model predicts infinities or NaN.
            StorageError: The disk is full.
        """
        path, earlier, has_maps = self._file(tile.name, checkpoint.sha256), self._recorded(tile.name), False
        with replacing(path) as temporary, temporary.open("wb") as file:
            for batch in batches:
                check_finite(tile, batch)
                has_maps = batch.maps is not None
                file.write(_side_by_side(batch).data)
        record = _Record(checkpoint.sha256, self._images, has_maps, Checksum.of(path), path.stat().st_mtime_ns)
        write_json(self.folder / f"{tile.name}{RECORD}", {**record._asdict(), "values": vars(record.values)})
        if earlier not in (None, path):
            earlier.unlink(missing_ok=True)

    def write_index(self) -> None:
        """Copy the records of all tiles into one file, which later commands read instead of them.

        Raises:
            StorageError: The disk is full.
        """
        listing = Listing(self.folder)
        names = (f"{tile.name}{RECORD}" for tile in self.grid.predicted)
        listing.write_index(name for name in names if name in listing)

    def read(self, tile: Tile, first: int, number: int) -> TilePrediction:
        """Read the predictions of a tile for some images, after ``find``.

        Args:
            tile: The tile.
            first: Position of the first image.
            number: How many images.

        Raises:
            RunFolderError: The tile was trained and predicted again in the meantime.
        """
        record = self._records[tile.name]
        height, width = tile.size
        each = 1 + height * width if record.has_maps else 1
        path = self._file(tile.name, record.checkpoint)
        try:
            values = np.fromfile(path, VALUE, number * each, offset=first * each * VALUE.itemsize).reshape(number, each)
        except (OSError, ValueError) as error:
            message = f"{path} has changed while it was read. Was the tile trained again? Run the command once more."
            raise RunFolderError(message) from error
        scores = torch.from_numpy(values[:, 0].copy())
        if not record.has_maps:
            return TilePrediction(scores, None)
        maps = np.ascontiguousarray(values[:, 1:]).reshape(number, 1, height, width)
        return TilePrediction(scores, torch.from_numpy(maps))

    def _recorded(self, name: str) -> Path | None:
        """Give the file that the record of a tile names; ``None`` if there is no record that can be read."""
        try:
            return self._file(name, str(read_json(self.folder / f"{name}{RECORD}")["checkpoint"]))
        except (RunFolderError, KeyError):
            return None

    def _file(self, name: str, checkpoint: str) -> Path:
        return self.folder / f"{name}.{checkpoint[:16]}{VALUES}"


def _side_by_side(batch: TilePrediction) -> NDArray[np.float32]:
    """Put the map of each image behind its score, shape (batch, values)."""
    scores = batch.scores.detach().cpu().numpy().astype(VALUE).reshape(-1, 1)
    if batch.maps is None:
        return scores
    return np.hstack([scores, batch.maps.detach().cpu().numpy().astype(VALUE).reshape(len(scores), -1)])


def _state(path: Path) -> FileState:
    with readable(path):
        return FileState.of(path.stat())


def check_finite(tile: Tile, prediction: TilePrediction) -> None:
    """Check that predictions are finite.

    Raises:
        NotFiniteError: The model predicts infinities or NaN.
    """
    for values in prediction:
        if values is not None and not values.isfinite().all():
            message = (
                f"The model of tile {tile.name} predicts infinities or NaN. "
                "Train the tile again with other settings, for example a lower learning rate."
            )
            raise NotFiniteError(message)
