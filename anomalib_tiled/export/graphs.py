"""Graphs of PyTorch operations: of a tile model, of the stages, and of a whole ensemble."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, export

from anomalib_tiled.ensemble.gaussians import without_triangles
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.comparison import TOLERANCE, distance, random_images
from anomalib_tiled.export.modules import JoinStages, TileModule, WholeImages, WholeModule, explaining
from anomalib_tiled.grid import WholeImage

if TYPE_CHECKING:
    from torch import nn

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.checkpoints import Weights

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
class Graph:
    """A module as a graph.

    Args:
        program: The graph with its weights.
        inputs: Names of its inputs.
        outputs: Names of its outputs, in order.
        batch: Its batch size; ``None`` for any.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int | None


@dataclass(frozen=True)
class TileGraph:
    """A tile model as a graph.

    Args:
        graph: The graph, which other tiles may share; the weights in it are not used.
        weights: The weights of the tile, by their names in the graph.
    """

    graph: Graph
    weights: Weights

    def module(self) -> nn.Module:
        """Give the graph with the weights of the tile as a module."""
        module = self.graph.program.module(check_guards=False)
        module.load_state_dict(self.weights, assign=True)
        return module


@dataclass(frozen=True)
class EnsembleGraphs:
    """An ensemble to export, with the graphs of its tiles.

    Args:
        ensemble: The ensemble, calibrated.
        tiles: The graph of each tile, then that of the whole image if there is a global model.
        dtype: Type of the images.
    """

    ensemble: EnsembleModel
    tiles: tuple[TileGraph, ...]
    dtype: torch.dtype = torch.float32

    @property
    def any_batch(self) -> bool:
        """Whether tile models take any number of images."""
        return all(tile.graph.batch is None for tile in self.tiles)

    def example(self) -> torch.Tensor:
        """Make an image."""
        return torch.zeros(1, 3, *self.ensemble.grid.image_size).to(self.dtype)

    def whole(self) -> Graph:
        """Make one graph of the whole ensemble.

        Each tile model is already a graph: otherwise, if models switch off gradients, the time of tracing grows with
        the square of the number of tiles.

        Raises:
            TiledError: The ensemble cannot become a graph.
        """
        module = WholeImages(self.ensemble, [tile.module() for tile in self.tiles])
        return graph_of(module, {"images": self.example()}, any_batch=self.any_batch)


def joining_graph(
    ensemble: EnsembleModel, outputs: tuple[str, ...], whole: tuple[str, ...] = (), *, any_batch: bool
) -> Graph:
    """Make a graph of the stages alone.

    Args:
        ensemble: The ensemble.
        outputs: Names of the outputs of tile models.
        whole: Names of the outputs of the global model; none without one.
        any_batch: Whether to try an open batch size.

    Raises:
        TiledError: A stage cannot become a graph.
    """
    tiles, size = len(ensemble.grid.tiles), ensemble.grid.tile_size
    shapes: dict[str, tuple[int, ...]] = {"tile_scores": (1, tiles), "tile_maps": (1, tiles, *size)}
    shapes |= {"whole_scores": (1,), "whole_maps": (1, *(ensemble.grid.shrunk or ()))}
    if whole and "tile_maps" not in outputs:
        message = (
            "A run with a global model can be exported in this form only if the model of the tiles gives anomaly maps. "
            "Export it with --format torch."
        )
        raise ConfigurationError(message)
    names = [*outputs, *map(input_of_whole, whole)]
    return graph_of(JoinStages(ensemble), {name: torch.zeros(shapes[name]) for name in names}, any_batch=any_batch)


def input_of_whole(output: str) -> str:
    """Name the input of the stages that takes an output of the global model."""
    return output.replace("tile_", "whole_")


class TileGraphs:
    """The graphs of tile models, made on demand.

    Tracing a model takes seconds. So a tile shares the graph of an earlier tile if its weights have the same layout
    and the graph with these weights predicts the same as the model of the tile. Predictions differ if a model has
    learned numbers that are not tensors: the graph would hold the numbers of the earlier tile.

    Args:
        ensemble: The ensemble.
        dtype: Type of the images.
    """

    def __init__(self, ensemble: EnsembleModel, dtype: torch.dtype = torch.float32) -> None:
        self.traced: list[tuple[TileGraph, nn.Module]] = []
        """The first tile of each graph, and its module."""
        self._models, self._grid, self._dtype = ensemble.tile_models, ensemble.grid, dtype
        self._pixels = random_images(self._grid.tile_size, dtype)[0]

    def graph(self, tile: Tile) -> TileGraph:
        """Give the graph of a tile.

        Args:
            tile: The tile.

        Raises:
            TiledError: The model cannot become a graph, or the checkpoint cannot be loaded.
        """
        if isinstance(tile, WholeImage):
            return self._graph_of_whole(tile)
        tile_model = self._models.model(tile, torch.device("cpu"))
        with without_triangles(tile_model):  # computing with these takes too many steps for a graph
            return self._graph_of(TileModule(tile_model))

    def _graph_of(self, model: TileModule) -> TileGraph:
        weights = model.state_dict()
        for first, module in self.traced:
            if _layout(first.weights) == _layout(weights) and self._predicts_the_same(module, weights, model):
                return TileGraph(first.graph, weights)
        made = TileGraph(graph_of(model, {"images": self._pixels}), weights)
        if self._models.interchangeable:
            self.traced.append((made, made.graph.program.module(check_guards=False)))
        return made

    def _graph_of_whole(self, tile: WholeImage) -> TileGraph:
        """Give the graph of the global model, with the shrinking."""
        model = self._models.model(tile, torch.device("cpu"))
        pixels = random_images(self._grid.image_size, self._dtype)[0]
        with without_triangles(model):
            module = WholeModule(model, self._grid.image_size, tile.shrunk)
            return TileGraph(graph_of(module, {"images": pixels}), module.state_dict())

    @torch.no_grad()
    def _predicts_the_same(self, module: nn.Module, weights: Weights, model: TileModule) -> bool:
        expected = model(self._pixels)
        found = cast("dict[str, torch.Tensor]", torch.func.functional_call(module, weights, (self._pixels,)))
        return expected.keys() == found.keys() and all(
            distance(values.numpy(), found[name].numpy()) <= TOLERANCE for name, values in expected.items()
        )


def _layout(weights: Weights) -> dict[str, tuple[object, ...]]:
    return {name: (each.shape, each.stride(), each.dtype) for name, each in weights.items()}


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
        with explaining("The ensemble cannot be exported: {} Predict with `anomalib tiled predict` instead."):
            program = _program(module, inputs, None)
    used = {node.target.namespace for node in program.graph.nodes if isinstance(node.target, OpOverload)}
    if others := sorted(used - OF_PYTORCH):
        message = (
            f"The ensemble cannot be exported: its model or stages use operators of {', '.join(others)}, which PyTorch "
            "alone does not have. Choose another model, or predict with `anomalib tiled predict`."
        )
        raise ConfigurationError(message)
    return Graph(program, tuple(inputs), tuple(program.call_spec.out_spec.context), batch)


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


@torch.no_grad()
def _program(
    module: nn.Module, inputs: dict[str, torch.Tensor], shapes: tuple[dict[int, Dim], ...] | None
) -> ExportedProgram:
    program = export(module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        for name in WHERE_FROM:
            node.meta.pop(name, None)
    return program
