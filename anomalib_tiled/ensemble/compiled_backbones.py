"""Frozen backbones of tile models, computed by another engine than PyTorch.

A backbone that is not trained has the same weights in every tile model, so it is compiled once for all tiles, however
many there are and however many fit into the memory. What a model has learned stays with PyTorch.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from copy import deepcopy
from math import inf
from textwrap import shorten
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from anomalib.models.components import TimmFeatureExtractor
from torch import nn
from torch.export import Dim, export

from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.ensemble.half_precision import is_frozen, precision_of
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.runs.checkpoints import equal, weights_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib_tiled.ensemble.engines import Compute, Engine

Features = dict[str | int, torch.Tensor]

SMALLEST_OPEN = 2
"""Images in the example of an open batch: PyTorch takes sizes of 0 and 1 as fixed."""

LONGEST = 300
"""Characters of another package's message that are shown at most."""


class Forward:
    """The ``forward`` of a frozen backbone that may predict with another engine.

    Args:
        backbone: The backbone.
        role: Its name in the model.
    """

    def __init__(self, backbone: TimmFeatureExtractor, role: str) -> None:
        self.backbone, self.role = backbone, role
        self.compiled: CompiledBackbones | None = None
        """Graphs that compute predictions; ``None`` for PyTorch."""

    def __call__(self, inputs: torch.Tensor) -> Features:
        """Extract features.

        Args:
            inputs: Shape (images, channels, height, width).
        """
        if self.compiled is not None and torch.is_inference_mode_enabled():
            return self.compiled.features(self, inputs)
        return self.with_pytorch(inputs)

    def __deepcopy__(self, memo: dict[int, object]) -> Forward:
        """Give the ``forward`` of the copied backbone, which computes with PyTorch."""
        return Forward(deepcopy(self.backbone, memo), self.role)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without graphs, which stay in their process."""
        return {**vars(self), "compiled": None}

    @property
    def kind(self) -> tuple[str | int, ...]:
        """What backbones that one engine computes share, besides their weights: role, architecture and layers."""
        architecture = self.backbone.backbone
        name = architecture if isinstance(architecture, str) else type(architecture).__name__
        return self.role, name, *self.backbone.layers

    def with_pytorch(self, inputs: torch.Tensor) -> Features:
        """Extract features as the class of the backbone does."""
        features: Features = type(self.backbone).forward(self.backbone, inputs)
        return features


def frozen_backbones(model: nn.Module) -> list[Forward]:
    """List the frozen backbones of a model, each as its ``forward``, which may predict with an engine.

    Args:
        model: The model of a tile, or of the whole image.
    """
    found = []
    for name, module in model.named_modules():
        if is_frozen(module):
            if "forward" not in vars(module):
                vars(module)["forward"] = Forward(module, name)
            found.append(vars(module)["forward"])
    return found


class CompiledBackbones:
    """Backbones as an engine has compiled them: once for each size of the images, when it is met first.

    Features of these first images, and of random ones, are compared with those of PyTorch. Scores are not: where a
    patch is nearly one that PatchCore knows, the last digits of features decide on the third digit of a score.

    Args:
        engine: The engine.
        tolerance: Largest difference of features, as a fraction of the highest of their layer.
    """

    def __init__(self, engine: Engine, tolerance: float = inf) -> None:
        self.engine, self._tolerance = engine, tolerance
        self.difference = 0.0
        """Largest difference that was found."""
        self._known: dict[tuple[str, torch.Size], _Compiled] = {}
        self._process = os.getpid()

    @property
    def nbytes(self) -> int:
        """Memory of the weights that the engine has copied, in bytes."""
        return sum(each.nbytes for compiled in self._known.values() for each in compiled.weights)

    def features(self, backbone: Forward, inputs: torch.Tensor) -> Features:
        """Extract features; with PyTorch, if the weights are not those that were compiled, or after a fork.

        Args:
            backbone: The backbone.
            inputs: Its inputs.

        Raises:
            ConfigurationError: The engine cannot compute the backbone, or computes something else than PyTorch.
        """
        if self._process != os.getpid():  # an engine would wait for its threads, which a fork loses
            return backbone.with_pytorch(inputs)
        key = backbone.role, inputs.shape[1:]
        if key not in self._known:
            compiled = _compiled(backbone.backbone, inputs, self.engine)
            self._compare(backbone, inputs, compiled)
            self._known[key] = compiled
        compiled = self._known[key]
        return compiled.features(inputs) if compiled.is_of(backbone.backbone) else backbone.with_pytorch(inputs)

    def _compare(self, backbone: Forward, inputs: torch.Tensor, compiled: _Compiled) -> None:
        random = torch.randn(SMALLEST_OPEN, *inputs.shape[1:], generator=torch.Generator().manual_seed(0))
        for images in (inputs, random):
            expected = backbone.with_pytorch(images)
            with _errors_naming(self.engine, backbone.backbone):
                found = compiled.features(images)
            differences = [_distance(expected[name], found[name]) for name in expected]
            self.difference = float(np.max([self.difference, *differences]))  # `max` would skip NaN
        if not self.difference <= self._tolerance:
            message = (
                f"The engine {self.engine.name} must compute what PyTorch computes, to {self._tolerance:g}, but "
                f"features differ by {self.difference:.3g} of the highest. Predict with the engine {TORCH}."
            )
            raise ConfigurationError(message)


def _distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Give the largest difference as a fraction of the highest value."""
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-9))


class _Compiled(NamedTuple):
    """A backbone for one size of images.

    Args:
        compute: Computes it.
        names: Names of its layers, in the order of the outputs.
        weights: Its weights.
    """

    compute: Compute
    names: tuple[str | int, ...]
    weights: list[torch.Tensor]

    def is_of(self, backbone: nn.Module) -> bool:
        """Whether these are the weights of a backbone; at once if the backbone holds the very same tensors."""
        return all(equal(*each) for each in zip(self.weights, weights_of(backbone), strict=True))

    def features(self, inputs: torch.Tensor) -> Features:
        """Extract features."""
        return dict(zip(self.names, self.compute(inputs), strict=True))


class _InSinglePrecision(nn.Module):
    """A backbone as anomalib computes it.

    Args:
        backbone: The backbone.
    """

    def __init__(self, backbone: TimmFeatureExtractor) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: torch.Tensor) -> Features:
        """Extract features."""
        features: Features = TimmFeatureExtractor.forward(self.backbone, inputs)
        return features


def _compiled(backbone: TimmFeatureExtractor, inputs: torch.Tensor, engine: Engine) -> _Compiled:
    single = torch.autocast(inputs.device.type, enabled=False)  # a model may compute in half precision as a whole
    with torch.inference_mode(mode=False), torch.no_grad(), single, _errors_naming(engine, backbone):
        module = _InSinglePrecision(deepcopy(backbone)).eval()  # weights may have been loaded in inference mode
        example = torch.zeros(SMALLEST_OPEN, *inputs.shape[1:])
        names = tuple(module(example))
        program = export(module, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
        compute = engine.compile(program, precision_of(backbone), torch.get_num_threads())
    return _Compiled(compute, names, weights_of(backbone))


@contextmanager
def _errors_naming(engine: Engine, backbone: TimmFeatureExtractor) -> Iterator[None]:
    """Name the engine and the backbone in errors of other packages; a lack of memory is raised unchanged."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = shorten(f"{type(error).__name__}: {error}", LONGEST, placeholder=" ...")
        message = (
            f"The engine {engine.name} cannot compute the backbone {backbone.backbone} ({reason}). Predict with the "
            f"engine {TORCH}."
        )
        raise ConfigurationError(message) from error
