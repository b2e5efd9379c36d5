"""Graphs of tile models: models that differ only in their weights are traced once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch

from anomalib_tiled.export.comparison import TOLERANCE, distance
from anomalib_tiled.export.modules import TileModule
from anomalib_tiled.export.tracing import graph_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.export.tracing import Graph
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.checkpoints import Weights


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
class _Traced:
    """A graph that other tiles may share.

    Args:
        graph: The graph.
        layout: Shape, strides and type of each of its weights.
    """

    graph: Graph
    layout: Mapping[str, tuple[object, ...]]

    @cached_property
    def module(self) -> nn.Module:
        return self.graph.program.module(check_guards=False)


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
        self.traced: list[_Traced] = []
        self._models, size = ensemble.tile_models, ensemble.grid.tile_size
        pixels = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        self._tiles = pixels if dtype == torch.float32 else (pixels * 255).round().to(dtype)

    def graph(self, tile: Tile) -> TileGraph:
        """Give the graph of a tile.

        Args:
            tile: The tile.

        Raises:
            TiledError: The model cannot become a graph, or the checkpoint cannot be loaded.
        """
        alone = TileModule(self._models.model(tile, torch.device("cpu")))
        weights = alone.state_dict()
        layout = {name: (each.shape, each.stride(), each.dtype) for name, each in weights.items()}
        for traced in self.traced:
            if traced.layout == layout and self._predicts_the_same(traced, weights, alone):
                return TileGraph(traced.graph, weights)
        graph = graph_of(alone, {"images": self._tiles})
        if self._models.interchangeable:
            self.traced.append(_Traced(graph, layout))
        return TileGraph(graph, weights)

    @torch.no_grad()
    def _predicts_the_same(self, traced: _Traced, weights: Weights, alone: TileModule) -> bool:
        expected = alone(self._tiles)
        found = cast("dict[str, torch.Tensor]", torch.func.functional_call(traced.module, weights, (self._tiles,)))
        return expected.keys() == found.keys() and all(
            distance(values.numpy(), found[name].numpy()) <= TOLERANCE for name, values in expected.items()
        )
