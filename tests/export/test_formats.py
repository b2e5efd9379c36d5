"""Files of each format predict what the ensemble predicts, and hold what tiles share once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export import formats
from anomalib_tiled.export.augmentations import Augmenting
from anomalib_tiled.export.comparison import differences
from anomalib_tiled.export.formats import FORMATS, format_named
from anomalib_tiled.export.whole import Whole

Make = Callable[..., EnsembleModel]
WholeOf = Callable[..., Whole]


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> formats.Format:
    form = format_named(request.param)
    for package in form.packages:
        pytest.importorskip(package)
    return form


def test_files_predict_what_the_ensemble_predicts_and_hold_what_tiles_share_once(
    make_ensemble: Make, whole_of: WholeOf, images: torch.Tensor, form: formats.Format, tmp_path: Path
) -> None:
    ensemble = make_ensemble(normalize_at="tile", threshold_at="tile")
    graph = form.graph(whole_of(ensemble))
    form.write(graph, tmp_path / f"model{form.suffix}")
    predict = form.load(graph, tmp_path / f"model{form.suffix}")
    for number in (1, 3):
        part = images[:number]
        assert differences(ensemble, part, predict({"images": part.numpy()}))[1] == []
    weights = sum(path.read_bytes().count(np.ones(10_000, np.float32).tobytes()) for path in tmp_path.iterdir())
    assert weights <= 1, "none, if the format computes what depends on weights alone beforehand"


def test_weights_that_are_a_transpose_are_written(
    make_ensemble: Make, whole_of: WholeOf, images: torch.Tensor, form: formats.Format, tmp_path: Path
) -> None:
    transposed = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).t()
    ensemble = make_ensemble(predict=lambda tiles: tiles @ transposed)
    graph = form.graph(whole_of(ensemble))
    form.write(graph, tmp_path / f"model{form.suffix}")
    predict = form.load(graph, tmp_path / f"model{form.suffix}")
    assert differences(ensemble, images, predict({"images": images.numpy()}))[1] == []


@pytest.mark.parametrize("change", [None, v2.Normalize([0.2], [0.7])], ids=["as they are", "augmented"])
def test_parts_that_are_joined_take_bytes_and_augment_them(
    make_ensemble: Make, whole_of: WholeOf, tmp_path: Path, change: v2.Transform | None
) -> None:
    form = format_named("onnx")
    for package in form.packages:
        pytest.importorskip(package)
    ensemble, before = make_ensemble(), None if change is None else Augmenting(change)
    graph = form.graph(whole_of(ensemble, torch.uint8, before))
    assert graph.batch == (None if before is None else 1)
    form.write(graph, tmp_path / f"model{form.suffix}")
    pixels = torch.randint(0, 256, (1, 3, *ensemble.grid.image_size), generator=torch.Generator().manual_seed(0))
    given = pixels.to(torch.uint8)
    found = form.load(graph, tmp_path / f"model{form.suffix}")({"images": given.numpy()})
    assert differences(ensemble, given / 255 if before is None else before.of_each(given), found)[1] == []


class Failing(formats.TorchFormat):
    """Fails at a step, as packages do."""

    def __init__(self, at: str, error: Exception) -> None:
        self.at, self.error = at, error

    def _fail(self, at: str) -> None:
        if at == self.at:
            raise self.error

    def _write(self, graph: object, path: Path) -> None:
        del graph, path
        self._fail("written")

    def _load(self, graph: object, path: Path) -> formats.Predict:
        del graph, path
        self._fail("loaded")
        return lambda _: self._fail("run")


def written_loaded_and_run(form: formats.Format) -> None:
    form.write(None, Path())
    form.load(None, Path())({})


@pytest.mark.parametrize("step", ["written", "loaded", "run"])
def test_what_fails_is_named_with_the_format_and_the_step(step: str) -> None:
    message = (
        rf"^The files of format torch could not be {step}: RuntimeError: too new\. .* other versions of torch, export "
        "with --format onnx or openvino, or predict with `anomalib tiled predict`"
    )
    with pytest.raises(ConfigurationError, match=message):
        written_loaded_and_run(Failing(step, RuntimeError("too new\nmore")))


@pytest.mark.parametrize("error", [MemoryError(), OSError(28, "No space left"), ConfigurationError("known")])
def test_what_is_told_elsewhere_is_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        written_loaded_and_run(Failing("written", error))
    assert caught.value is error


def test_a_file_that_the_runtime_refuses_is_no_traceback(form: formats.Format, tmp_path: Path) -> None:
    path = tmp_path / f"model{form.suffix}"
    path.write_text("something else")
    with pytest.raises(ConfigurationError, match=rf"The files of format {form.name} could not be loaded: \w+: \S+"):
        form.load(None, path)


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
