"""Tracing a module: a graph of its operations, without its Python code."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, export

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.modules import TileModule, explaining

if TYPE_CHECKING:
    from torch import nn

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.grid import Tile

logger = logging.getLogger(__name__)

BATCH = "batch"
"""Name of the batch dimension, if its size is open."""

SMALLEST_OPEN = 2
"""Images in the example for an open batch: PyTorch takes sizes of 0 and 1 as fixed."""

OF_PYTORCH = frozenset({"aten", "prims", "prim", "higher_order"})
"""Namespaces of PyTorch's own operators."""

WHERE_FROM = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")
"""Metadata about the Python code of a graph: it holds paths of this machine, and takes most of the loading time."""


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a graph.

    Args:
        inputs: Names of its inputs.
        outputs: Names of its outputs, in order.
        batch: Its batch size; ``None`` for any.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None


@dataclass(frozen=True)
class Graph(Interface):
    """A module as a graph.

    Args:
        program: The graph with its weights.
    """

    program: ExportedProgram


def graph_of(module: nn.Module, inputs: dict[str, torch.Tensor], *, any_batch: bool = True) -> Graph:
    """Make a graph of a module.

    Args:
        module: A module that returns tensors by name.
        inputs: Examples of its inputs, one image each, by the names of its arguments.
        any_batch: Whether to try an open batch size first; if that fails, or is not tried, the batch size is 1.

    Raises:
        TiledError: The module cannot become a graph; the message names the model or stage that is the cause.
    """
    program = _program_for_any_batch(module, inputs) if any_batch else None
    batch = 1 if program is None else None
    if program is None:
        program = _program_for_one(module, inputs)
    _check_operators(program)
    return Graph(tuple(inputs), tuple(program.call_spec.out_spec.context), batch, program)


def tile_graph(ensemble: EnsembleModel, tile: Tile, dtype: torch.dtype) -> Graph:
    """Make a graph of one tile model.

    Args:
        ensemble: The ensemble.
        tile: The tile.
        dtype: Type of the images.

    Raises:
        TiledError: The model cannot become a graph, or the checkpoint cannot be loaded.
    """
    model = ensemble.tile_models.model(tile, torch.device("cpu"))
    return graph_of(TileModule(model), {"images": torch.zeros(1, 3, *ensemble.grid.tile_size).to(dtype)})


def _program_for_any_batch(module: nn.Module, inputs: dict[str, torch.Tensor]) -> ExportedProgram | None:
    """Trace with an open batch size; ``None`` if the module does not allow it."""
    several = {name: torch.cat([each] * SMALLEST_OPEN) for name, each in inputs.items()}
    try:
        return _program(module, several, tuple({0: Dim(BATCH)} for _ in inputs))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # a batch of one image is tried next, and raises its error
        logger.warning("The module cannot be traced for any number of images:", exc_info=True)
        return None


def _program_for_one(module: nn.Module, inputs: dict[str, torch.Tensor]) -> ExportedProgram:
    with explaining(
        lambda reason: f"The ensemble cannot be exported: {reason} Predict with `anomalib tiled predict` instead."
    ):
        return _program(module, inputs, None)


@torch.no_grad()
def _program(
    module: nn.Module, inputs: dict[str, torch.Tensor], shapes: tuple[dict[int, Dim], ...] | None
) -> ExportedProgram:
    program = export(module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        for name in WHERE_FROM:
            node.meta.pop(name, None)
    return program


def _check_operators(program: ExportedProgram) -> None:
    used = {node.target.namespace for node in program.graph.nodes if isinstance(node.target, OpOverload)}
    if others := sorted(used - OF_PYTORCH):
        message = (
            f"The ensemble cannot be exported: its model or stages use operators of {', '.join(others)}, which PyTorch "
            "alone does not have. Choose another model, or predict with `anomalib tiled predict`."
        )
        raise ConfigurationError(message)
