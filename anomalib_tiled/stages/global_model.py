"""The global model: one more model, which sees the whole image, shrunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class GlobalModel:
    """A model of the whole image, shrunk; the higher of its scores and those of the tiles counts.

    Args:
        image_size: Height and width of the shrunk image in pixels; one number for a square.
        model: Class path and arguments of the model; ``None`` for the model of the tiles.
    """

    def __init__(self, image_size: int | tuple[int, int] = 256, model: Mapping[str, Any] | None = None) -> None:
        self.image_size, self.model = image_size, model

    def fuse(self, tiles: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        """Join what the tiles and what the whole image show.

        Args:
            tiles: Scores or maps of the tiles, on a scale on which normal validation images are near 0.
            whole: Those of the whole image, on the same scale, same shape.

        Returns:
            Scores or maps of the same shape.
        """
        return torch.maximum(tiles, whole)
