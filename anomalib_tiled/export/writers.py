"""Writing an export: one model for whole images, or one model for each tile."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from anomalib_tiled.export.graphs import Graph, TileGraphs, Whole, joining_graph
from anomalib_tiled.export.onnx_ensemble import SharedWeights, save_onnx
from anomalib_tiled.export.onnx_translation import translated

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.export.formats import Arrays, Format, Predict

STEPS = 2
"""Steps of writing besides one for each tile."""

JOINING = "joining.onnx"
WEIGHTS = "weights.data"

LOADER = Path(__file__).with_name("load_script.py")
"""The program that is copied beside a file of PyTorch."""

RUNNER = Path(__file__).with_name("run_script.py")
"""The program that is copied beside tile models."""


@dataclass(frozen=True)
class Written:
    """Written files, and how to run them.

    Args:
        graph: A graph with the outputs and the batch size of the files.
        predict: Runs the files on ``images`` as an array.
        facts: Entries of the manifest about the files.
    """

    graph: Graph
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


def write_whole(ensemble: EnsembleModel, target: Target) -> Written:
    """Write an ensemble as one model.

    Args:
        ensemble: The ensemble, calibrated.
        target: Where to write to.

    Raises:
        TiledError: The ensemble cannot become a graph, or the format cannot express it.
        OSError: The disk is full, for example.
    """
    form, graphs, tiles = target.form, TileGraphs(ensemble), []
    for tile in ensemble.grid.tiles:
        tiles.append(graphs.graph(tile))
        target.done(f"tile {tile.name}")
    path = target.folder / f"model{form.suffix}"
    graph = form.write(Whole(ensemble, tuple(tiles), target.dtype), path)
    target.done(f"file of format {form.name}")
    facts = {"model": path.name}
    if form.loader is not None:
        shutil.copyfile(LOADER, target.folder / form.loader)
        facts["loader"] = form.loader
    predict = form.load(path)
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
    any_batch, outputs = True, tuple[str, ...]()
    for tile in ensemble.grid.tiles:
        graph = graphs.graph(tile)
        with form.step("written"):
            weights.save(graph, folder / "tiles" / f"{tile.name}{form.suffix}")
        any_batch, outputs = any_batch and graph.graph.batch is None, graph.graph.outputs
        del graph
        gc.collect()  # graph and model refer to each other, and would stay in memory beside the next ones
        target.done(f"tile {tile.name}")
    joining = joining_graph(ensemble, outputs, any_batch=any_batch)
    with form.step("written"):
        save_onnx(translated(joining), folder / JOINING)
    target.done(f"file of format {form.name}")
    shutil.copyfile(RUNNER, folder / "run.py")
    predict = _one_after_the_other(ensemble, form, folder, joining.inputs)
    target.done("program beside the files")
    return Written(joining, predict, {"joining": JOINING, "runner": "run.py"})


def _one_after_the_other(ensemble: EnsembleModel, form: Format, folder: Path, names: tuple[str, ...]) -> Predict:
    """Predict as the program beside the files does; the program itself needs the manifest, which is written later."""

    def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        predictions = []
        for tile in ensemble.grid.tiles:
            part = np.ascontiguousarray(inputs["images"][..., tile.rows, tile.columns])
            predictions.append(form.load(folder / "tiles" / f"{tile.name}{form.suffix}")({"images": part}))
        return form.load(folder / JOINING)(
            {name: np.stack([each[name] for each in predictions], axis=1) for name in names}
        )

    return predict
