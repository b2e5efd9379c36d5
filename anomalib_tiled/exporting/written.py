"""What an export writes: one model for whole images, or one for each tile."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from anomalib_tiled.exporting.modules import Joining
from anomalib_tiled.exporting.onnx_graph import SharedWeights
from anomalib_tiled.exporting.tracing import Graph, ensemble_graph, graph_of, tile_graph
from anomalib_tiled.progress import track

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from anomalib_tiled.ensemble import TiledEnsemble
    from anomalib_tiled.exporting.formats import Arrays, Format, Predict

JOINING = "joining.onnx"
WEIGHTS = "weights.data"
RUNNER = Path(__file__).with_name("runner.py")
"""The program that is copied beside the files."""

LOADER = Path(__file__).with_name("loader.py")
"""The program that loads a file of PyTorch after a look at what is in it."""


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


def write_whole(
    ensemble: TiledEnsemble, form: Format, folder: Path, dtype: torch.dtype, before: nn.Module | None = None
) -> Written:
    """Write an ensemble as one model.

    Args:
        ensemble: The ensemble, calibrated.
        form: The format.
        folder: Where to write to.
        dtype: Type of the images.
        before: Changes an image before anything else.

    Raises:
        TiledError: There can be no graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    graph = ensemble_graph(ensemble, dtype, before)
    path = folder / f"model{form.suffix}"
    form.write(graph, path)
    facts = {"model": path.name}
    if form.loader is not None:
        shutil.copyfile(LOADER, folder / form.loader)
        facts["loader"] = form.loader
    return Written(graph, form.load(graph, path), facts)


def write_tiles(ensemble: TiledEnsemble, form: Format, folder: Path, dtype: torch.dtype) -> Written:
    """Write each tile model by itself, the stages beside them, and a program that runs one after the other.

    Args:
        ensemble: The ensemble, calibrated.
        form: ONNX.
        folder: Where to write to.
        dtype: Type of the images.

    Raises:
        TiledError: There can be no graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    (folder / "tiles").mkdir()
    weights = SharedWeights(folder / "tiles" / WEIGHTS)
    batches: set[int | None] = set()
    outputs: tuple[str, ...] = ()
    for tile in track(ensemble.grid.tiles, "Exporting tiles"):
        graph = tile_graph(ensemble, tile, dtype)
        with form.step("written"):
            weights.save(graph, folder / "tiles" / f"{tile.name}{form.suffix}")
        batches.add(graph.batch)
        outputs = graph.outputs
        del graph
        gc.collect()  # graph and model refer to one another, and would wait for the next ones
    tiles, size = len(ensemble.grid.tiles), ensemble.grid.tile_size
    shapes: dict[str, tuple[int, ...]] = {"tile_scores": (1, tiles), "tile_maps": (1, tiles, *size)}
    joining = graph_of(
        Joining(ensemble), {name: torch.zeros(shapes[name]) for name in outputs}, any_batch=batches == {None}
    )
    form.write(joining, folder / JOINING)
    shutil.copyfile(RUNNER, folder / "run.py")
    predict = _one_after_the_other(ensemble, form, folder, joining)
    return Written(joining, predict, {"joining": JOINING, "runner": "run.py"})


def _one_after_the_other(ensemble: TiledEnsemble, form: Format, folder: Path, joining: Graph) -> Predict:
    """Do what the program does; it reads a manifest, which is not written yet."""

    def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        said = []
        for tile in ensemble.grid.tiles:
            graph = replace(joining, inputs=("images",), outputs=joining.inputs)
            part = np.ascontiguousarray(inputs["images"][..., tile.rows, tile.columns])
            said.append(form.load(graph, folder / "tiles" / f"{tile.name}{form.suffix}")({"images": part}))
        stacked = {name: np.stack([each[name] for each in said], axis=1) for name in joining.inputs}
        return form.load(joining, folder / JOINING)(stacked)

    return predict
