"""Scores of the validation images as they are counted, and what stages learn from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_tiled.data.tile_dataset import shrunk_masks
from anomalib_tiled.ensemble.calibration import Learned, Level, Stages
from anomalib_tiled.ensemble.fusion import BranchScores
from anomalib_tiled.ensemble.normal_images import NormalImages
from anomalib_tiled.ensemble.uninspected import hidden_defects, hidden_images, seen_pixels
from anomalib_tiled.grid import Tile, TileGrid, WholeImage
from anomalib_tiled.stages.contracts import (
    call_stage,
    errors_naming_stage,
    learned_number,
    learned_numbers,
    with_context,
)
from anomalib_tiled.stages.distribution import IMAGE_BITS, ExactScores, ScoreDistribution, tile_bits
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.thresholding import Thresholder


class Observed:
    """Distributions of the validation scores of one tile, or of whole images.

    Args:
        bits: Number of bins for pixels, as a power of two; see ``ScoreDistribution``.
        uninspected: Pixels that no model sees, shape (height, width), from which nothing is learned; ``None`` if there
            are none.
    """

    def __init__(self, bits: int = IMAGE_BITS, uninspected: NDArray[np.bool_] | None = None) -> None:
        self.scores = ExactScores()
        self.maps = ScoreDistribution(bits)
        self.regions: dict[str, ExactScores] = {}
        self.every_mask_known = True
        self.normal_images = 0
        self.branches, self.normal = BranchScores(), NormalImages()
        self._uninspected = uninspected
        self._numbers: list[NDArray[np.int32]] = []

    @classmethod
    def of_a_tile(cls, grid: TileGrid) -> Observed:
        """Begin to count at one tile location: the more tiles a grid has, the fewer bins each gets."""
        return cls(tile_bits(len(grid.tiles)))

    @property
    def numbers(self) -> NDArray[np.int32]:
        """For each of the scores, which of the ``normal_images`` it belongs to, shape (scores,); -1 for none of them.

        The normal images of all tiles have the same numbers, even where an image has no score.
        """
        return np.concatenate([np.zeros(0, np.int32), *self._numbers])

    def add(
        self, scores: torch.Tensor, maps: torch.Tensor | None, truth: Truth, hidden: torch.Tensor | None = None
    ) -> None:
        """Count the predictions of a batch.

        Args:
            scores: Shape (batch,).
            maps: Shape (batch, 1, height, width); ``None`` if the model gives none.
            truth: What is anomalous.
            hidden: Pixels that do not count, shape (batch or 1, 1, height, width); ``None`` if all do.
        """
        out = None if hidden is None else hidden.squeeze(1).cpu().numpy()
        seen = np.ones(len(truth.labels), dtype=np.bool_)
        if truth.masks is not None:
            seen &= ~hidden_defects(truth.masks, self._uninspected)
        if out is not None:
            seen &= ~hidden_images(truth.labels, truth.masks, out)
        self.scores.add(scores.cpu().numpy()[seen], truth.labels[seen])
        self._number(truth.of_normal_images, seen)
        if maps is not None:
            self.every_mask_known &= truth.masks is not None
            values = maps.squeeze(1).cpu().numpy()
            anomalous = truth.pixels(values.shape)
            for images, pixels in seen_pixels(self._uninspected, out, len(values)):
                self.maps.add(values[images][:, pixels], anomalous[images][:, pixels])

    def add_regions(self, scores: Mapping[str, torch.Tensor], anomalous: Mapping[str, NDArray[np.bool_]]) -> None:
        """Count the scores of named regions, by their names.

        Args:
            scores: Shape (batch,).
            anomalous: Whether the region is anomalous in each image, shape (batch,).
        """
        for name, values in scores.items():
            self.regions.setdefault(name, ExactScores()).add(values.cpu().numpy(), anomalous[name])

    def merge(self, other: Observed) -> None:
        """Add what another place has observed of the next images.

        Args:
            other: What it has observed; stays unchanged.
        """
        self.scores.merge(other.scores)
        self.maps.merge(other.maps)
        self.every_mask_known &= other.every_mask_known
        for name, scores in other.regions.items():
            self.regions.setdefault(name, ExactScores()).merge(scores)
        self.branches.merge(other.branches)
        self.normal.merge(other.normal)
        self._numbers.append(np.where(other.numbers < 0, other.numbers, other.numbers + np.int32(self.normal_images)))
        self.normal_images += other.normal_images

    def _number(self, normal: NDArray[np.bool_], seen: NDArray[np.bool_]) -> None:
        """Number the normal images of a batch, and note the numbers of those whose scores are counted."""
        numbers = np.where(normal, self.normal_images + np.cumsum(normal) - 1, -1)
        self._numbers.append(numbers[seen].astype(np.int32))
        self.normal_images += int(normal.sum())

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the pixels that no model sees: nothing more is counted elsewhere."""
        return {**vars(self), "_uninspected": None}

    def rounding(self, normalizer: Normalizer, level: Level) -> tuple[float, float]:
        """Compute how far rounding moves the highest normal score, and pixel, once the normalizer has learned."""
        return _rounding(normalizer, self.scores, level.scores), _rounding(normalizer, self.maps, level.maps)

    def take_rounding(self, tiles: Iterable[tuple[float, float]]) -> None:
        """Set how far rounding may move scores of images that are joined from normalized scores of tiles.

        The narrower the scale of a tile, the larger the share of rounding in it.

        Args:
            tiles: The ``rounding`` of each tile.
        """
        self.scores.given_rounding, self.maps.given_rounding = map(max, zip(*tiles, strict=True))
        for scores in self.regions.values():  # of pixels
            scores.given_rounding = self.maps.given_rounding

    def learn_scores(self, stages: Stages, rule: Thresholder, chosen: NDArray[np.bool_], *, normalize: bool) -> Learned:
        """Let a threshold rule, and, to ``normalize``, the normalizer learn from some of the scores, not from maps.

        Args:
            stages: The stages.
            rule: The threshold rule.
            chosen: Which scores, shape (scores,).
            normalize: Whether the normalizer learns, too.

        Raises:
            StageError: A stage fails, or does not learn finite numbers.
        """
        return _learned(stages, rule, self.scores.part(chosen), normalize=normalize)

    def learn(self, stages: Stages, *, normalize: bool, rule: Thresholder | None = None) -> Level:
        """Let a threshold rule, by default that of the stages, and, to ``normalize``, the normalizer learn.

        Without masks the threshold of the scores is used for the maps too, as in anomalib.

        Raises:
            StageError: A stage fails, or does not learn finite numbers.
        """
        rule = rule or stages.thresholder
        scores = _learned(stages, rule, self.scores, normalize=normalize)
        if self.maps.empty:
            return Level(scores, scores)
        threshold = None if self.every_mask_known else scores.threshold
        return Level(scores, _learned(stages, rule, self.maps, normalize=normalize, threshold=threshold))

    def learn_regions(self, stages: Stages, *, normalize: bool) -> dict[str, Learned]:
        """Do the same for each named region, by its name."""
        learned = {}
        for name, scores in self.regions.items():
            with with_context(f"Region: {name}."):
                learned[name] = _learned(stages, stages.thresholder, scores, normalize=normalize)
        return learned


@dataclass(frozen=True)
class Truth:
    """Ground truth of a batch.

    Args:
        labels: Whether each image (or tile) is anomalous, shape (batch,).
        masks: Which pixels are anomalous, shape (batch, height, width); ``None`` if unknown.
        of_images: Whether the whole image that a tile was cut from is anomalous, shape (batch,); ``None`` if nothing
            was cut.
    """

    labels: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None
    of_images: NDArray[np.bool_] | None = None

    @property
    def of_normal_images(self) -> NDArray[np.bool_]:
        """Whether the whole image is normal, shape (batch,)."""
        return ~(self.labels if self.of_images is None else self.of_images)

    @classmethod
    def of(cls, labels: torch.Tensor | None, masks: torch.Tensor | None, batch: int) -> Truth:
        """Read the ground truth of a batch; images without labels count as normal."""
        known = torch.zeros(batch, dtype=torch.bool) if labels is None else labels.bool().cpu()
        return cls(known.numpy(), None if masks is None else masks.bool().cpu().numpy())

    def pixels(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Give the anomalous pixels; without masks, none of a normal image and all of an anomalous image."""
        return np.broadcast_to(self.labels[:, None, None], shape) if self.masks is None else self.masks

    def cut(self, rows: slice, columns: slice) -> Truth:
        """Give the truth of a rectangle: anomalous if one of its pixels is, or, without masks, if the image is."""
        if self.masks is None:
            return self
        masks = self.masks[:, rows, columns]
        return Truth(np.any(masks, axis=(1, 2)), masks, ~self.of_normal_images)

    def of_tile(self, tile: Tile) -> Truth:
        """Give the truth of a tile from that of whole images."""
        return self.seen_by(tile) if isinstance(tile, WholeImage) else self.cut(tile.rows, tile.columns)

    def seen_by(self, tile: Tile) -> Truth:
        """Give the truth of a tile from that of its rectangle, in the size of its maps; a whole image has its label."""
        if isinstance(tile, WholeImage):
            masks = None if self.masks is None else shrunk_masks(torch.from_numpy(self.masks), tile.shrunk).numpy()
            return Truth(self.labels, masks, ~self.of_normal_images)
        return self.cut(slice(None), slice(None))


def _learned(
    stages: Stages, rule: Thresholder, scores: ScoreDistribution, *, normalize: bool, threshold: float | None = None
) -> Learned:
    """Let thresholder and normalizer learn one scale; a given threshold is not learned."""
    if threshold is None:
        with errors_naming_stage(rule):
            learned = rule.learn(scores)
        threshold = learned_number(rule, learned)
    if not normalize:
        return Learned(threshold, None)
    with errors_naming_stage(stages.normalizer):
        normalization = stages.normalizer.learn(scores, threshold)
    return Learned(threshold, learned_numbers(stages.normalizer, normalization))


def _rounding(normalizer: Normalizer, scores: ScoreDistribution, learned: Learned) -> float:
    """Compute how far rounding moves the highest normal score after normalization."""
    if learned.normalization is None or not scores.has_normal:
        return 0.0
    highest = torch.tensor([scores.maximum_normal, scores.maximum_normal + scores.rounding])
    before, after = call_stage(normalizer, normalizer.apply, highest, learned.normalization, shape=(2,)).tolist()
    return float(after - before)
