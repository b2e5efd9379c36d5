"""Files that predict something else are refused, and the folder appears when everything is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.export import _check, _first_tiles
from anomalib_tiled.export.formats import TorchFormat
from anomalib_tiled.export.writers import STEPS, Target
from anomalib_tiled.stages.scoring import Scorer


class Changed(Scorer):
    """Something else while a graph is made."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return tile_scores.amax(dim=0) + (5.0 if torch.compiler.is_exporting() else 0.0)


def test_files_that_predict_something_else_are_refused_and_the_cause_is_named(
    make_ensemble: Callable[..., EnsembleModel], images: torch.Tensor, tmp_path: Path
) -> None:
    message = r"to 0\.0001, but differ in pred_score by .*The cause is scoring Changed .*No files were kept"
    with pytest.raises(ConfigurationError, match=message):
        _check(
            make_ensemble(scorer=Changed(), normalize_at="none"),
            Target(TorchFormat(), tmp_path),
            [images],
            per_tile=False,
        )


def test_the_first_tiles_are_the_same_tiles(make_ensemble: Callable[..., EnsembleModel]) -> None:
    ensemble = make_ensemble()
    first = _first_tiles(ensemble).grid
    assert [tile.name for tile in first.tiles] == ["r00_c00", "r00_c01", "r01_c00", "r01_c01"]
    assert all(tile == ensemble.grid.tile(tile.name) for tile in first.tiles)


def test_each_step_is_told_of(
    make_ensemble: Callable[..., EnsembleModel], images: torch.Tensor, tmp_path: Path
) -> None:
    ensemble, told = make_ensemble(), list[str]()
    _check(ensemble, Target(TorchFormat(), tmp_path, done=told.append), [images, images[:1]], per_tile=False)
    assert told[:2] == ["tile r00_c00", "tile r00_c01"]
    assert told[-2:] == ["comparison of 3 images", "comparison of 1 images"]
    assert len(told) == len(ensemble.grid.tiles) + STEPS + 2
