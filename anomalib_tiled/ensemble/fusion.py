"""Two branches on one scale: what the tiles show, and what the global model shows of the whole image.

Each branch learns location and scale from its own predictions of the normal validation images:

    scores    location: their median                scale: their median distance from the location
    maps      location: the mean of their pixels    scale: the mean of the highest pixel of each, minus the location

    joined = location of tiles + scale of tiles * fuse((tiles - location) / scale, (whole - location) / scale)

So half of the normal scores lie between -1 and 1 in both branches, whatever a single odd image says. If more than half
of the scores are equal, their standard deviation takes the place of that distance. In maps, a usual pixel is 0 and the
highest pixel of a usual image is 1: the few pixels that raise alarms are equally high in both, however rough or smooth
the maps are. The result is back on the scale of the tiles. Nothing is clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from anomalib_tiled.stages.contracts import call_stage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.stages.global_model import GlobalModel

LEAST = 1e-3
"""Least scale, as a fraction of the location: below it normal predictions hardly vary, and what differs is rounding."""


@dataclass(frozen=True)
class Scale:
    """Where the normal predictions of a branch lie.

    Args:
        location: A usual one.
        scale: How far others lie from it.
    """

    location: float
    scale: float

    @classmethod
    def of(cls, location: float, scale: float) -> Scale:
        """Give a scale that can be divided by."""
        return cls(location, max(scale, LEAST * abs(location)) or 1.0)

    def standard(self, values: torch.Tensor) -> torch.Tensor:
        """Bring values to the scale that branches share."""
        return (values - self.location) / self.scale

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """Bring values from there to the scale of the branch."""
        return values * self.scale + self.location


@dataclass(frozen=True)
class Branch:
    """What one branch has learned.

    Args:
        scores: The scale of its scores.
        maps: The scale of its maps; ``None`` if its model gives none.
    """

    scores: Scale
    maps: Scale | None


@dataclass(frozen=True)
class Branches:
    """What both branches have learned.

    Args:
        tiles: The tiles, after merging and smoothing.
        whole: The whole image.
    """

    tiles: Branch
    whole: Branch

    @classmethod
    def from_json(cls, content: Mapping[str, Plain]) -> Branches:
        """Read them from ``calibration.json``."""
        return cls(*(_branch(content[name]) for name in ("tiles", "whole")))

    def fused_scores(self, model: GlobalModel, tiles: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        """Join scores, shape (batch,)."""
        return _fused(model, (self.tiles.scores, tiles), (self.whole.scores, whole))

    def fused_maps(self, model: GlobalModel, tiles: torch.Tensor, whole: torch.Tensor | None) -> torch.Tensor:
        """Join maps, shape (batch, 1, height, width); without maps of both branches, those of the tiles stay."""
        if whole is None or self.tiles.maps is None or self.whole.maps is None:
            return tiles
        return _fused(model, (self.tiles.maps, tiles), (self.whole.maps, whole))


def _fused(model: GlobalModel, tiles: tuple[Scale, torch.Tensor], whole: tuple[Scale, torch.Tensor]) -> torch.Tensor:
    standard = [scale.standard(values) for scale, values in (tiles, whole)]
    return tiles[0].own(call_stage(model, model.fuse, *standard, shape=tuple(tiles[1].shape)))


class Predicted(NamedTuple):
    """What one branch predicts for a batch of images.

    Args:
        scores: Shape (batch,).
        maps: In the size of the images, shape (batch, 1, height, width); ``None`` if the model gives none.
    """

    scores: torch.Tensor
    maps: torch.Tensor | None


class BranchScores:
    """What both branches predict for the validation images: for each its score, and mean and highest pixel of the map.

    Memory grows by a few numbers per image.
    """

    def __init__(self) -> None:
        self._labels: list[NDArray[np.bool_]] = []
        self._numbers: dict[str, list[NDArray[np.float64]]] = {"tiles": [], "whole": []}

    def add(
        self, tiles: Predicted, whole: Predicted, labels: NDArray[np.bool_], counted: torch.Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            tiles: What the tiles predict.
            whole: What the global model predicts.
            labels: Whether each image is anomalous, shape (batch,).
            counted: Pixels that count, shape (batch or 1, 1, height, width); ``None`` for all.
        """
        self._labels.append(labels)
        for name, branch in {"tiles": tiles, "whole": whole}.items():
            self._numbers[name].append(_numbers(branch, counted))

    def merge(self, other: BranchScores) -> None:
        """Add what another place has counted of the next images."""
        self._labels += other._labels
        self._numbers = {name: [*numbers, *other._numbers[name]] for name, numbers in self._numbers.items()}

    def learn(self) -> Branches:
        """Learn the scales, from all images if none is normal."""
        normal = ~np.concatenate(self._labels)
        chosen = normal if normal.any() else np.ones_like(normal)
        return Branches(*(_learned(np.concatenate(self._numbers[name])[chosen]) for name in ("tiles", "whole")))


def _numbers(branch: Predicted, counted: torch.Tensor | None) -> NDArray[np.float64]:
    """Give score, mean and highest pixel of each image, shape (batch, 3); NaN without maps."""
    scores = branch.scores.double().cpu().numpy()
    if branch.maps is None:
        return np.stack([scores, *np.full((2, len(scores)), np.nan)], axis=1)
    pixels = branch.maps.double()
    weights = torch.ones_like(pixels) if counted is None else counted.to(pixels).expand_as(pixels)
    mean = (pixels * weights).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3)).clamp(min=1)
    highest = pixels.masked_fill(weights == 0, -torch.inf).amax(dim=(1, 2, 3))
    return np.stack([scores, mean.cpu().numpy(), highest.cpu().numpy()], axis=1)


def _learned(numbers: NDArray[np.float64]) -> Branch:
    scores, means, highest = numbers.T
    location = float(np.median(scores))
    own = Scale.of(location, float(np.median(np.abs(scores - location)) or scores.std()))
    finite = np.isfinite(highest)  # an image of which no pixel counts has none
    if not finite.any():
        return Branch(own, None)
    usual = float(means[finite].mean())
    return Branch(own, Scale.of(usual, float(highest[finite].mean()) - usual))


def _branch(content: Mapping[str, Plain]) -> Branch:
    maps = content["maps"]
    return Branch(Scale(**content["scores"]), None if maps is None else Scale(**maps))
