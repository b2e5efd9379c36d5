"""Writing an export: one model for whole images, or one model for each tile."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from anomalib_tiled.export.onnx_graph import SharedWeights
from anomalib_tiled.export.tile_graphs import TileGraphs
from anomalib_tiled.export.whole import Whole, joining_graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.export.formats import Arrays, Format, Predict
    from anomalib_tiled.export.tracing import Graph, Interface

STEPS = 3
"""Steps of writing besides one for each tile."""

JOINING = "joining.onnx"
WEIGHTS = "weights.data"
RUNNER = Path(__file__).with_name("run_script.py")
"""The program that is copied beside the files."""

LOADER = Path(__file__).with_name("load_script.py")
"""The program that loads a file of PyTorch after checking its content."""


@dataclass(frozen=True)
class Written:
    """Written files, and how to run them.

    Args:
        graph: Batch size, inputs and outputs of the files.
        predict: Runs the files on ``images`` as an array.
        facts: Entries of the manifest about the files.
    """

    graph: Interface
    predict: Predict
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Target:
    """Format and folder of an export.

    Args:
        form: The format.
        folder: The folder.
        dtype: Type of the images.
        done: Called after each step: one for each tile, and ``STEPS`` more.
    """

    form: Format
    folder: Path
    dtype: torch.dtype = torch.float32
    done: Callable[[str], None] = lambda _: None


def write_whole(ensemble: EnsembleModel, target: Target, before: nn.Module | None = None) -> Written:
    """Write an ensemble as one model.

    Args:
        ensemble: The ensemble, calibrated.
        target: Where to write to.
        before: Augments images first.

    Raises:
        TiledError: The ensemble cannot become a graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    form, graphs, tiles = target.form, TileGraphs(ensemble), []
    for tile in ensemble.grid.tiles:
        tiles.append(graphs.graph(tile))
        target.done(f"tile {tile.name}")
    graph = form.graph(Whole(ensemble, tuple(tiles), target.dtype, before))
    target.done("graph of the ensemble")
    path = target.folder / f"model{form.suffix}"
    form.write(graph, path)
    target.done(f"file of format {form.name}")
    facts = {"model": path.name}
    if form.loader is not None:
        shutil.copyfile(LOADER, target.folder / form.loader)
        facts["loader"] = form.loader
    predict = form.load(graph, path)
    target.done("loading of the file")
    return Written(graph, predict, facts)


def write_tiles(ensemble: EnsembleModel, target: Target) -> Written:
    """Write a file for each tile model, one for the stages, and a program that runs them one by one.

    Args:
        ensemble: The ensemble, calibrated.
        target: Where to write to; its format is ONNX.

    Raises:
        TiledError: The ensemble cannot become a graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    form, folder = target.form, target.folder
    (folder / "tiles").mkdir()
    weights, graphs = SharedWeights(folder / "tiles" / WEIGHTS), TileGraphs(ensemble, target.dtype)
    batches: set[int | None] = set()
    outputs: tuple[str, ...] = ()
    for tile in ensemble.grid.tiles:
        graph = graphs.graph(tile)
        with form.step("written"):
            weights.save(graph, folder / "tiles" / f"{tile.name}{form.suffix}")
        batches.add(graph.graph.batch)
        outputs = graph.graph.outputs
        del graph
        gc.collect()  # graph and model refer to each other, and would stay in memory beside the next ones
        target.done(f"tile {tile.name}")
    joining = joining_graph(ensemble, outputs, any_batch=batches == {None})
    target.done("graph of the stages")
    form.write(joining, folder / JOINING)
    target.done(f"file of format {form.name}")
    shutil.copyfile(RUNNER, folder / "run.py")
    predict = _one_after_the_other(ensemble, form, folder, joining)
    target.done("program beside the files")
    return Written(joining, predict, {"joining": JOINING, "runner": "run.py"})


def _one_after_the_other(ensemble: EnsembleModel, form: Format, folder: Path, joining: Graph) -> Predict:
    """Predict as the program beside the files does; the program itself needs the manifest, which is written later."""

    def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        predictions = []
        for tile in ensemble.grid.tiles:
            graph = replace(joining, inputs=("images",), outputs=joining.inputs)
            part = np.ascontiguousarray(inputs["images"][..., tile.rows, tile.columns])
            predictions.append(form.load(graph, folder / "tiles" / f"{tile.name}{form.suffix}")({"images": part}))
        stacked = {name: np.stack([each[name] for each in predictions], axis=1) for name in joining.inputs}
        return form.load(joining, folder / JOINING)(stacked)

    return predict
