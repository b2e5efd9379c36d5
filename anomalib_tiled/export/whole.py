"""The graph of a whole ensemble: of one piece, or in parts that are translated once and joined afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.export.modules import Joining, WholeImages
from anomalib_tiled.export.tracing import Graph, Interface, graph_of

if TYPE_CHECKING:
    from torch import nn

    from anomalib_tiled.ensemble.ensemble import TiledEnsemble
    from anomalib_tiled.export.tile_graphs import TileGraph


@dataclass(frozen=True)
class Whole:
    """An ensemble on its way to a file.

    Args:
        ensemble: The ensemble, calibrated.
        tiles: The graph of each tile.
        dtype: Type of the images.
        before: Changes an image before anything else; the file is for one image then.
    """

    ensemble: TiledEnsemble
    tiles: tuple[TileGraph, ...]
    dtype: torch.dtype = torch.float32
    before: nn.Module | None = None

    @property
    def any_batch(self) -> bool:
        """Whether the tile models, and what comes before them, take any number of images."""
        return self.before is None and all(tile.graph.batch is None for tile in self.tiles)

    @property
    def example(self) -> dict[str, torch.Tensor]:
        """An image, by the name of the input."""
        return {"images": torch.zeros(1, 3, *self.ensemble.grid.image_size).to(self.dtype)}


@dataclass(frozen=True)
class Parts(Interface):
    """An ensemble as graphs of which one takes what another gives.

    Args:
        whole: The ensemble, with the graphs of its tiles.
        before: What changes an image before anything else; ``None`` if nothing does.
        joining: From what all tiles say to the prediction of the image.
    """

    whole: Whole
    before: Graph | None
    joining: Graph


def ensemble_graph(whole: Whole) -> Graph:
    """Make one graph of a whole ensemble.

    Each tile model is a graph of its own already: PyTorch takes a time that grows with the square of the number of
    tiles where gradients are switched off within a model, unless it has become a graph.

    Args:
        whole: The ensemble.

    Raises:
        TiledError: There can be no graph.
    """
    module = WholeImages(whole.ensemble, [tile.module() for tile in whole.tiles], whole.before)
    return graph_of(module, whole.example, any_batch=whole.any_batch)


def ensemble_parts(whole: Whole) -> Parts:
    """Make a graph of what comes before the tile models, and one of what comes after them.

    Args:
        whole: The ensemble.

    Raises:
        TiledError: There can be no graph.
    """
    outputs = whole.tiles[0].graph.outputs
    joining = joining_graph(whole.ensemble, outputs, any_batch=whole.any_batch)
    before = None if whole.before is None else graph_of(whole.before, whole.example, any_batch=False)
    return Parts(tuple(whole.example), joining.outputs, joining.batch, whole, before, joining)


def joining_graph(ensemble: TiledEnsemble, outputs: tuple[str, ...], *, any_batch: bool) -> Graph:
    """Make a graph of the stages alone.

    Args:
        ensemble: The ensemble.
        outputs: Names of what tile models give.
        any_batch: Whether to try for any number of images.

    Raises:
        TiledError: There can be no graph.
    """
    tiles, size = len(ensemble.grid.tiles), ensemble.grid.tile_size
    shapes: dict[str, tuple[int, ...]] = {"tile_scores": (1, tiles), "tile_maps": (1, tiles, *size)}
    return graph_of(Joining(ensemble), {name: torch.zeros(shapes[name]) for name in outputs}, any_batch=any_batch)
