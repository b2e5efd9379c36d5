"""Finding the part of an ensemble that an export changes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.contracts import name_of
from anomalib_tiled.ensemble import TiledEnsemble
from anomalib_tiled.exporting.equality import TOLERANCE, differences, distance
from anomalib_tiled.exporting.modules import scaled
from anomalib_tiled.exporting.tracing import tile_graph
from anomalib_tiled.exporting.written import write_whole
from anomalib_tiled.tile_model import predict_tile

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.exporting.formats import Format


def culprit(ensemble: TiledEnsemble, form: Format, folder: Path, images: torch.Tensor) -> str:
    """Name the first part, in the order in which they work, that computes something else when it is exported.

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


def _model_that_differs(ensemble: TiledEnsemble, form: Format, folder: Path, images: torch.Tensor) -> str | None:
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


def _ensemble(ensemble: TiledEnsemble, *, smoothed: bool) -> TiledEnsemble:
    """Give the ensemble before normalization and thresholds."""
    stages = ensemble.stages if smoothed else replace(ensemble.stages, smoother=None)
    return TiledEnsemble(ensemble.grid, ensemble.tile_models, stages=stages, evaluator=False)


def _wrong(ensemble: TiledEnsemble, form: Format, folder: Path, images: torch.Tensor) -> set[str]:
    written = write_whole(ensemble, form, folder, torch.float32)
    part = images[: written.graph.batch]
    return {each.name for each in differences(ensemble, part, written.predict({"images": part.numpy()}))[1]}
