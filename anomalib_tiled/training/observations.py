"""What the stages learn from: scores of validation images and of their tiles, counted in parts on places, or here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from anomalib_tiled.ensemble.calibration import Observed, Truth
from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.stages.contracts import image_context, with_context
from anomalib_tiled.stages.distribution import tile_bits
from anomalib_tiled.training.in_order import values_in_order
from anomalib_tiled.training.stored_predictions import stored_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anomalib.data import ImageBatch

    from anomalib_tiled.data.tile_dataset import Annotations
    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.stored_images import Predict, Shard, StoredImages
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile, TileGrid

    Batch = ImageBatch | Annotations


class Seen(NamedTuple):
    """What one pass over the validation images has seen.

    Args:
        tiles: Scores of each tile location, by its name; empty if nothing is learned from tiles.
        image: Scores of whole images; none if nothing is learned from them yet.
    """

    tiles: dict[str, Observed]
    image: Observed

    @classmethod
    def nothing(cls, grid: TileGrid, *, tiles: bool) -> Seen:
        """Give what is seen before the first image.

        Args:
            grid: The grid.
            tiles: Whether tiles are observed, too.
        """
        names = [tile.name for tile in grid.tiles] if tiles else []
        observed = {name: Observed(tile_bits(len(names))) for name in names}
        return cls(observed, Observed(uninspected=uninspected_pixels(grid)))


def observe(seen: Seen, images: Iterable[tuple[Batch, Predict]], *, masks_known: bool = True) -> None:
    """Count the scores of images, and of the tiles that are observed.

    Args:
        seen: Counts; they are added to.
        images: Batches of images, each with the function that predicts them.
        masks_known: Whether masks are used; an anomalous image without a mask then calibrates image scores, but neither
            tiles nor pixels.
    """
    for batch, predict in images:
        truth, known = _truth(batch, masks_known=masks_known)
        with with_context(image_context(batch.image_path)):
            raw = predict(partial(_observe_tile, seen.tiles, truth) if seen.tiles and known else None)
        seen.image.add(raw.scores, raw.maps if raw.has_maps and known else None, truth)


@dataclass(frozen=True)
class ObserveTiles:
    """Counts the scores of some tile locations of all validation images, on any place.

    Args:
        images: The images with the predictions of their tiles.
        masks_known: As for `observe`.
    """

    images: StoredImages
    masks_known: bool

    def __call__(self, shard: Shard, *, device: int | None = None) -> dict[str, Observed]:
        """Count the scores of tiles, by their names.

        Args:
            shard: The tiles.
            device: Not used: only counting is done.
        """
        del device
        return {tile.name: self._observed(tile) for tile in self.images.tiles(shard)}

    def _observed(self, tile: Tile) -> Observed:
        observed = Observed(tile_bits(len(self.images.job.grid.tiles)))
        for batch, raw in self.images.tile(tile):
            truth, known = _truth(batch, masks_known=self.masks_known)
            if known:
                observed.add(raw.scores, raw.maps, truth.cut(slice(None), slice(None)))
        return observed


@dataclass(frozen=True)
class ObserveImages:
    """Joins some validation images and counts their scores, on any place.

    Args:
        images: The images with the predictions of their tiles.
        calibration: What the stages have learned so far.
        masks_known: As for `observe`.
    """

    images: StoredImages
    calibration: Calibration
    masks_known: bool

    def __call__(self, shard: Shard, *, device: int | None = None) -> Observed:
        """Count the scores of images.

        Args:
            shard: Which images.
            device: Index of the GPU to work on; ``None`` for the device of the configuration.

        Raises:
            StageError: A stage fails.
            RunFolderError: A file has changed.
        """
        seen = Seen.nothing(self.images.job.grid, tiles=False)
        ensemble = self.images.ensemble(self.calibration, device)
        observe(seen, self.images.annotated(ensemble, shard), masks_known=self.masks_known)
        return seen.image


class Observe(Protocol):
    """Passes over the validation images."""

    def __call__(self, calibration: Calibration, *, tiles: bool, images: bool) -> Seen:
        """Pass over them once.

        Args:
            calibration: What the stages have learned so far.
            tiles: Whether to observe tiles.
            images: Whether whole images are needed.
        """


@dataclass(frozen=True)
class ObserveOnPlaces:
    """Passes over images that can be read tile by tile, on places: group by group of the tiles, shard by shard.

    Args:
        run: The run.
        masks_known: As for `observe`.
    """

    run: Run
    masks_known: bool

    def __call__(self, calibration: Calibration, *, tiles: bool, images: bool) -> Seen:
        """Merge what places have counted, in the order of the images."""
        run, log = self.run, self.run.folder.log_file
        seen = Seen.nothing(run.grid, tiles=tiles)
        for stored in stored_images(run, "calibration", run.folder.predictions):
            if tiles:
                of_tiles = ObserveTiles(stored, self.masks_known)
                for group in values_in_order(run, of_tiles, stored.shards_of_tiles(), "Calibrating tiles", log):
                    for name, observed in group.items():
                        seen.tiles[name].merge(observed)
            if images:
                of_images = ObserveImages(stored, calibration, self.masks_known)
                for observed in values_in_order(run, of_images, stored.shards(), "Calibrating", log):
                    seen.image.merge(observed)
        return seen


@dataclass(frozen=True)
class ObserveHere:
    """Passes over images in this process: over those that are not read tile by tile, such as augmented ones.

    Args:
        ensemble: Predicts them.
        images: Returns batches of images, each with the function that predicts them; called for each pass.
        masks_known: As for `observe`.
    """

    ensemble: EnsembleModel
    images: Callable[[], Iterable[tuple[Batch, Predict]]]
    masks_known: bool = True

    def __call__(self, calibration: Calibration, *, tiles: bool, images: bool) -> Seen:
        """Count batch by batch: whole images come by themselves."""
        del images
        self.ensemble.calibration = calibration
        seen = Seen.nothing(self.ensemble.grid, tiles=tiles)
        observe(seen, self.images(), masks_known=self.masks_known)
        return seen


def _truth(batch: Batch, *, masks_known: bool) -> tuple[Truth, bool]:
    """Give the truth of a batch, and whether it calibrates tiles and pixels."""
    truth = Truth.of(batch.gt_label, batch.gt_mask if masks_known else None, len(batch))
    return truth, truth.masks is not None or not masks_known


def _observe_tile(tiles: Mapping[str, Observed], truth: Truth, tile: Tile, raw: TilePrediction) -> None:
    tiles[tile.name].add(raw.scores, raw.maps, truth.cut(tile.rows, tile.columns))
