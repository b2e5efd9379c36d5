"""Scoring: from the scores of an image's tiles to the score of the image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch


class Scorer(ABC):
    """How the scores of the tiles of an image become the score of the image."""

    @abstractmethod
    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        """Give one score for each image.

        Args:
            tile_scores: Score of each tile, higher is more anomalous, shape (tiles, batch).
            maps: Merged anomaly maps, shape (batch, 1, height, width); ``None`` if the model gives no maps.

        Returns:
            Scores, higher is more anomalous, shape (batch,).
        """


class Max(Scorer):
    """Highest tile score: one defective tile makes the image defective, even among many tiles."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        """Take the highest tile score of each image."""
        del maps
        return tile_scores.amax(dim=0)


class Mean(Scorer):
    """Mean of the tile scores, as in anomalib's own tiled ensemble; many normal tiles hide a small defect."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        """Take the mean tile score of each image."""
        del maps
        return tile_scores.mean(dim=0)


class TopK(Scorer):
    """Mean of the highest tile scores: less sensitive than Max to one noisy tile.

    Args:
        k: Number of tile scores to average; all of them if there are fewer.
    """

    def __init__(self, k: int = 3) -> None:
        if k < 1:
            message = f"TopK scoring needs k of at least 1, got {k}."
            raise ValueError(message)
        self.k = k

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        """Take the mean of the k highest tile scores of each image."""
        del maps
        return tile_scores.topk(min(self.k, len(tile_scores)), dim=0).values.mean(dim=0)
