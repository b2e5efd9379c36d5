"""Graphs take any number of images where that can be; models that differ in weights only are traced once."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.errors import ConfigurationError, StageError
from anomalib_tiled.export.graphs import WHERE_FROM, EnsembleGraphs, TileGraphs, joining_graph
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.scoring import Scorer

Make = Callable[..., EnsembleModel]
GraphsOf = Callable[[EnsembleModel], EnsembleGraphs]
ONE = TileGrid(Size(5, 5), Size(5, 5), Size(5, 5))
TWO = TileGrid(Size(5, 8), Size(5, 5), Size(3, 3))


class ByNumpy(Scorer):
    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return torch.from_numpy(np.median(tile_scores.numpy(), axis=0))


def test_a_graph_takes_any_number_of_images(make_ensemble: Make, graphs_of: GraphsOf) -> None:
    ensemble = make_ensemble(TWO)
    graph = graphs_of(ensemble).whole()
    assert (graph.inputs, graph.batch) == (("images",), None)
    assert graph.outputs == ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    assert not any(name in node.meta for node in graph.program.graph.nodes for name in WHERE_FROM)
    for number in (1, 2, 3):
        images = torch.rand(number, 3, *TWO.image_size)
        torch.testing.assert_close(graph.program.module()(images)["anomaly_map"], ensemble(images).anomaly_map)


def test_a_model_that_counts_its_images_gets_one_at_a_time(make_ensemble: Make, graphs_of: GraphsOf) -> None:
    ensemble = make_ensemble(ONE, lambda images: torch.cat([images[i : i + 1] for i in range(len(images))]))
    graphs = graphs_of(ensemble)
    assert [tile.graph.batch for tile in graphs.tiles] == [1]
    assert not graphs.any_batch
    assert joining_graph(ensemble, ("tile_scores", "tile_maps"), any_batch=False).batch == 1


def test_a_model_that_depends_on_values_is_named(make_ensemble: Make, graphs_of: GraphsOf) -> None:
    ensemble = make_ensemble(ONE, lambda images: images if images.max() > 0.5 else -images)
    with pytest.raises(ConfigurationError, match=r"^Brightness cannot be exported: .* Choose another model"):
        graphs_of(ensemble)


def test_tiles_are_joined_without_writing_into_the_image(make_ensemble: Make) -> None:
    """In a graph, each write into a part of an image copies the whole image."""
    ensemble = make_ensemble(TWO, threshold_at="tile", smoother=None)
    program = joining_graph(ensemble, ("tile_scores", "tile_maps"), any_batch=True).program
    targets = [str(node.target) for node in program.run_decompositions().graph.nodes]
    assert any("cat" in each for each in targets)
    assert not [each for each in targets if any(word in each for word in ("scatter", "index_put", "copy"))]


def test_a_stage_that_leaves_pytorch_is_named(make_ensemble: Make) -> None:
    name = re.escape(f"scoring ByNumpy ({__name__}.ByNumpy of no installed package) failed: ")
    with pytest.raises(StageError, match=name):
        joining_graph(make_ensemble(ONE, scorer=ByNumpy()), ("tile_scores",), any_batch=True)


def test_a_model_with_operators_of_another_package_is_refused(make_ensemble: Make, graphs_of: GraphsOf) -> None:
    with torch.library._scoped_library("elsewhere", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: 2 * x, "CompositeExplicitAutograd")
        library.impl("twice", torch.empty_like, "Meta")
        message = (
            "cannot be exported: its model or stages use operators of elsewhere, which PyTorch alone does not have"
        )
        with pytest.raises(ConfigurationError, match=message):
            graphs_of(make_ensemble(ONE, torch.ops.elsewhere.twice))


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
    ensemble = make_ensemble(TWO)
    reload = ensemble.tile_models._reload

    def longer(model: torch.nn.Module, tile: object) -> None:
        reload(model, tile)
        model.frozen.data = torch.ones(100)

    ensemble.tile_models = TileModels(ensemble.tile_models._load, reload=longer, budget=0)
    graphs = TileGraphs(ensemble)
    assert_each_predicts_its_own(ensemble, graphs)
    assert len(graphs.traced) == 2


def test_models_that_may_keep_something_beside_their_weights_are_traced_one_by_one(make_ensemble: Make) -> None:
    ensemble = make_ensemble(TWO)
    ensemble.tile_models = TileModels(ensemble.tile_models._load)
    graphs = TileGraphs(ensemble)
    assert_each_predicts_its_own(ensemble, graphs)
    assert graphs.traced == []
