"""Finding the part of an ensemble that predicts something else after an export."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.tile_model import predict_tile
from anomalib_tiled.export.comparison import TOLERANCE, differences, distance
from anomalib_tiled.export.modules import JoinStages, scaled
from anomalib_tiled.export.tracing import graph_of, tile_graph
from anomalib_tiled.stages.contracts import name_of

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.export.formats import Format


def culprit(ensemble: EnsembleModel, form: Format, folder: Path, images: torch.Tensor) -> str:
    """Name the first part of the ensemble, in the order of prediction, that predicts something else after an export.

    Args:
        ensemble: The ensemble.
        form: The format.
        folder: Where files may be written.
        images: Images that show the difference, shape (batch, 3, height, width).
    """
    images = scaled(images)
    if (model := _model_that_differs(ensemble, form, folder, images)) is not None:
        return model
    stages = ensemble.stages
    without = _ensemble(ensemble, smoothed=False)
    wrong = _wrong(without, form, folder, images)
    if "anomaly_map" in wrong:
        return name_of(stages.merger)
    if "pred_score" in wrong:
        return name_of(stages.scorer)
    if stages.smoother is not None and _wrong(_ensemble(ensemble, smoothed=True), form, folder, images):
        return name_of(stages.smoother)
    return name_of(stages.normalizer)


def _model_that_differs(ensemble: EnsembleModel, form: Format, folder: Path, images: torch.Tensor) -> str | None:
    for tile in ensemble.grid.tiles:
        graph = tile_graph(ensemble, tile, torch.float32)
        path = folder / f"tile{form.suffix}"
        form.write(graph, path)
        part = images[:1, :, tile.rows, tile.columns].contiguous()
        found = form.load(graph, path)({"images": part.numpy()})
        model = ensemble.tile_models.model(tile, torch.device("cpu"))
        scores, maps = predict_tile(model, part)
        expected = {"tile_scores": scores} | ({} if maps is None else {"tile_maps": maps.squeeze(1)})
        if any(not distance(values.numpy(), found[name]) <= TOLERANCE for name, values in expected.items()):
            return f"the model {type(model).__name__} of tile {tile.name}"
    return None


def _ensemble(ensemble: EnsembleModel, *, smoothed: bool) -> EnsembleModel:
    """Give the ensemble before normalization and thresholds."""
    stages = ensemble.stages if smoothed else replace(ensemble.stages, smoother=None)
    return EnsembleModel(ensemble.grid, ensemble.tile_models, stages=stages, evaluator=False)


def _wrong(ensemble: EnsembleModel, form: Format, folder: Path, images: torch.Tensor) -> set[str]:
    """Name the outputs of the stages that differ; tile models are in memory one at a time."""
    of_tiles: list[TilePrediction] = []
    ensemble.predict_raw(images, lambda _, prediction: of_tiles.append(prediction))
    maps = [each.maps for each in of_tiles if each.maps is not None]
    inputs = {"tile_scores": torch.stack([each.scores for each in of_tiles], dim=1)}
    inputs |= {"tile_maps": torch.cat(maps, dim=1)} if maps else {}
    example = {name: torch.zeros(1, *values.shape[1:]) for name, values in inputs.items()}
    graph = graph_of(JoinStages(ensemble), example, any_batch=False)
    path = folder / f"stages{form.suffix}"
    form.write(graph, path)
    predict = form.load(graph, path)
    wrong = set()
    for image in range(len(images)):
        found = predict({name: values[image : image + 1].numpy() for name, values in inputs.items()})
        wrong |= {each.name for each in differences(ensemble, images[image : image + 1], found)[1]}
    return wrong
