"""The graph of a whole ensemble: a single graph, or parts that are translated once and then joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.export.modules import JoinStages, WholeImages
from anomalib_tiled.export.tracing import Graph, Interface, graph_of

if TYPE_CHECKING:
    from torch import nn

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.export.tile_graphs import TileGraph


@dataclass(frozen=True)
class Whole:
    """An ensemble to export, with the graphs of its tiles.

    Args:
        ensemble: The ensemble, calibrated.
        tiles: The graph of each tile.
        dtype: Type of the images.
        before: Augments images first; the batch size is then 1.
    """

    ensemble: EnsembleModel
    tiles: tuple[TileGraph, ...]
    dtype: torch.dtype = torch.float32
    before: nn.Module | None = None

    @property
    def any_batch(self) -> bool:
        """Whether augmentations and tile models take any number of images."""
        return self.before is None and all(tile.graph.batch is None for tile in self.tiles)

    @property
    def example(self) -> dict[str, torch.Tensor]:
        """An image, by the name of the input."""
        return {"images": torch.zeros(1, 3, *self.ensemble.grid.image_size).to(self.dtype)}


@dataclass(frozen=True)
class Parts(Interface):
    """An ensemble as graphs in a row: the outputs of one are the inputs of the next.

    Args:
        whole: The ensemble, with the graphs of its tiles.
        before: Graph of the augmentations; ``None`` if there are none.
        joining: Graph of the stages, from tile predictions to the prediction of the image.
    """

    whole: Whole
    before: Graph | None
    joining: Graph


def ensemble_graph(whole: Whole) -> Graph:
    """Make one graph of a whole ensemble.

    Each tile model is already a graph: otherwise, if models switch off gradients, the time of tracing grows with the
    square of the number of tiles.

    Args:
        whole: The ensemble.

    Raises:
        TiledError: The ensemble cannot become a graph.
    """
    module = WholeImages(whole.ensemble, [tile.module() for tile in whole.tiles], whole.before)
    return graph_of(module, whole.example, any_batch=whole.any_batch)


def ensemble_parts(whole: Whole) -> Parts:
    """Make a graph of the augmentations before the tile models, and a graph of the stages after them.

    Args:
        whole: The ensemble.

    Raises:
        TiledError: The ensemble cannot become a graph.
    """
    outputs = whole.tiles[0].graph.outputs
    joining = joining_graph(whole.ensemble, outputs, any_batch=whole.any_batch)
    before = None if whole.before is None else graph_of(whole.before, whole.example, any_batch=False)
    return Parts(tuple(whole.example), joining.outputs, joining.batch, whole, before, joining)


def joining_graph(ensemble: EnsembleModel, outputs: tuple[str, ...], *, any_batch: bool) -> Graph:
    """Make a graph of the stages alone.

    Args:
        ensemble: The ensemble.
        outputs: Names of the outputs of tile models.
        any_batch: Whether to try an open batch size.

    Raises:
        TiledError: The ensemble cannot become a graph.
    """
    tiles, size = len(ensemble.grid.tiles), ensemble.grid.tile_size
    shapes: dict[str, tuple[int, ...]] = {"tile_scores": (1, tiles), "tile_maps": (1, tiles, *size)}
    return graph_of(JoinStages(ensemble), {name: torch.zeros(shapes[name]) for name in outputs}, any_batch=any_batch)
