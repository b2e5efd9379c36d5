from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from anomalib.models.components import AnomalibModule

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size
from anomalib_tiled.training import downloads
from anomalib_tiled.training.downloads import download


class Fetching:
    """Stands for a model that downloads."""

    def __init__(self, error: Exception | None = None) -> None:
        self.fetched: list[object] = []
        self.error = error

    def prepare_pretrained_model(self) -> None:
        if self.error is not None:
            raise self.error
        self.fetched.append("weights")

    def prepare_imagenette_data(self, image_size: tuple[int, int]) -> None:
        self.fetched.append(image_size)


def run_with(model: object, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(downloads, "class_of", lambda _: type(model))
    parts = {"settings": SimpleNamespace(model=ClassSpec("a.Model")), "grid": SimpleNamespace(tile_size=Size(4, 6))}
    return cast(
        "Run",
        cast("Any", SimpleNamespace(job=SimpleNamespace(fresh_models=SimpleNamespace(model=lambda: model)), **parts)),
    )


def test_weights_and_images_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Fetching()
    download(run_with(model, monkeypatch))
    assert model.fetched == ["weights", (4, 6)]


def test_other_models_are_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    job = SimpleNamespace(fresh_models=SimpleNamespace(model=lambda: made.append("a model")))
    monkeypatch.setattr(downloads, "class_of", lambda _: AnomalibModule)
    download(cast("Run", SimpleNamespace(settings=SimpleNamespace(model=None), job=job)))
    assert not made


def test_a_failing_download_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Fetching(ConnectionError("no route"))
    message = (
        r"Fetching downloads weights or images .* failed: no route\. Try .*; or copy .*pre_trained \(weights\) and"
    )
    with pytest.raises(ConfigurationError, match=message):
        download(run_with(model, monkeypatch))
