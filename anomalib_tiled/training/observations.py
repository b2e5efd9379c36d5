"""What the stages learn from: scores of validation images and of their tiles, counted in parts on places, or here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from anomalib_tiled.ensemble.fusion import Predicted
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.stages.contracts import image_context, with_context
from anomalib_tiled.training.in_order import values_in_order
from anomalib_tiled.training.stored_predictions import stored_images
from anomalib_tiled.training.tile_learning import TilesHere, TilesOnPlaces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anomalib.data import ImageBatch

    from anomalib_tiled.data.tile_dataset import Annotations
    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.named_regions import NamedRegions
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.stored_images import Predict, Shard, StoredImages
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile, TileGrid
    from anomalib_tiled.training.tile_learning import SeenTiles

    Batch = ImageBatch | Annotations


class Seen(NamedTuple):
    """What one pass over the validation images has seen.

    Args:
        tiles: Tile locations; none if nothing is learned from them.
        image: Scores of whole images; none if nothing is learned from them yet.
    """

    tiles: SeenTiles
    image: Observed


def unseen_tiles(grid: TileGrid) -> dict[str, Observed]:
    """Give the counts of each tile before the first image."""
    return {tile.name: Observed.of_a_tile(grid) for tile in grid.predicted}


def unseen_image(grid: TileGrid) -> Observed:
    """Give the counts of whole images before the first one."""
    return Observed(uninspected=uninspected_pixels(grid))


def observe(
    image: Observed,
    tiles: Mapping[str, Observed],
    images: Iterable[tuple[Batch, Predict]],
    *,
    masks_known: bool = True,
    regions: NamedRegions | None = None,
) -> None:
    """Count the scores of images, of their tiles, and of named regions.

    Args:
        image: Counts of whole images; they are added to.
        tiles: Counts of tiles, by their names, which are added to; empty if tiles are not observed.
        images: Batches of images, each with the function that predicts them.
        masks_known: Whether masks are used; an anomalous image without a mask then calibrates image scores, but neither
            tiles nor pixels nor regions.
        regions: The named regions; ``None`` if there are none.
    """
    for batch, predict in images:
        truth, known = _truth(batch, masks_known=masks_known)
        with with_context(image_context(batch.image_path)):
            raw = predict(partial(_observe_tile, tiles, truth) if tiles and known else None)
        if raw.whole is None:
            image.normal.add(~truth.labels, raw.scores, raw.tiles, raw.regions)
            image.add(raw.scores, raw.maps if raw.has_maps and known else None, truth, raw.hidden)
            if regions is not None and known:
                image.add_regions(raw.regions, regions.truth(truth.labels, truth.masks))
        else:
            merged = Predicted(raw.scores, raw.maps if raw.has_maps else None)
            image.branches.add(merged, raw.whole, truth.labels, None if raw.unseen is None else ~raw.unseen)


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
        return {tile.name: self.of_tile(tile) for tile in self.images.tiles(shard)}

    def of_tile(self, tile: Tile) -> Observed:
        """Count the scores of a tile."""
        observed = Observed.of_a_tile(self.images.job.grid)
        for batch, raw in self.images.tile(tile):
            truth, known = _truth(batch, masks_known=self.masks_known)
            if known:
                observed.add(raw.scores, raw.maps, truth.seen_by(tile), raw.hidden)
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
        image = unseen_image(self.images.job.grid)
        ensemble = self.images.ensemble(self.calibration, device)
        annotated = self.images.annotated(ensemble, shard)
        observe(image, {}, annotated, masks_known=self.masks_known, regions=ensemble.regions)
        return image


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
        """Merge what places have counted, in order; tiles whose predictions stay on the disk are not sent."""
        run, log = self.run, self.run.folder.log_file
        image, merged = unseen_image(run.grid), unseen_tiles(run.grid) if tiles else {}
        seen: SeenTiles = TilesHere(merged)
        for stored in stored_images(run, "calibration", run.folder.predictions):
            if tiles:
                of_tiles = ObserveTiles(stored, self.masks_known)
                if stored.stay:
                    seen = TilesOnPlaces(run, stored, of_tiles.of_tile)
                else:
                    parts = values_in_order(run, of_tiles, stored.shards_of_tiles(), "Calibrating tiles", log)
                    _merge_tiles(merged, parts)
            if images:
                of_images = ObserveImages(stored, calibration, self.masks_known)
                for observed in values_in_order(run, of_images, stored.shards(), "Calibrating", log):
                    image.merge(observed)
        return Seen(seen, image)


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
        grid = self.ensemble.grid
        image, observed = unseen_image(grid), unseen_tiles(grid) if tiles else {}
        observe(image, observed, self.images(), masks_known=self.masks_known, regions=self.ensemble.regions)
        return Seen(TilesHere(observed), image)


def _merge_tiles(tiles: Mapping[str, Observed], parts: Iterable[Mapping[str, Observed]]) -> None:
    for part in parts:
        for name, observed in part.items():
            tiles[name].merge(observed)


def _truth(batch: Batch, *, masks_known: bool) -> tuple[Truth, bool]:
    """Give the truth of a batch, and whether it calibrates tiles and pixels."""
    truth = Truth.of(batch.gt_label, batch.gt_mask if masks_known else None, len(batch))
    return truth, truth.masks is not None or not masks_known


def _observe_tile(tiles: Mapping[str, Observed], truth: Truth, tile: Tile, raw: TilePrediction) -> None:
    tiles[tile.name].add(raw.scores, raw.maps, truth.of_tile(tile), raw.hidden)
