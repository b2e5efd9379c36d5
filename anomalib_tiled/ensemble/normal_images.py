"""Scores of normal validation images: what those of new images are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]


@dataclass
class NormalImages:
    """Scores of normal images, in order. Memory grows by one number per image and tile.

    Args:
        batches: Of each batch of images: their scores before normalization, under the empty name, shape (images,).
        tiles: Of each batch: the score of each tile that its model gives, by its name, shape (images,); NaN where no
            pixel of the tile counts.
        regions: Of each batch: the score of each named region before normalization, by its name, shape (images,).
    """

    batches: list[dict[str, Scores]] = field(default_factory=list)
    tiles: list[dict[str, Scores]] = field(default_factory=list)
    regions: list[dict[str, Scores]] = field(default_factory=list)

    def add(
        self,
        normal: NDArray[np.bool_],
        scores: torch.Tensor,
        tiles: Mapping[str, torch.Tensor],
        regions: Mapping[str, torch.Tensor],
    ) -> None:
        """Add the normal images of a batch.

        Args:
            normal: Which images are normal, shape (batch,).
            scores: Scores of the images, shape (batch,).
            tiles: Those of tiles, by their names, shape (batch,) each.
            regions: Those of named regions.
        """
        for known, given in ((self.batches, {"": scores}), (self.tiles, tiles), (self.regions, regions)):
            known.append({name: each.cpu().numpy()[normal] for name, each in given.items()})

    def merge(self, other: NormalImages) -> None:
        """Add what another place has added of the next images."""
        self.batches += other.batches
        self.tiles += other.tiles
        self.regions += other.regions

    def joined(self) -> tuple[Scores, dict[str, Scores], dict[str, Scores]]:
        """Give the scores of all images, of their tiles, and of named regions."""
        images, tiles, regions = map(_joined, (self.batches, self.tiles, self.regions))
        return images.get("", np.zeros(0, np.float32)), tiles, regions


def _joined(batches: list[dict[str, Scores]]) -> dict[str, Scores]:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in (batches[0] if batches else ())}
