"""Where anomalib's own tiled ensemble is right, the numbers are the same: merged maps, mean scores, smoothed seams."""

from __future__ import annotations

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.pipelines.tiled_ensemble.components.smoothing import SmoothingJob
from anomalib.pipelines.tiled_ensemble.components.utils.ensemble_tiling import EnsembleTiler
from anomalib.pipelines.tiled_ensemble.components.utils.prediction_data import EnsemblePredictions
from anomalib.pipelines.tiled_ensemble.components.utils.prediction_merging import PredictionMergingMechanism

from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Mean as MeanScore
from anomalib_tiled.stages.seams import GaussianSeams, SeamSmoother
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold

IMAGES = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0))
GRIDS = {
    "exact": TileGrid(Size(64, 96), Size(32, 32), Size(32, 32)),
    "overlapping": TileGrid(Size(64, 96), Size(32, 32), Size(16, 16)),
}


class Contrast(AnomalibModule):
    """A map that differs from tile to tile, so that seams show."""

    def __init__(self, factor: float) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.factor = factor

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = self.factor * images.std(dim=1, keepdim=True) + self.factor
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps)

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


def model_of(tile: Tile) -> Contrast:
    return Contrast(1.0 + tile.row + 0.5 * tile.column)


def ours(grid: TileGrid, smoother: SeamSmoother | None = None) -> InferenceBatch:
    stages = Stages(Mean(), MeanScore(), smoother, MinMax(), F1AdaptiveThreshold(), "none", "image")
    return EnsembleModel(grid, TileModels(model_of), stages=stages, evaluator=False)(IMAGES)


def tiler_of(grid: TileGrid) -> EnsembleTiler:
    return EnsembleTiler(tile_size=list(grid.tile_size), stride=list(grid.stride), image_size=list(grid.image_size))


def theirs(grid: TileGrid) -> ImageBatch:
    tiles = tiler_of(grid).tile(IMAGES)
    predictions = EnsemblePredictions()
    for tile in grid.tiles:
        images = tiles[tile.row, tile.column]
        output = model_of(tile)(images)
        maps = output.anomaly_map.squeeze(1)
        batch = ImageBatch(image=images, anomaly_map=maps, pred_mask=maps > 0, gt_label=torch.zeros(3).bool())
        batch.pred_score, batch.pred_label = output.pred_score, output.pred_score > 0
        batch.gt_mask = maps > 0
        predictions.add_tile_prediction((tile.row, tile.column), [batch])
    return PredictionMergingMechanism(predictions, tiler_of(grid)).merge_tile_predictions(0)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_merged_maps_and_mean_scores_are_the_references(grid: TileGrid) -> None:
    mine, reference = ours(grid), theirs(grid)
    torch.testing.assert_close(mine.anomaly_map.squeeze(1), reference.anomaly_map, rtol=1e-4, atol=0)
    torch.testing.assert_close(mine.pred_score, reference.pred_score, rtol=1e-4, atol=0)


def test_seams_that_both_smooth_are_smoothed_alike() -> None:
    grid = GRIDS["exact"]
    (reference,) = SmoothingJob(
        accelerator="cpu", predictions=[theirs(grid)], width_factor=0.1, filter_sigma=2, tiler=tiler_of(grid)
    ).run()
    smoothed, merged = ours(grid, GaussianSeams(2.0, 0.1)).anomaly_map.squeeze(1), ours(grid).anomaly_map.squeeze(1)
    assert not torch.equal(smoothed, merged)
    torch.testing.assert_close(smoothed, reference.anomaly_map, rtol=1e-4, atol=0)
