"""The tile models of an ensemble, within a budget of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anomalib_tiled.memory import available_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.grid import Tile

SHARE_OF_MEMORY = 0.5
"""Share of the free memory that tile models may take up."""


class TileModels:
    """The tile models: as many as the budget allows stay in memory, the others are loaded each time.

    Tiles are asked for in the same order again and again, so keeping the first ones beats keeping the last ones.
    Weights that are equal in all tiles, a frozen backbone for example, are held once.

    Args:
        load: Loads the model of a tile.
        budget: Memory that models may take up, in bytes; ``None`` for half of what is free on their device when the
            first one is asked for.
    """

    def __init__(self, load: Callable[[Tile], AnomalibModule], budget: int | None = None) -> None:
        self.budget = budget
        self.held = 0
        self._load = load
        self._device: torch.device | None = None
        self._kept: dict[str, AnomalibModule] = {}
        self._shared: dict[str, torch.Tensor] = {}

    def model(self, tile: Tile, device: torch.device) -> AnomalibModule:
        """Give the model of a tile on a device, ready to predict."""
        if device != self._device:
            self._move_to(device)
        if tile.name in self._kept:
            return self._kept[tile.name]
        model = self._load(tile).to(device).eval()
        needed = self._share_equal_weights(model)
        if self.budget is None:
            self.budget = int(_free_memory(device) * SHARE_OF_MEMORY)
        if self.held + needed <= self.budget:
            self._kept[tile.name] = model
            self.held += needed
            for name, tensor in _tensors(model):
                self._shared.setdefault(name, tensor.data)
        return model

    def _move_to(self, device: torch.device) -> None:
        """Forget the models of another device: moving them would part the weights that they share."""
        self._device = device
        self._kept.clear()
        self._shared.clear()
        self.held = 0

    def _share_equal_weights(self, model: AnomalibModule) -> int:
        """Replace weights by those of the first model where they are equal; give the bytes that are the model's own."""
        own = 0
        for name, tensor in _tensors(model):
            first = self._shared.get(name)
            if first is not None and _equal(first, tensor.data):
                tensor.data = first
            else:
                own += tensor.numel() * tensor.element_size()
        return own


def _free_memory(device: torch.device) -> int:
    """Give the free memory of a device in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def _tensors(model: AnomalibModule) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    same_kind = first.shape == second.shape and first.dtype == second.dtype and first.device == second.device
    return same_kind and torch.equal(first, second)
