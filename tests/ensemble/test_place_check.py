"""A place can work on the tiles of a run: it has the device, and what the model downloads."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from anomalib.models.components import AnomalibModule
from filelock import FileLock

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble import place_check as module
from anomalib_tiled.ensemble.place_check import LOCK, PlaceCheck, download
from anomalib_tiled.ensemble.tile_job import TileJob
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.system.hardware import processor_name

GRID = TileGrid(Size(4, 6), Size(4, 6), Size(4, 6))


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


def job_with(model: object, monkeypatch: pytest.MonkeyPatch) -> TileJob:
    monkeypatch.setattr(module, "class_of", lambda _: type(model))
    fresh_models = SimpleNamespace(model=lambda: model)
    settings = SimpleNamespace(model_of=lambda _: ClassSpec("a.Model"))
    return cast("TileJob", SimpleNamespace(fresh_models_of=lambda _: fresh_models, settings=settings, grid=GRID))


def test_weights_and_images_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Fetching()
    download(job_with(model, monkeypatch))
    assert model.fetched == ["weights", (4, 6)]


def test_other_models_are_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    fresh_models = SimpleNamespace(model=lambda: made.append("a model"))
    monkeypatch.setattr(module, "class_of", lambda _: AnomalibModule)
    settings = SimpleNamespace(model_of=lambda _: ClassSpec("a.Model"))
    download(cast("TileJob", SimpleNamespace(settings=settings, fresh_models_of=lambda _: fresh_models, grid=GRID)))
    assert not made


def test_a_failing_download_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Fetching(ConnectionError("no route"))
    message = (
        r"Fetching downloads weights or images .* failed: no route\. Try .*; or copy .*pre_trained \(weights\) and"
    )
    with pytest.raises(ConfigurationError, match=message):
        download(job_with(model, monkeypatch))


@pytest.mark.parametrize("asked", [None, 3])
def test_a_check_names_the_device(asked: int | None) -> None:
    job = SimpleNamespace(
        check_data=lambda: None,
        predicts_in="float32",
        device=lambda index: torch.device("cpu") if index is None else torch.device("cuda", index),
    )
    check = PlaceCheck(cast("TileJob", job), download=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H{device.index}00")
        assert check(None, device=asked) == (processor_name() if asked is None else "cuda:3 NVIDIA H300")


def test_a_missing_device_passes() -> None:
    def refuse(_: int | None) -> torch.device:
        message = "there is no GPU 3"
        raise ConfigurationError(message)

    with pytest.raises(ConfigurationError, match=r"^there is no GPU 3$"):
        PlaceCheck(cast("TileJob", SimpleNamespace(check_data=lambda: None, device=refuse)), download=False)(
            None, device=3
        )


def here(_: int | None) -> torch.device:
    return torch.device("cpu")


def test_a_place_without_the_precision_of_the_run_is_refused() -> None:
    job = cast("TileJob", SimpleNamespace(check_data=lambda: None, predicts_in="float16", device=here))
    with pytest.raises(ConfigurationError, match="precision must be one that the device has, but is float16"):
        PlaceCheck(job, download=False)(None)


def test_one_process_of_a_machine_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(_: TileJob) -> None:
        with pytest.raises(TimeoutError):
            FileLock(tmp_path / LOCK, timeout=0, is_singleton=False).acquire()
        downloaded.append("all")

    downloaded: list[str] = []
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(module, "download", note)
    job = cast("TileJob", SimpleNamespace(check_data=lambda: None, predicts_in="float32", device=here))
    PlaceCheck(job, download=False)(None)
    assert downloaded == []
    PlaceCheck(job, download=True)(None)
    assert downloaded == ["all"]


def test_the_global_model_fetches_too_in_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Fetching()
    job = job_with(model, monkeypatch)
    vars(job)["grid"] = replace(GRID, shrunk=Size(2, 3))
    download(job)
    assert model.fetched == ["weights", (4, 6), "weights", (2, 3)]
