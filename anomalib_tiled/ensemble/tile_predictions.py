"""Raw tile predictions for images of a run, on the disk: images are predicted once for all calibrations."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.errors import NotFiniteError, RunFolderError
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, replacing, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.grid import Tile, TileGrid

SCORE = np.dtype(np.float32)


class _Record(NamedTuple):
    """The record of the predictions of a tile.

    Args:
        checkpoint: Checksum of the checkpoint that predicted them.
        images: Fingerprint of the images, and of the code that predicted them.
        scores: Score of each image.
        scores_sha256: Checksum of the scores.
        maps: Checksum of the file of maps; ``None`` if the model gives no maps.
    """

    checkpoint: str
    images: str
    scores: list[float]
    scores_sha256: str
    maps: Checksum | None

    @classmethod
    def from_json(cls, content: Mapping[str, Plain]) -> _Record:
        """Read a record."""
        return cls(**{**content, "maps": None if content["maps"] is None else Checksum(**content["maps"])})


class TilePredictions:
    """Raw scores and maps of all tiles of a list of images, in a folder.

    The maps of a tile are in ``r00_c00.<checkpoint>.maps``: 32-bit floats in the order of the machine, image by image,
    row by row. ``r00_c00.json``, written last, holds the scores, and the checksum of the checkpoint.

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
        return SCORE.itemsize * images * len(grid.tiles) * grid.tile_size.height * grid.tile_size.width

    def find(self, tile: Tile, checkpoint: Checksum, *, compare: bool = True) -> bool:
        """Find the predictions of a tile, so that they can be read.

        Args:
            tile: The tile.
            checkpoint: The checkpoint that must have predicted them.
            compare: Whether to compare the maps to their checksum.

        Returns:
            Whether they exist and have not changed.
        """
        try:
            record = _Record.from_json(read_json(self._record_file(tile)))
            if (record.checkpoint, record.images) != (checkpoint.sha256, self._images):
                return False
            if record.scores_sha256 != _checksum(record.scores):
                return False
            if record.maps is not None:
                (record.maps.check if compare else record.maps.check_size)(self._maps_file(tile, record.checkpoint), "")
        except (RunFolderError, KeyError, TypeError, ValueError, OSError):
            return False  # the tile is predicted again
        self._records[tile.name] = record
        return True

    def has_found(self, tile: Tile) -> bool:
        """Whether ``find`` has found the predictions of a tile in this process."""
        return tile.name in self._records

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
        path = self._maps_file(tile, checkpoint.sha256)
        scores: list[float] = []
        with replacing(path) as temporary, temporary.open("wb") as file:
            for batch in batches:
                check_finite(tile, batch)
                scores += batch.scores.tolist()
                if batch.maps is not None:
                    file.write(np.ascontiguousarray(batch.maps.cpu().numpy(), dtype=SCORE).data)
        maps = Checksum.of(path) if path.stat().st_size else None
        record = _Record(checkpoint.sha256, self._images, scores, _checksum(scores), maps)
        write_json(self._record_file(tile), {**record._asdict(), "maps": None if maps is None else vars(maps)})
        for other in self.folder.glob(f"{tile.name}.*.maps"):
            if other != path:
                other.unlink(missing_ok=True)

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
        scores = torch.tensor(record.scores[first : first + number], dtype=torch.float32)
        if record.maps is None:
            return TilePrediction(scores, None)
        height, width = self.grid.tile_size
        count, path = number * height * width, self._maps_file(tile, record.checkpoint)
        try:
            maps = np.fromfile(path, SCORE, count, offset=first * height * width * SCORE.itemsize)
            return TilePrediction(scores, torch.from_numpy(maps.reshape(number, 1, height, width)))
        except (OSError, ValueError) as error:
            message = f"{path} has changed while it was read. Was the tile trained again? Run the command once more."
            raise RunFolderError(message) from error

    def _record_file(self, tile: Tile) -> Path:
        return self.folder / f"{tile.name}.json"

    def _maps_file(self, tile: Tile, checkpoint: str) -> Path:
        return self.folder / f"{tile.name}.{checkpoint[:16]}.maps"


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


def _checksum(scores: list[float]) -> str:
    return sha256(np.array(scores, dtype=SCORE).tobytes()).hexdigest()
