"""Untrained models for the tiles of a run."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from torch.fx import GraphModule

from anomalib_tiled.ensemble.tile_model import build_tile_model

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.config.settings import ClassSpec
    from anomalib_tiled.grid import Size


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
"""Attributes of modules with the functions that are hooked into them; PyTorch has no other way to ask."""


class FreshModels:
    """Untrained models, each the same as if it alone were made, and the random numbers after it too.

    Making one takes a large part of a second, for weights that are drawn, or read from the disk. So one is made and the
    others are copies of it.

    Args:
        spec: Class and arguments.
        tile_size: Height and width of the tiles in pixels.
        seed: Seed of each model and of what is drawn afterwards.
        copied: Whether copies are as good as new ones: not if a model may hold something that cannot be copied.
    """

    def __init__(self, spec: ClassSpec, tile_size: Size, *, seed: int, copied: bool) -> None:
        self._spec, self._tile_size, self._seed, self._copied = spec, tile_size, seed, copied
        self._first: AnomalibModule | None = None
        self._randomness: Randomness | None = None

    def model(self) -> AnomalibModule:
        """Seed all random numbers and give an untrained model.

        Raises:
            ConfigurationError: The model refuses its arguments or the tile size.
        """
        seed_everything(self._seed, workers=True, verbose=False)
        if self._first is not None and self._randomness is not None:
            self._randomness.restore()
            return deepcopy(self._first)
        model = build_tile_model(self._spec, self._tile_size)
        if self._copied:
            self._first, self._randomness = _copy(model), Randomness.now()
        return model


@dataclass(frozen=True)
class Randomness:
    """Where the random numbers of Python, NumPy and PyTorch stand, on processors.

    Args:
        python: State of Python's.
        numpy: State of NumPy's.
        torch: State of PyTorch's.
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: torch.Tensor

    @classmethod
    def now(cls) -> Randomness:
        """Look where they stand."""
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # what models and augmentations draw from
        return cls(random.getstate(), numpy, torch.random.get_rng_state())

    def restore(self) -> None:
        """Put them there again."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002  # as above
        torch.random.set_rng_state(self.torch)


def _copy(model: AnomalibModule) -> AnomalibModule | None:
    """Copy a model; ``None`` if a copy would not be the same.

    Functions that are hooked into a model would, in a copy, still work on the model itself. Recorded graphs are made
    anew when they are copied, in another mode. Some tensors that are computed cannot be copied.
    """
    if any(isinstance(each, GraphModule) or any(getattr(each, name) for name in HOOKS) for each in model.modules()):
        return None
    try:
        copy = deepcopy(model)
    except (RuntimeError, TypeError):
        return None
    alike = [each.training for each in copy.modules()] == [each.training for each in model.modules()]
    return copy if alike else None
