"""What tile models say about images of a run, on the disk: predicted once, whatever the stages make of it."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch

from anomalib_tiled.errors import RunFolderError, StageError
from anomalib_tiled.files import read_json, replacing, write_json
from anomalib_tiled.seals import Seal
from anomalib_tiled.tile_model import TilePrediction

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.grid import Tile, TileGrid

SCORE = np.dtype(np.float32)


class _Record(NamedTuple):
    """What is known of the predictions of a tile.

    Args:
        checkpoint: Checksum of the checkpoint that they were made with.
        images: Fingerprint of the images.
        scores: Score of each image.
        maps: What the file of maps is like; ``None`` if the model gives no maps.
    """

    checkpoint: str
    images: str
    scores: list[float]
    maps: Seal | None


class TilePredictions:
    """Raw scores and maps of all tiles of a list of images, in a folder.

    The maps of a tile are in ``r00_c00.maps``: 32-bit floats in the order of the machine, image by image, row by row.
    ``r00_c00.json``, written last, holds the scores, and what they were predicted with.

    Args:
        folder: The folder.
        grid: Where the tiles lie.
        samples: The images.
    """

    def __init__(self, folder: Path, grid: TileGrid, samples: Sequence[Sample]) -> None:
        self.folder = folder
        self.grid = grid
        self.samples = tuple(samples)
        self._images = _fingerprint(self.samples)
        self._records: dict[str, _Record] = {}

    @property
    def name(self) -> str:
        """Name of these images, for a folder."""
        return self._images[:16]

    @staticmethod
    def bytes_for(grid: TileGrid, images: int) -> int:
        """Give the room that the predictions of so many images take up on the disk."""
        return SCORE.itemsize * images * len(grid.tiles) * grid.tile_size.height * grid.tile_size.width

    def has(self, tile: Tile, checkpoint: Seal) -> bool:
        """Whether the images were predicted with a checkpoint of a tile, and what was written is as it was."""
        try:
            content = read_json(self._record_file(tile))
            seal = None if content["maps"] is None else Seal(**cast("dict[str, object]", content["maps"]))  # type: ignore[arg-type]
            record = _Record(**{**content, "maps": seal})  # type: ignore[arg-type]
            if (record.checkpoint, record.images) != (checkpoint.sha256, self._images):
                return False
            if seal is not None:
                seal.check(self._maps_file(tile), "")
        except (RunFolderError, KeyError, TypeError, OSError):
            return False  # they are made again
        self._records[tile.name] = record
        return True

    def write(self, tile: Tile, checkpoint: Seal, batches: Iterable[TilePrediction]) -> None:
        """Write what the model of a tile says, batch by batch.

        Args:
            tile: The tile.
            checkpoint: The checkpoint that the model is of.
            batches: Predictions in the order of the images.

        Raises:
            StageError: The model predicts infinities or NaN.
            StorageError: The disk is full.
        """
        scores: list[float] = []
        with replacing(self._maps_file(tile)) as temporary, temporary.open("wb") as file:
            for batch in batches:
                check_finite(tile, batch)
                scores += batch.scores.tolist()
                if batch.maps is not None:
                    file.write(np.ascontiguousarray(batch.maps.cpu().numpy(), dtype=SCORE).data)
        path = self._maps_file(tile)
        maps = Seal.of(path) if path.stat().st_size else None
        record = _Record(checkpoint.sha256, self._images, scores, maps)
        write_json(self._record_file(tile), {**record._asdict(), "maps": None if maps is None else vars(maps)})

    def read(self, tile: Tile, first: int, number: int) -> TilePrediction:
        """Read what was predicted of a tile of some images, after `has` has found it.

        Args:
            tile: The tile.
            first: Position of the first image.
            number: How many images.
        """
        record = self._records[tile.name]
        scores = torch.tensor(record.scores[first : first + number], dtype=torch.float32)
        if record.maps is None:
            return TilePrediction(scores, None)
        height, width = self.grid.tile_size
        size = height * width
        offset = first * size * SCORE.itemsize
        maps = np.fromfile(self._maps_file(tile), SCORE, number * size, offset=offset)
        return TilePrediction(scores, torch.from_numpy(maps.reshape(number, 1, height, width)))

    def _record_file(self, tile: Tile) -> Path:
        return self.folder / f"{tile.name}.json"

    def _maps_file(self, tile: Tile) -> Path:
        return self.folder / f"{tile.name}.maps"


def check_finite(tile: Tile, prediction: TilePrediction) -> None:
    """Check that a tile model predicts numbers.

    Raises:
        StageError: It predicts infinities or NaN.
    """
    for values in prediction:
        if values is not None and not values.isfinite().all():
            message = (
                f"The model of tile {tile.name} predicts infinities or NaN. "
                "Train the tile again with other settings, for example a lower learning rate."
            )
            raise StageError(message)


def _fingerprint(samples: Iterable[Sample]) -> str:
    """Name images by their paths, sizes and times of change."""
    status = [(str(sample.image_path), sample.image_path.stat()) for sample in samples]
    content = json.dumps([(path, each.st_size, each.st_mtime_ns) for path, each in status])
    return sha256(content.encode()).hexdigest()
