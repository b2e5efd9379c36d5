"""Metrics of each tile location, from the predictions that whole images are merged from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.grid import WHOLE, WholeImage
from anomalib_tiled.stages import curves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import torch
    from anomalib.data import ImageBatch
    from numpy.typing import NDArray

    from anomalib_tiled.data.tile_dataset import Annotations
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Size, Tile, TileGrid
    from anomalib_tiled.stages.distribution import ScoreCounts

    Known = tuple[NDArray[np.intp], Truth]


@dataclass(frozen=True)
class TileResult:
    """Results of one tile location, or of a named region.

    Scores of a tile come from its model, before any normalization; that of a region is the highest of its map, before
    the normalization of images, and what is called anomalous is its label, not a pixel.

    Args:
        tile: Its name, such as ``r00_c03``.
        top: First row, in pixels.
        left: First column, in pixels.
        images: Number of test images in which it is known whether the tile is anomalous.
        anomalous: Number of those with a defect pixel in the tile.
        image_auroc: AUROC of the scores of the tile.
        pixel_auroc: AUROC of the pixels of the tile.
        normal_mean: Mean score of normal tiles.
        normal_max: Highest score of a normal tile.
        anomalous_mean: Mean score of anomalous tiles.
        anomalous_min: Lowest score of an anomalous tile.
        missed: Number of anomalous tiles without a pixel that was called anomalous.
        false_alarms: Number of normal tiles with such a pixel.
        left_out: Whether the location has no model; without overlap, all defects there are missed.
    """

    tile: str
    top: int
    left: int
    images: int
    anomalous: int
    image_auroc: float | None
    pixel_auroc: float | None
    normal_mean: float | None
    normal_max: float | None
    anomalous_mean: float | None
    anomalous_min: float | None
    missed: int | None
    false_alarms: int | None
    left_out: bool = False

    @property
    def is_weak(self) -> bool:
        """Whether the tile has missed defects, false alarms, or an image AUROC below 1."""
        return bool(self.missed or self.false_alarms) or (self.image_auroc is not None and self.image_auroc < 1)


@dataclass(frozen=True)
class TileScores:
    """What the scores of one tile location say; the fields are those of a `TileResult`."""

    image_auroc: float | None
    pixel_auroc: float | None
    normal_mean: float | None
    normal_max: float | None
    anomalous_mean: float | None
    anomalous_min: float | None

    @classmethod
    def of(cls, observed: Observed) -> TileScores:
        """Compute it from all scores."""
        counts = observed.scores.counts()
        normal, anomalous = counts.lower[counts.normal > 0], counts.lower[counts.anomalous > 0]
        return cls(
            image_auroc=curves.auroc(counts),
            pixel_auroc=curves.auroc(observed.maps.counts()),
            normal_mean=_mean(counts, counts.normal),
            normal_max=float(normal[-1]) if normal.size else None,
            anomalous_mean=_mean(counts, counts.anomalous),
            anomalous_min=float(anomalous[0]) if anomalous.size else None,
        )


class TileMeasurements:
    """Counts scores and decisions for each tile location.

    Memory grows by one number per image and tile; `Observed.of_a_tile` limits how it grows with the number of tiles.

    Args:
        grid: The grid.
    """

    def __init__(self, grid: TileGrid) -> None:
        self._grid = grid
        self._observed: dict[str, Observed] = {}
        self._complete: dict[str, TileScores] = {}
        self._images = np.zeros((len(grid.named), 2), dtype=np.int64)
        self._wrong = np.zeros((len(grid.named), 2), dtype=np.int64)
        self._decided = False

    def watch(self, batch: ImageBatch) -> Callable[[Tile, TilePrediction], None]:
        """Give the function to call with the raw prediction of each tile of a batch."""
        area = known_images(batch, self._grid.image_size)
        return partial(self._observe, area, _known_whole(batch))

    def update(self, batch: ImageBatch, hidden: torch.Tensor | None = None) -> None:
        """Count images and wrong decisions.

        Args:
            batch: Predictions of whole images; their predicted masks, if there are any, are the decisions.
            hidden: Pixels that do not count, shape (batch or 1, 1, height, width); ``None`` if all do.
        """
        known, truth = known_images(batch, self._grid.image_size)
        hidden = _hidden(hidden, len(batch), known)
        out = None if hidden is None else hidden.squeeze(1).cpu().numpy()
        called, everywhere = None, None
        if batch.pred_mask is not None:
            self._decided = True
            everywhere = batch.pred_mask.bool().cpu().numpy().reshape(-1, *self._grid.image_size)
            called = everywhere[known]
        for index, tile in enumerate(self._grid.locations):
            anomalous = truth.cut(tile.rows, tile.columns).labels
            seen = slice(None) if out is None else ~out[:, tile.rows, tile.columns].all(axis=(1, 2))
            anomalous = anomalous[seen]
            self._images[index] += [len(anomalous), anomalous.sum()]
            if called is not None:
                found = called[:, tile.rows, tile.columns].any(axis=(1, 2))[seen]
                self._wrong[index] += [(anomalous & ~found).sum(), (~anomalous & found).sum()]
        if self._grid.whole_image is not None:
            self._update_whole(batch, everywhere)

    def _update_whole(self, batch: ImageBatch, called: NDArray[np.bool_] | None) -> None:
        """Count images, and those with wrong decisions anywhere."""
        known, truth = _known_whole(batch)
        self._images[-1] += [len(known), truth.labels.sum()]
        if called is not None and len(known):
            found = called.any(axis=(1, 2))
            self._wrong[-1] += [(truth.labels & ~found).sum(), (~truth.labels & found).sum()]

    def add_scores(self, tiles: Mapping[str, Observed | TileScores]) -> None:
        """Add the scores of tiles, by their names.

        Args:
            tiles: Scores of the next images, as `observed_tile` gives them; or what the scores of all images say.
        """
        for name, scores in tiles.items():
            if isinstance(scores, TileScores):
                self._complete[name] = scores
            else:
                self._of_tile(name).merge(scores)

    def merge(self, other: TileMeasurements) -> None:
        """Add the measurements of the next images; those stay unchanged."""
        self.add_scores(other._observed)
        self._images += other._images
        self._wrong += other._wrong
        self._decided |= other._decided

    def results(self) -> list[TileResult]:
        """Give the tiles in the order of the grid."""
        return [self._result(tile, seen, wrong) for tile, seen, wrong in zip(*self._counts, strict=True)]

    @property
    def _counts(self) -> tuple[tuple[Tile, ...], list[list[int]], list[list[int]]]:
        return self._grid.named, self._images.tolist(), self._wrong.tolist()

    def _observe(self, area: Known, whole: Known, tile: Tile, raw: TilePrediction) -> None:
        known, truth = whole if isinstance(tile, WholeImage) else area
        _count(self._of_tile(tile.name), known, truth.of_tile(tile), raw)

    def _of_tile(self, name: str) -> Observed:
        if name not in self._observed:
            self._observed[name] = Observed.of_a_tile(self._grid)
        return self._observed[name]

    def _result(self, tile: Tile, seen: list[int], wrong: list[int]) -> TileResult:
        scores = self._complete.get(tile.name) or TileScores.of(self._observed.get(tile.name, Observed()))
        (images, number_anomalous), (missed, false_alarms) = seen, wrong
        return TileResult(
            tile=tile.name,
            top=tile.rows.start,
            left=tile.columns.start,
            images=images,
            anomalous=number_anomalous,
            **vars(scores),
            missed=missed if self._decided and images else None,
            false_alarms=false_alarms if self._decided and images else None,
            left_out=tile.name in self._grid.left_out,
        )


def observed_tile(tile: Tile, batches: Iterable[tuple[Annotations, TilePrediction]], grid: TileGrid) -> Observed:
    """Count the scores of one tile location.

    Args:
        tile: The tile.
        batches: What is known of the tile, and its predictions.
        grid: Its grid.
    """
    observed = Observed.of_a_tile(grid)
    for batch, raw in batches:
        known, truth = _known_whole(batch) if isinstance(tile, WholeImage) else known_images(batch, tile.size)
        _count(observed, known, truth.seen_by(tile), raw)
    return observed


def weakest(results: Sequence[TileResult], most: int) -> list[TileResult]:
    """Give the weak locations, the worst first.

    The worst has the lowest image AUROC; among equals, the most missed defects and false alarms; then the lowest pixel
    AUROC.

    Args:
        results: All locations.
        most: Largest number of locations to give.
    """
    return sorted((each for each in results if each.is_weak and each.tile != WHOLE), key=_strength)[:most]


def _strength(result: TileResult) -> tuple[float, int, float]:
    image, pixel = (1.0 if auroc is None else auroc for auroc in (result.image_auroc, result.pixel_auroc))
    return image, -(result.missed or 0) - (result.false_alarms or 0), pixel


def _count(observed: Observed, known: NDArray[np.intp], truth: Truth, raw: TilePrediction) -> None:
    """Count the scores of a tile, at the positions of a batch where its label is known."""
    if known.size:
        scores, maps = _chosen(raw.scores, known), None if raw.maps is None else _chosen(raw.maps, known)
        hidden = _hidden(raw.hidden, len(raw.scores), known)
        observed.add(scores, None if truth.masks is None else maps, truth, hidden)


def known_images(batch: ImageBatch | Annotations, size: Size) -> Known:
    """Give the positions of the images whose tiles have a known label, and their truth, of masks of a size.

    Without masks, a tile of a normal image is normal, and a tile of an anomalous image is unknown.
    """
    if batch.gt_mask is not None:
        return np.arange(len(batch)), Truth.of(batch.gt_label, batch.gt_mask, len(batch))
    labels = [] if batch.gt_label is None else batch.gt_label.cpu().tolist()
    known = np.array([index for index, label in enumerate(labels) if label == 0], dtype=np.intp)
    nothing = np.zeros(len(known), dtype=np.bool_)
    return known, Truth(nothing, np.broadcast_to(nothing[:, None, None], (len(known), *size)))


def _known_whole(batch: ImageBatch | Annotations) -> Known:
    """Give the same for whole images: their label is known without masks, too."""
    known = np.arange(len(batch) if batch.gt_label is not None or batch.gt_mask is not None else 0)
    return known, Truth.of(batch.gt_label, batch.gt_mask, len(known))


def _chosen(values: torch.Tensor, known: NDArray[np.intp]) -> torch.Tensor:
    return values if len(known) == len(values) else values[known.tolist()]


def _hidden(hidden: torch.Tensor | None, batch: int, known: NDArray[np.intp]) -> torch.Tensor | None:
    """Give the hidden pixels at the known positions of a batch; one image may stand for all."""
    return None if hidden is None else _chosen(hidden.expand(batch, -1, -1, -1), known)


def _mean(counts: ScoreCounts, of_class: NDArray[np.float64]) -> float | None:
    total = of_class.sum()
    return float((counts.lower * of_class).sum() / total) if total else None
