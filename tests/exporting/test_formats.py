"""Files of each format predict what the ensemble predicts, and hold what tiles share once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble import TiledEnsemble
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.exporting import formats
from anomalib_tiled.exporting.equality import differences
from anomalib_tiled.exporting.formats import FORMATS, format_named
from anomalib_tiled.exporting.tracing import ensemble_graph

Make = Callable[..., TiledEnsemble]


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> formats.Format:
    form = format_named(request.param)
    for package in form.packages:
        pytest.importorskip(package)
    return form


def test_files_predict_what_the_ensemble_predicts_and_hold_what_tiles_share_once(
    make_ensemble: Make, images: torch.Tensor, form: formats.Format, tmp_path: Path
) -> None:
    ensemble = make_ensemble(normalize_at="tile", threshold_at="tile")
    graph = ensemble_graph(ensemble, torch.float32)
    form.write(graph, tmp_path / f"model{form.suffix}")
    predict = form.load(graph, tmp_path / f"model{form.suffix}")
    for number in (1, 3):
        part = images[:number]
        assert differences(ensemble, part, predict({"images": part.numpy()}))[1] == []
    weights = sum(path.read_bytes().count(np.ones(10_000, np.float32).tobytes()) for path in tmp_path.iterdir())
    assert weights <= 1, "none, if the format computes what depends on weights alone beforehand"


def test_weights_that_are_a_transpose_are_written(
    make_ensemble: Make, images: torch.Tensor, form: formats.Format, tmp_path: Path
) -> None:
    transposed = torch.rand(5, 5, generator=torch.Generator().manual_seed(1)).t()
    ensemble = make_ensemble(predict=lambda tiles: tiles @ transposed)
    graph = ensemble_graph(ensemble, torch.float32)
    form.write(graph, tmp_path / f"model{form.suffix}")
    predict = form.load(graph, tmp_path / f"model{form.suffix}")
    assert differences(ensemble, images, predict({"images": images.numpy()}))[1] == []


def test_a_missing_package_is_named_with_how_to_install_it() -> None:
    form = type("Other", (formats.TorchFormat,), {"name": "other", "packages": ("json", "not_there")})()
    with pytest.raises(
        ConfigurationError, match=r"not installed: not_there\. .* pip install 'anomalib-tiled\[other\]'"
    ):
        form.check_installed()


def test_a_format_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"--format cannot be 'torhc'\. Did you mean 'torch'\? Allowed: "):
        format_named("torhc")
