"""The global model: one more model, which sees the whole image, shrunk."""

from __future__ import annotations

import torch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.errors import ConfigurationError


class GlobalModel:
    """A model of the whole image, shrunk; the higher of its scores and those of the tiles counts.

    Subclasses join both in another way. They pass these two arguments on, by the same names.

    Args:
        image_size: Height and width of the shrunk image in pixels; one number for a square.
        model: Class path and arguments of the model; ``None`` for the model of the tiles.
    """

    def __init__(self, image_size: int | tuple[int, int] = 256, model: AnomalibModule | None = None) -> None:
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


class WeightedMean(GlobalModel):
    """A model of the whole image, shrunk; a weighted mean of its scores and those of the tiles counts.

    Args:
        image_size: Height and width of the shrunk image in pixels; one number for a square.
        model: Class path and arguments of the model; ``None`` for the model of the tiles.
        weight: Weight of the whole image, between 0 and 1; the tiles have the rest.

    Raises:
        ConfigurationError: The weight is not between 0 and 1.
    """

    def __init__(
        self, image_size: int | tuple[int, int] = 256, model: AnomalibModule | None = None, weight: float = 0.5
    ) -> None:
        super().__init__(image_size, model)
        if not 0 <= weight <= 1:
            message = f"global_model.weight must be between 0 and 1, but is {weight}. Change it."
            raise ConfigurationError(message)
        self.weight = weight

    def fuse(self, tiles: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        """Join what the tiles and what the whole image show; arguments and result are those of `GlobalModel.fuse`."""
        return (1 - self.weight) * tiles + self.weight * whole
