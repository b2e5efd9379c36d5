"""What an export writes: one file for whole images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.exporting.tracing import Graph, ensemble_graph

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from anomalib_tiled.ensemble import TiledEnsemble
    from anomalib_tiled.exporting.formats import Format, Predict


@dataclass(frozen=True)
class Written:
    """Files, and how they are used.

    Args:
        graph: The graph; tells how many images it takes and what it gives.
        predict: Runs the files on ``images`` as an array.
        facts: What the manifest says of the files.
    """

    graph: Graph
    predict: Predict
    facts: Mapping[str, object]


def write_whole(ensemble: TiledEnsemble, form: Format, folder: Path, dtype: torch.dtype) -> Written:
    """Write an ensemble as one model.

    Args:
        ensemble: The ensemble, calibrated.
        form: The format.
        folder: Where to write to.
        dtype: Type of the images.
    """
    graph = ensemble_graph(ensemble, dtype)
    path = folder / f"model{form.suffix}"
    form.write(graph, path)
    return Written(graph, form.load(graph, path), {"model": path.name})
