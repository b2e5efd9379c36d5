"""Models of tiles that differ in weights only are traced once; others are traced by themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.export.tile_graphs import TileGraphs

Make = Callable[..., EnsembleModel]


def assert_each_predicts_its_own(ensemble: EnsembleModel, graphs: TileGraphs) -> None:
    """Compare the graphs, all made before the first is used, to the models."""
    tiles = torch.rand(2, 3, *ensemble.grid.tile_size, generator=torch.Generator().manual_seed(1))
    modules = {tile.name: graphs.graph(tile).module() for tile in ensemble.grid.tiles}
    for tile in ensemble.grid.tiles:
        expected = ensemble.tile_models.model(tile, torch.device("cpu"))(tiles)
        found = modules[tile.name](tiles)
        torch.testing.assert_close(found["tile_scores"], expected.pred_score)
        torch.testing.assert_close(found["tile_maps"], expected.anomaly_map.squeeze(1))


@pytest.mark.parametrize("budget", [None, 0])
def test_one_graph_serves_all_tiles_with_the_weights_of_each(make_ensemble: Make, budget: int | None) -> None:
    ensemble = make_ensemble()
    ensemble.tile_models.budget = budget
    graphs = TileGraphs(ensemble)
    assert_each_predicts_its_own(ensemble, graphs)
    assert len(graphs.traced) == 1


def test_a_number_that_is_no_tensor_is_that_of_its_tile(make_ensemble: Make) -> None:
    ensemble = make_ensemble()
    models = ensemble.tile_models
    load, reload = models._load, models._reload

    def with_number(model: torch.nn.Module, row: int) -> torch.nn.Module:
        model.predict = lambda images: images + row
        return model

    ensemble.tile_models = TileModels(
        lambda tile: with_number(load(tile), tile.row),
        reload=lambda model, tile: with_number(model, reload(model, tile) or tile.row),
        budget=0,
    )
    graphs = TileGraphs(ensemble)
    assert_each_predicts_its_own(ensemble, graphs)
    assert len(graphs.traced) == ensemble.grid.shape[0], "a graph for each row, which serves all columns"


def test_weights_of_another_shape_have_a_graph_of_their_own(make_ensemble: Make) -> None:
    ensemble = make_ensemble()
    reload = ensemble.tile_models._reload

    def longer(model: torch.nn.Module, tile: object) -> None:
        reload(model, tile)
        model.frozen.data = torch.ones(100 * (1 + tile.row))

    ensemble.tile_models = TileModels(ensemble.tile_models._load, reload=longer, budget=0)
    graphs = TileGraphs(ensemble)
    assert_each_predicts_its_own(ensemble, graphs)
    assert len(graphs.traced) == 1 + ensemble.grid.shape[0]


def test_models_that_may_keep_something_beside_their_weights_are_traced_one_by_one(make_ensemble: Make) -> None:
    ensemble = make_ensemble()
    ensemble.tile_models = TileModels(ensemble.tile_models._load)
    graphs = TileGraphs(ensemble)
    assert_each_predicts_its_own(ensemble, graphs)
    assert graphs.traced == []
