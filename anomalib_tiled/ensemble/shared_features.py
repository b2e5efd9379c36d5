"""Features of several tiles at once, where the models of tiles share a frozen backbone.

A backbone that sees one tile at a time takes a processor a fifth longer for each.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

from anomalib_tiled.ensemble.half_precision import predicting
from anomalib_tiled.runs.checkpoints import weights_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anomalib.models.components import AnomalibModule

    Features = dict[str | int, torch.Tensor]


GIVE_TILES_TO_THE_BACKBONE = (PadimModel, PatchcoreModel)
"""Models that do not change tiles before their backbone sees them; others may resize them first."""


class _Held(NamedTuple):
    """Features of a tile.

    Args:
        inputs: What the backbone was given, shape (images, channels, height, width).
        features: What it gave.
        weights: Its weights, which stay in memory: new ones cannot come to lie where these are.
    """

    inputs: torch.Tensor
    features: Features
    weights: list[torch.Tensor]


class SharedFeatures:
    """Features of the tiles of a batch of images: those of the next tiles are computed with those of the first.

    A model gets them only if its backbone has the very same weights, and is given the very same tiles. Once that is not
    so, no more are computed in advance.

    Args:
        following: Gives a tile and the next ones, by name, that fit into a batch: shape (images, 3, height, width).
    """

    def __init__(self, following: Callable[[str], Mapping[str, torch.Tensor]]) -> None:
        self._following = following
        self._held: dict[str, _Held] = {}
        self._used = True
        """Whether models have used what was computed for them."""

    @contextmanager
    def offered(self, model: AnomalibModule, name: str) -> Iterator[None]:
        """Let the backbone of a model give the features of a tile without computing them again.

        Args:
            model: The model of the tile.
            name: Name of the tile.
        """
        backbone = _backbone_of(model)
        if backbone is None:
            yield
            return
        if self._used and name not in self._held and len(tiles := self._following(name)) > 1:
            self._compute(model, backbone, tiles)
        held = self._held.pop(name, None)
        if held is None or not _are_same(held.weights, weights_of(backbone)):
            self._used = self._used and held is None
            yield
            return
        own, before = backbone.forward, vars(backbone).get("forward")

        def forward(inputs: torch.Tensor) -> Features:
            if inputs.shape == held.inputs.shape and torch.equal(inputs, held.inputs):
                return dict(held.features)
            self._used = False
            features: Features = own(inputs)
            return features

        vars(backbone)["forward"] = forward  # of this object, not of its class
        try:
            yield
        finally:
            if before is None:
                del vars(backbone)["forward"]
            else:
                vars(backbone)["forward"] = before

    @torch.inference_mode()
    def _compute(
        self, model: AnomalibModule, backbone: TimmFeatureExtractor, tiles: Mapping[str, torch.Tensor]
    ) -> None:
        together = torch.cat([*tiles.values()])
        with predicting(model, together.device):
            inputs = together if model.pre_processor is None else model.pre_processor(together)
            features: Features = backbone(inputs)
        parts = zip(*(each.chunk(len(tiles)) for each in (inputs, *features.values())), strict=True)
        for name, (own, *values) in zip(tiles, parts, strict=True):
            self._held[name] = _Held(own, dict(zip(features, values, strict=True)), weights_of(backbone))


def _backbone_of(model: AnomalibModule) -> TimmFeatureExtractor | None:
    """Give the backbone of a model that gives it the tiles as they are; ``None`` for other models."""
    if not isinstance(getattr(model, "model", None), GIVE_TILES_TO_THE_BACKBONE):
        return None
    found = [each for each in model.modules() if isinstance(each, TimmFeatureExtractor)]
    return found[0] if len(found) == 1 and not found[0].requires_grad else None


def _are_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Whether tensors share their memory, each with its counterpart."""
    return len(first) == len(second) and all(one.is_set_to(other) for one, other in zip(first, second, strict=True))
