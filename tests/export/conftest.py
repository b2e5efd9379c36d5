"""Ensembles of a few lines: the map is the mean over the channels, times a factor per tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level, Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.export.graphs import EnsembleGraphs, TileGraphs
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.seams import GaussianSeams
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold

GRID = TileGrid(Size(8, 12), Size(5, 5), Size(3, 4))
LEARNED = {"minimum": 0.0, "maximum": 20.0, "threshold": 9.0}


class Brightness(AnomalibModule):
    def __init__(self, factor: float, predict: Callable[[torch.Tensor], torch.Tensor], *, maps: bool) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.register_buffer("frozen", torch.ones(10_000))
        self.register_buffer("factor", torch.tensor(factor))
        self.predict = predict
        self.gives_maps = maps

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = self.factor * self.frozen.mean() * self.predict(images).mean(dim=1, keepdim=True)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps if self.gives_maps else None)

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


@pytest.fixture
def make_ensemble() -> Callable[..., EnsembleModel]:
    """Make a calibrated ensemble: ``make_ensemble(grid=..., predict=..., maps=..., merger=..., normalize_at=...)``."""

    def make(
        grid: TileGrid = GRID,
        predict: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
        *,
        maps: bool = True,
        **changes: object,
    ) -> EnsembleModel:
        plain = Stages(Mean(), Max(), GaussianSeams(0.5), MinMax(), F1AdaptiveThreshold(), "image", "image")
        stages = replace(plain, **changes)

        def load(tile: Tile) -> Brightness:
            return Brightness(10.0 * (1 + tile.row + tile.column), predict, maps=maps)

        def level(place: str) -> Level:
            learned = Learned(9.0, LEARNED if stages.normalize_at == place else None)
            return Level(learned, learned)

        calibration = Calibration(
            image=level("image") if stages.learn_from_images else None,
            tiles={tile.name: level("tile") for tile in grid.tiles} if stages.learn_from_tiles else {},
        )

        def reload(model: Brightness, tile: Tile) -> None:
            model.factor.data = load(tile).factor

        models = TileModels(load, reload=reload)
        return EnsembleModel(grid, models, stages=stages, calibration=calibration, evaluator=False).eval()

    return make


@pytest.fixture
def graphs_of() -> Callable[[EnsembleModel], EnsembleGraphs]:
    """Trace the tiles of an ensemble."""

    def graphs_of_ensemble(ensemble: EnsembleModel) -> EnsembleGraphs:
        graphs = TileGraphs(ensemble)
        return EnsembleGraphs(ensemble, tuple(graphs.graph(tile) for tile in ensemble.grid.tiles))

    return graphs_of_ensemble


@pytest.fixture
def images() -> torch.Tensor:
    """Three images of random pixels."""
    return torch.rand(3, 3, *GRID.image_size, generator=torch.Generator().manual_seed(0))
