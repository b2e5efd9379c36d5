"""What is written predicts what the ensemble does; models that become files of their own are in memory one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from weakref import ReferenceType, ref

import pytest
import torch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.export.comparison import differences
from anomalib_tiled.export.formats import OnnxFormat, format_named
from anomalib_tiled.export.load_script import check
from anomalib_tiled.export.writers import Target, write_tiles, write_whole
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.merging import Gaussian, Max, Mean, Merger

APART, OVERLAPPING = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)), TileGrid(Size(8, 12), Size(5, 5), Size(3, 4))


@pytest.mark.slow
def test_models_that_are_loaded_anew_are_gone_when_the_next_one_is_loaded(
    make_ensemble: Callable[..., EnsembleModel], tmp_path: Path
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


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
@pytest.mark.parametrize(("merger", "grid"), [(Mean(), APART), (Max(), OVERLAPPING), (Gaussian(), OVERLAPPING)])
def test_locations_without_a_model_are_left_out_in_every_format(
    make_ensemble: Callable[..., EnsembleModel],
    images: torch.Tensor,
    tmp_path: Path,
    form: str,
    merger: Merger,
    grid: TileGrid,
) -> None:
    for package in format_named(form).packages:
        pytest.importorskip(package)
    ensemble = make_ensemble(grid.without(["r00_c00", "r01_c02"]), merger=merger)
    written = write_whole(ensemble, Target(format_named(form), tmp_path))
    found = written.predict({"images": images[:1].numpy()})
    assert differences(ensemble, images[:1], found)[1] == []
    if form == "torch":
        check(tmp_path / "model.pt2")
