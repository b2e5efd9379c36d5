"""The tile models of an ensemble, within a budget of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anomalib_tiled.checkpoints import equal
from anomalib_tiled.memory import SHARE, memory_budget

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.grid import Tile


class TileModels:
    """The tile models: as many as the budget allows stay in memory, the others are loaded each time.

    Tiles are asked for in the same order again and again, so keeping the first ones beats keeping the last ones.
    Weights that are equal in all tiles, a frozen backbone for example, are held once.

    Args:
        load: Loads the model of a tile.
        budget: Memory that models may take up, in bytes; ``None`` for a share of what is free on their device when the
            first one is asked for.
        reload: Has a loaded model become that of another tile, for tiles beyond the budget; ``None`` to load a new one
            each time.
        share: Which share of the machine's free memory, if there is no budget.
    """

    def __init__(
        self,
        load: Callable[[Tile], AnomalibModule],
        budget: int | None = None,
        reload: Callable[[AnomalibModule, Tile], None] | None = None,
        *,
        share: float = SHARE,
    ) -> None:
        self.budget = budget
        self.held = 0
        self._load, self._reload, self._share = load, reload, share
        self._device: torch.device | None = None
        self._kept: dict[str, AnomalibModule] = {}
        self._shared: dict[str, torch.Tensor] = {}
        self._spare: AnomalibModule | None = None

    def model(self, tile: Tile, device: torch.device) -> AnomalibModule:
        """Give the model of a tile on a device, ready to predict. It may become that of another tile when asked again.

        Args:
            tile: The tile.
            device: Where to predict.
        """
        if device != self._device:
            self._move_to(device)
        if tile.name in self._kept:
            return self._kept[tile.name]
        if self._spare is not None and self._reload is not None:
            self._reload(self._spare, tile)
            return self._spare.to(device).eval()
        model = self._load(tile).to(device).eval()
        if self.budget is None:
            self.budget = memory_budget(device, self._share)
        if self.held + self._own_bytes(model) <= self.budget:
            self._keep(tile, model)
        elif self._reload is not None:
            self._spare = model
        return model

    def _keep(self, tile: Tile, model: AnomalibModule) -> None:
        """Keep a model; weights that are equal to those of the first one are held once."""
        self.held += self._own_bytes(model)
        for name, tensor in _tensors(model):
            if self._is_shared(name, tensor):
                tensor.data = self._shared[name]
            self._shared.setdefault(name, tensor.data)
        self._kept[tile.name] = model

    def _move_to(self, device: torch.device) -> None:
        """Forget the models of another device: moving them would part the weights that they share."""
        self._device = device
        self._kept.clear()
        self._shared.clear()
        self._spare = None
        self.held = 0

    def _own_bytes(self, model: AnomalibModule) -> int:
        """Give the bytes of a model that are not held already."""
        return sum(tensor.nbytes for name, tensor in _tensors(model) if not self._is_shared(name, tensor))

    def _is_shared(self, name: str, tensor: torch.Tensor) -> bool:
        first = self._shared.get(name)
        return first is not None and first.device == tensor.device and equal(first, tensor.data)


def _tensors(model: AnomalibModule) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
