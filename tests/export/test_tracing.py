"""Graphs of ensembles: any number of images where that can be, and a reason where there can be none."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError, StageError
from anomalib_tiled.export.tracing import WHERE_FROM
from anomalib_tiled.export.whole import Whole, ensemble_graph
from anomalib_tiled.stages.scoring import Scorer

Make = Callable[..., EnsembleModel]
WholeOf = Callable[..., Whole]


class ByNumpy(Scorer):
    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return torch.from_numpy(np.median(tile_scores.numpy(), axis=0))


def test_a_graph_takes_any_number_of_images(make_ensemble: Make, whole_of: WholeOf, images: torch.Tensor) -> None:
    ensemble = make_ensemble()
    graph = ensemble_graph(whole_of(ensemble))
    assert (graph.inputs, graph.batch) == (("images",), None)
    assert graph.outputs == ("pred_score", "pred_label", "anomaly_map", "pred_mask")
    for number in (1, 2, 3):
        torch.testing.assert_close(
            graph.program.module()(images[:number])["anomaly_map"], ensemble(images[:number]).anomaly_map
        )


def test_a_graph_does_not_remember_where_it_was_made(make_ensemble: Make, whole_of: WholeOf) -> None:
    nodes = ensemble_graph(whole_of(make_ensemble())).program.graph.nodes
    assert not any(name in node.meta for node in nodes for name in WHERE_FROM)


def test_a_model_that_counts_its_images_gets_one_at_a_time(
    make_ensemble: Make, whole_of: WholeOf, images: torch.Tensor
) -> None:
    ensemble = make_ensemble(predict=lambda images: torch.cat([images[i : i + 1] for i in range(len(images))]))
    graph = ensemble_graph(whole_of(ensemble))
    assert graph.batch == 1
    torch.testing.assert_close(graph.program.module()(images[:1])["anomaly_map"], ensemble(images[:1]).anomaly_map)


def test_a_model_that_depends_on_values_is_named(make_ensemble: Make, whole_of: WholeOf) -> None:
    ensemble = make_ensemble(predict=lambda images: images if images.max() > 0.5 else -images)
    with pytest.raises(ConfigurationError, match=r"^Brightness cannot be exported: .* Choose another model"):
        ensemble_graph(whole_of(ensemble))


def test_a_stage_that_leaves_pytorch_is_named(make_ensemble: Make, whole_of: WholeOf) -> None:
    name = re.escape(f"scoring ByNumpy ({__name__}.ByNumpy of no installed package) failed: ")
    with pytest.raises(StageError, match=name):
        ensemble_graph(whole_of(make_ensemble(scorer=ByNumpy())))


def test_bytes_can_be_the_input(make_ensemble: Make, whole_of: WholeOf, images: torch.Tensor) -> None:
    ensemble, pixels = make_ensemble(), (images * 255).to(torch.uint8)
    found = ensemble_graph(whole_of(ensemble, torch.uint8)).program.module()(pixels)["anomaly_map"]
    torch.testing.assert_close(found, ensemble(pixels / 255).anomaly_map)
