"""What an ensemble predicts before whole images are normalized and thresholded, and how scores are normalized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from anomalib_tiled.ensemble.calibration import Learned, Stages
from anomalib_tiled.ensemble.fusion import Predicted
from anomalib_tiled.stages.contracts import call_stage
from anomalib_tiled.stages.normalization import Normalizer

SMALLEST = 1e-12
"""Avoids a division by zero if a threshold is 0 or 1."""


@dataclass(frozen=True)
class RawPrediction:
    """Predictions for a batch of images before normalization and thresholding of whole images.

    Args:
        scores: Shape (batch,).
        maps: Shape (batch, 1, height, width); each tile filled with its score if the model gives no maps.
        has_maps: Whether the model gives maps.
        labels: Whether a tile is anomalous, shape (batch,); ``None`` unless tiles are thresholded.
        masks: Which pixels are anomalous in a tile, shape of the maps; ``None`` unless tiles are thresholded.
        uninspected: Pixels that no model sees, shape (height, width), which are never anomalous; ``None`` if there are
            none. In the maps they have the lowest score of their image.
        hidden: Pixels that do not count, shape (batch or 1, 1, height, width), which are never anomalous; ``None`` if
            all do. In the maps they have the lowest score of their image, too.
        regions: Score of each named region, by its name, shape (batch,).
        whole: What the global model predicts, while it is not known how to join that with the tiles, as before a
            calibration; else ``None``.
        tiles: Score of each tile that its model gives, before any stage, by its name, shape (batch,); NaN where no
            pixel of the tile counts. The global model is ``whole``.
    """

    scores: torch.Tensor
    maps: torch.Tensor
    has_maps: bool
    labels: torch.Tensor | None
    masks: torch.Tensor | None
    uninspected: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    regions: Mapping[str, torch.Tensor] = field(default_factory=dict)
    whole: Predicted | None = None
    tiles: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def tile_scores(self) -> list[dict[str, float]]:
        """Give the score of each tile for each image, by its name; tiles of which no pixel counts are left out."""
        if not self.tiles:
            return [{} for _ in self.scores]
        names, scores = [*self.tiles], torch.stack([*self.tiles.values()], dim=1).tolist()
        return [
            {name: score for name, score in zip(names, row, strict=True) if not math.isnan(score)} for row in scores
        ]

    @property
    def unseen(self) -> torch.Tensor | None:
        """Pixels that no model sees, or that do not count; ``None`` if there are none."""
        return either(self.uninspected, self.hidden)

    def without_unseen(self, masks: torch.Tensor) -> torch.Tensor:
        """Remove pixels that no model sees, or that do not count, from masks."""
        return masks if self.unseen is None else masks & ~self.unseen

    def shown(self, maps: torch.Tensor) -> torch.Tensor:
        """Give maps for results: NaN where pixels do not count.

        Args:
            maps: Shape (batch, 1, height, width) or (batch, height, width).
        """
        if self.hidden is None:
            return maps
        return maps.masked_fill(self.hidden.reshape(-1, *maps.shape[1:]).to(maps.device), torch.nan)


def with_lowest(values: torch.Tensor, unseen: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """Replace some values by the lowest of the others.

    Args:
        values: Any values.
        unseen: Which of them to replace, of a shape that broadcasts to theirs.
        dim: Dimensions over which the lowest value is taken.
    """
    lowest = values.masked_fill(unseen, torch.inf).amin(dim=dim, keepdim=True)
    return torch.where(unseen, lowest, values)


def either(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    """Give the pixels of either mask; ``None`` if there are none."""
    if first is None or second is None:
        return first if second is None else second
    return first | second


def final_scores(stages: Stages, scores: torch.Tensor, learned: Learned) -> torch.Tensor:
    """Normalize scores or maps with what was learned; move the threshold to 0.5 if they come from normalized tiles.

    Args:
        stages: The stages.
        scores: Scores or maps of any shape.
        learned: What was learned on their scale.
    """
    if learned.normalization is not None:
        return normalized(stages.normalizer, scores, learned.normalization)
    if stages.normalize_at == "tile":
        return _recentred(scores, learned.threshold)
    return scores


def normalized(normalizer: Normalizer, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
    """Normalize scores or maps of any shape with what was learned.

    Raises:
        StageError: The normalizer fails.
    """
    return call_stage(normalizer, normalizer.apply, scores, learned, shape=tuple(scores.shape))


def _recentred(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Move the threshold of scores in [0, 1] to 0.5, keeping 0, 1 and the order."""
    below = 0.5 * scores / max(threshold, SMALLEST)
    above = 0.5 + 0.5 * (scores - threshold) / max(1 - threshold, SMALLEST)
    return torch.where(scores > threshold, above, below).clamp(0, 1)
