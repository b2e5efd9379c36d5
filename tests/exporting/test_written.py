"""Tile models that become files of their own are in memory one at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from weakref import ReferenceType, ref

import pytest
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble import TiledEnsemble
from anomalib_tiled.exporting.formats import OnnxFormat
from anomalib_tiled.exporting.written import Target, write_tiles
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.tile_models import TileModels


@pytest.mark.slow
def test_models_that_are_loaded_anew_are_gone_when_the_next_one_is_loaded(
    make_ensemble: Callable[..., TiledEnsemble], tmp_path: Path
) -> None:
    for package in OnnxFormat.packages:
        pytest.importorskip(package)
    ensemble = make_ensemble(TileGrid(Size(4, 10), Size(4, 4), Size(4, 3)))
    models, loaded, held = ensemble.tile_models, list[ReferenceType[AnomalibModule]](), list[int]()

    def counted(tile: Tile) -> AnomalibModule:
        loaded.append(ref(model := models._load(tile)))
        held.append(sum(each() is not None for each in loaded))
        return model

    ensemble.tile_models = TileModels(counted, budget=0)
    write_tiles(ensemble, Target(OnnxFormat(), tmp_path))
    assert held == [1, 1, 1]
