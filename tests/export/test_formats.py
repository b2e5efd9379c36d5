"""Files of each format predict what the ensemble predicts, and hold what tiles share once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from weakref import ReferenceType, ref

import numpy as np
import pytest
import torch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export import formats
from anomalib_tiled.export.comparison import differences
from anomalib_tiled.export.export import STEPS, write_tiles, write_whole
from anomalib_tiled.export.formats import FORMATS, format_named
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.merging import Gaussian, Max, Mean, Merger

Make = Callable[..., EnsembleModel]

APART, OVERLAPPING = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4)), TileGrid(Size(8, 12), Size(5, 5), Size(3, 4))
TWO = TileGrid(Size(5, 8), Size(5, 5), Size(3, 3))


def installed(name: str) -> formats.Format:
    form = format_named(name)
    for package in form.packages:
        pytest.importorskip(package)
    return form


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("torch", torch.float32),
        pytest.param("onnx", torch.uint8, marks=pytest.mark.slow),
        pytest.param("openvino", torch.float32, marks=pytest.mark.slow),
    ],
)
def test_files_predict_what_the_ensemble_predicts_and_hold_what_tiles_share_once(
    make_ensemble: Make, tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    form, told = installed(name), list[str]()
    transposed = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).t()
    ensemble = make_ensemble(TWO, lambda tiles: tiles @ transposed, normalize_at="tile", threshold_at="tile")
    written = write_whole(ensemble, form, tmp_path, dtype, told.append)
    assert (written.graph.batch, len(told)) == (None, len(TWO.tiles) + STEPS)
    pixels = torch.rand(3, 3, *TWO.image_size, generator=torch.Generator().manual_seed(0))
    images = pixels if dtype == torch.float32 else (pixels * 255).to(dtype)
    for part in (images[:1], images):
        assert differences(ensemble, part, written.predict({"images": part.numpy()}))[1] == {}
    weights = sum(path.read_bytes().count(np.ones(10_000, np.float32).tobytes()) for path in tmp_path.iterdir())
    assert weights <= 1, "none, if the format computes what depends on weights alone beforehand"


@pytest.mark.slow
def test_models_that_are_loaded_anew_are_gone_when_the_next_one_is_loaded(make_ensemble: Make, tmp_path: Path) -> None:
    form = installed("onnx")
    ensemble = make_ensemble(TWO)
    models, loaded, held = ensemble.tile_models, list[ReferenceType[AnomalibModule]](), list[int]()

    def counted(tile: Tile) -> AnomalibModule:
        loaded.append(ref(model := models._load(tile)))
        held.append(sum(each() is not None for each in loaded))
        return model

    ensemble.tile_models = TileModels(counted, budget=0)
    written = write_tiles(ensemble, form, tmp_path, torch.float32, print)
    assert held == [1, 1]
    images = torch.rand(2, 3, *TWO.image_size)
    assert differences(ensemble, images, written.predict({"images": images.numpy()}))[1] == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("merger", "grid"), [(Mean(), APART), (Max(), OVERLAPPING), (Gaussian(), OVERLAPPING)])
def test_locations_without_a_model_are_left_out_in_every_format(
    make_ensemble: Make, images: torch.Tensor, tmp_path: Path, name: str, merger: Merger, grid: TileGrid
) -> None:
    ensemble = make_ensemble(grid.without(["r00_c00", "r01_c02"]), merger=merger)
    written = write_whole(ensemble, installed(name), tmp_path, torch.float32, print)
    assert differences(ensemble, images[:1], written.predict({"images": images[:1].numpy()}))[1] == {}


class Failing(formats.TorchFormat):
    """Fails at a step, as packages do."""

    def __init__(self, at: str, error: Exception) -> None:
        self.at, self.error = at, error

    def _fail(self, at: str) -> None:
        if at == self.at:
            raise self.error

    def _write(self, graphs: object, path: Path) -> None:
        self._fail("written")

    def _load(self, path: Path) -> formats.Predict:
        self._fail("loaded")
        return lambda _: self._fail("run")


def written_loaded_and_run(form: formats.Format) -> None:
    form.write(None, Path())
    form.load(Path())({})


@pytest.mark.parametrize("step", ["written", "loaded", "run"])
def test_what_fails_is_named_with_the_format_and_the_step(step: str) -> None:
    message = (
        rf"^The files of format torch could not be {step}: RuntimeError: too new\. .* other versions of torch, export "
        "with --format onnx or openvino, or predict with `anomalib tiled predict`"
    )
    with pytest.raises(ConfigurationError, match=message):
        written_loaded_and_run(Failing(step, RuntimeError("too new.")))


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left"), ConfigurationError("known")])
def test_what_is_told_elsewhere_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        written_loaded_and_run(Failing("written", error))
    assert caught.value is error


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_the_runtime_refuses_is_no_traceback(name: str, tmp_path: Path) -> None:
    form = installed(name)
    path = tmp_path / f"model{form.suffix}"
    path.write_text("something else")
    with pytest.raises(ConfigurationError, match=rf"The files of format {name} could not be loaded: \w+: \S+"):
        form.load(path)


def test_a_missing_package_is_named_with_how_to_install_it() -> None:
    form = type("Other", (formats.TorchFormat,), {"name": "other", "packages": ("json", "not_there")})()
    with pytest.raises(
        ConfigurationError, match=r"not installed: not_there\. .* pip install 'anomalib-tiled\[other\]'"
    ):
        form.check_installed()


def test_a_format_that_is_not_there_is_refused_with_the_nearest() -> None:
    allowed = r"Allowed: checkpoints, onnx, openvino, torch\.$"
    for given, nearest in {"torhc": "torch", "checkpoint": "checkpoints"}.items():
        message = rf"--format cannot be '{given}'\. Did you mean '{nearest}'\? {allowed}"
        with pytest.raises(ConfigurationError, match=message):
            format_named(given)


SHARING = APART.grouped([["r00_c00", "r00_c02", "r01_c00", "r01_c02"]])


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_tiles_that_share_a_model_are_predicted_by_it(
    make_ensemble: Make, images: torch.Tensor, tmp_path: Path, name: str
) -> None:
    form, told, ensemble = installed(name), list[str](), make_ensemble(SHARING)
    written = write_whole(ensemble, form, tmp_path, torch.float32, told.append)
    assert told[:3] == ["tile r00_c00", "tile r00_c01", "tile r01_c01"]
    assert len(told) == 3 + STEPS
    assert differences(ensemble, images[:1], written.predict({"images": images[:1].numpy()}))[1] == {}


@pytest.mark.slow
def test_tiles_that_share_a_model_share_a_file(make_ensemble: Make, images: torch.Tensor, tmp_path: Path) -> None:
    ensemble = make_ensemble(SHARING)
    written = write_tiles(ensemble, installed("onnx"), tmp_path, torch.float32, print)
    assert sorted(path.name for path in tmp_path.glob("tiles/*.onnx")) == [
        "r00_c00.onnx",
        "r00_c01.onnx",
        "r01_c01.onnx",
    ]
    assert differences(ensemble, images, written.predict({"images": images.numpy()}))[1] == {}
