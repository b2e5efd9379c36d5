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

from anomalib_tiled.ensemble.arithmetic import Arithmetic
from anomalib_tiled.ensemble.tile_model import build_tile_model

if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.config.settings import ClassSpec
    from anomalib_tiled.grid import Size


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
"""Attributes of modules that hold their hooks; PyTorch has no public function to list them."""


class FreshModels:
    """Untrained models, each made with the same seed, which also leave the same random state behind.

    Making a model takes a large part of a second, because its weights are drawn or read from the disk. So one model is
    made, and the others are copies of it.

    Args:
        spec: Class and arguments.
        tile_size: Height and width of the tiles in pixels.
        seed: Seed of each model and of the random numbers after it.
        copied: Whether models may be copied: not if they may hold state that cannot be copied.
        arithmetic: How the models compute; ``None`` for the defaults.
    """

    def __init__(
        self, spec: ClassSpec, tile_size: Size, *, seed: int, copied: bool, arithmetic: Arithmetic | None = None
    ) -> None:
        self._spec, self._tile_size, self._seed, self._copied = spec, tile_size, seed, copied
        self._arithmetic = arithmetic or Arithmetic()
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
        self._arithmetic.adapt(model)
        if self._copied:
            self._first, self._randomness = _copy(model), Randomness.now()
        return model


@dataclass(frozen=True)
class Randomness:
    """States of the random number generators of the CPU.

    Args:
        python: State of Python's generator.
        numpy: State of NumPy's generator.
        torch: State of PyTorch's generator.
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch: torch.Tensor

    @classmethod
    def now(cls) -> Randomness:
        """Read the present states."""
        numpy = np.random.get_state(legacy=False)  # noqa: NPY002  # what models and augmentations draw from
        return cls(random.getstate(), numpy, torch.random.get_rng_state())

    def restore(self) -> None:
        """Set these states again."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002  # as above
        torch.random.set_rng_state(self.torch)


def _copy(model: AnomalibModule) -> AnomalibModule | None:
    """Copy a model; ``None`` if the copy would differ.

    Hooks of a copy would still work on the original model. Traced graphs are rebuilt in a copy, in another mode. Some
    computed tensors cannot be copied.
    """
    if any(isinstance(each, GraphModule) or any(getattr(each, name) for name in HOOKS) for each in model.modules()):
        return None
    try:
        copy = deepcopy(model)
    except (RuntimeError, TypeError):
        return None
    alike = [each.training for each in copy.modules()] == [each.training for each in model.modules()]
    return copy if alike else None
