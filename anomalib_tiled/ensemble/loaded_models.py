"""The trained tile models of an ensemble: loaded from checkpoints, and kept within a budget of memory."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.ensemble.arithmetic import Arithmetic
from anomalib_tiled.ensemble.gaussians import as_anomalib_keeps
from anomalib_tiled.ensemble.tile_model import class_of, load_tile_model, predict_tile, reload_tile_model
from anomalib_tiled.grid import WholeImage
from anomalib_tiled.runs.checkpoints import (
    Restorer,
    VerifiedCheckpoints,
    equal,
    exchange,
    read_checkpoint,
    tensors_of,
)
from anomalib_tiled.system.memory import SHARE, memory_budget

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.config.settings import ClassSpec
    from anomalib_tiled.ensemble.prediction_engine import PredictionEngine
    from anomalib_tiled.ensemble.shared_features import SharedFeatures
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Size, Tile
    from anomalib_tiled.runs.checkpoints import Checkpoint, Weights
    from anomalib_tiled.runs.run_folder import RunFolder


class SavedModels:
    """Loads the models of tiles from their checkpoints, each after its checksum was compared.

    Args:
        folder: The run folder.
        spec: Class and arguments of the models.
        tile_size: Height and width of the tiles in pixels.
        alike: Whether models differ only in what checkpoints hold.
        arithmetic: How the models compute; ``None`` for the defaults.
    """

    def __init__(
        self, folder: RunFolder, spec: ClassSpec, tile_size: Size, *, alike: bool, arithmetic: Arithmetic | None = None
    ) -> None:
        self._spec, self._tile_size, self._alike = spec, tile_size, alike
        self._arithmetic = arithmetic or Arithmetic()
        self._restorer = Restorer()
        self.checkpoints = VerifiedCheckpoints(folder)

    def load(self, tile: Tile) -> AnomalibModule:
        """Load the model of a tile.

        Raises:
            RunFolderError: The checkpoint is missing, has changed or cannot be loaded.
        """
        with self.checkpoints.of(tile) as checkpoint:
            if not self._alike:
                return self._loaded(checkpoint)
            with torch.inference_mode(mode=False):  # so that it can be reloaded in any mode
                model = self._loaded(checkpoint)
        self.reload(model, tile)  # shares equal weights
        return model

    def _loaded(self, checkpoint: Path) -> AnomalibModule:
        model = load_tile_model(self._spec, self._tile_size, checkpoint)
        self._arithmetic.adapt(model)
        return model

    def reload(self, model: AnomalibModule, tile: Tile) -> None:
        """Load the weights of a tile into the model of another tile; errors are those of `load`."""
        with self.checkpoints.of(tile) as checkpoint:
            reload_tile_model(model, self._tile_size, checkpoint, self._restorer)
        self._arithmetic.adapt(model)

    def whole_checkpoint(self, tile: Tile) -> Checkpoint:
        """Read the checkpoint of a tile as anomalib would store it, with the weights that it shares with other tiles.

        Raises:
            RunFolderError: The checkpoint is missing, or has changed.
        """
        model_class = class_of(self._spec)
        with self.checkpoints.of(tile) as checkpoint:
            found = read_checkpoint(checkpoint, model_class)
            return {**found, "state_dict": as_anomalib_keeps(found["state_dict"])}


class TileModels:
    """The tile models: as many as the budget allows stay in memory, the others are loaded each time.

    Every batch needs the tiles in the same order, so keeping the first models beats keeping the last ones. Weights that
    are equal in all tiles, such as a frozen backbone, are held once. Making a model takes ten times as long as loading
    weights into it, so if a model can be reloaded, there is one model object, and the weights of each tile.

    Args:
        load: Loads the model of a tile.
        budget: Memory that models may use, in bytes; ``None`` for a share of the free memory of their device when the
            first model is loaded there.
        reload: Loads the weights of another tile into a model; ``None`` to load a new model for each tile.
        share: Share of the free memory, if there is no budget.
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
        self.engine: PredictionEngine | None = None
        """Computes backbones instead of PyTorch; ``None`` for PyTorch alone."""
        self._load, self._reload, self._share = load, reload, share
        self._device: torch.device | None = None
        self._free: int | None = None
        self._kept: dict[str, tuple[AnomalibModule, Weights]] = {}
        self._shared: Weights = {}
        self._only: AnomalibModule | None = None

    @property
    def interchangeable(self) -> bool:
        """Whether models of tiles differ only in their weights."""
        return self._reload is not None

    def predict(self, tile: Tile, images: torch.Tensor, features: SharedFeatures | None = None) -> TilePrediction:
        """Predict a batch of tiles.

        Args:
            tile: As for `model`.
            images: As for ``predict_tile``.
            features: Features that were computed before; ``None`` for none.

        Raises:
            ConfigurationError: The engine does not fit the model.
        """
        model = self.model(tile, images.device)
        if self.engine is not None:
            self.engine.prepare(model, images)
        with nullcontext() if features is None else features.offered(model, tile.name):
            return predict_tile(model, images)

    def model(self, tile: Tile, device: torch.device) -> AnomalibModule:
        """Give the model of a tile on a device, ready to predict. The next call may reload it for another tile.

        Args:
            tile: The tile; for tiles that share a model, the first of them.
            device: Where to predict.
        """
        if device != self._device:
            self._move_to(device)
        if tile.name in self._kept:
            return self._from_memory(tile)
        model = self._loaded(tile).to(device).eval()
        own = {name: tensor for name, tensor in tensors_of(model) if not self._is_shared(name, tensor)}
        needed = sum(tensor.nbytes for tensor in own.values())
        of_engine = 0 if self.engine is None else self.engine.nbytes
        if self.held + of_engine + needed <= self._room(device):
            self.held += needed
            self._keep(tile, model, own)
        return model

    def _room(self, device: torch.device) -> int:
        """Give the bytes that models may use; a share of what is free is measured once for each device."""
        if self.budget is not None:
            return self.budget
        if self._free is None:
            self._free = memory_budget(device, self._share)
        return self._free

    def _loaded(self, tile: Tile) -> AnomalibModule:
        if isinstance(tile, WholeImage):  # not the weights alone differ
            return self._load(tile)
        if self._only is None or self._reload is None:
            model = self._load(tile)
            self._only = model if self._reload is not None else None
            return model
        self._reload(self._only, tile)
        return self._only

    def _keep(self, tile: Tile, model: AnomalibModule, own: Weights) -> None:
        """Keep the weights of a tile in memory; weights that equal those of the first tile are held once."""
        for name, tensor in tensors_of(model):
            exchange(tensor, _in_memory(tensor.data) if name in own else self._shared[name])
            self._shared.setdefault(name, tensor.data)
        self._kept[tile.name] = model, {name: tensor.data for name, tensor in tensors_of(model)}

    def _from_memory(self, tile: Tile) -> AnomalibModule:
        model, weights = self._kept[tile.name]
        if model is self._only:
            for name, tensor in tensors_of(model):
                if name in weights:  # tensors that a model made while it predicted are not weights of the tile
                    exchange(tensor, weights[name])
        return model

    def _move_to(self, device: torch.device) -> None:
        """Forget the models of another device: moving them would copy the weights that they share."""
        self._device = device
        self._kept.clear()
        self._shared.clear()
        self._only = self._free = None
        self.held = 0

    def _is_shared(self, name: str, tensor: torch.Tensor) -> bool:
        first = self._shared.get(name)
        return first is not None and first.device == tensor.device and equal(first, tensor.data)


def _in_memory(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor that is mapped from a file."""
    return tensor if tensor.untyped_storage().resizable() else tensor.clone()
