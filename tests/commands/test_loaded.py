"""A run as an object in Python."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models import Padim
from PIL import Image

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.ensemble import ensemble as tensor_ensemble
from anomalib_tiled.ensemble import run as run_module
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError, DataError, OutOfMemoryError, RunFolderError
from anomalib_tiled.results.image_prediction import ImagePrediction
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system import memory


@pytest.fixture(scope="module")
def ensemble(finished_run: Path) -> TiledEnsemble:
    return TiledEnsemble.load(finished_run)


@pytest.fixture
def damaged(photographs: Path) -> Path:
    return photographs / "bad" / "002.png"


@pytest.fixture
def datamodule(finished_run: Path) -> AnomalibDataModule:
    return Run.open(RunFolder.open(finished_run)).datamodule


def test_a_loaded_run_is_the_ensemble_of_the_commands(ensemble: TiledEnsemble, finished_run: Path) -> None:
    opened = Run.open(RunFolder.open(finished_run)).calibrated_ensemble()
    assert isinstance(ensemble, tensor_ensemble.EnsembleModel)
    assert ensemble.run_folder == finished_run.resolve()
    images = torch.rand(1, 3, 112, 150)
    for ours, theirs in zip(ensemble(images), opened(images), strict=True):
        assert torch.equal(ours, theirs)
    assert not ensemble.training


@pytest.fixture
def small_run(finished_run: Path, tmp_path: Path) -> Path:
    """A run whose models are larger than its budget."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    configuration = run / "config.yaml"
    configuration.write_text(configuration.read_text().replace("memory_budget: null", "memory_budget: 8MB"))
    return run


def test_an_ensemble_larger_than_its_budget_predicts_the_same(
    ensemble: TiledEnsemble, small_run: Path, damaged: Path
) -> None:
    small = TiledEnsemble.load(small_run)
    for _ in range(2):
        assert np.array_equal(small.predict(damaged).map, ensemble.predict(damaged).map)
    assert 0 < small.tile_models.held <= 4 * 10**6 < ensemble.tile_models.held


def test_threads_may_share_an_ensemble(ensemble: TiledEnsemble, small_run: Path, photographs: Path) -> None:
    """Most of its models are those of one tile after the other."""
    images = sorted(photographs.glob("*/00?.png"))[:6]
    expected, small = [ensemble.predict(image) for image in images], TiledEnsemble.load(small_run)
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(small.predict, images))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.score == theirs.score
        assert np.array_equal(ours.map, theirs.map)


@pytest.mark.parametrize("place", ["forward", "to", "load_state_dict"])
def test_a_lack_of_memory_is_told_as_one(
    finished_run: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def lack(*_: object, **__: object) -> None:
        message = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 15.78 GiB."
        raise torch.OutOfMemoryError(message)

    ensemble = TiledEnsemble.load(finished_run)
    monkeypatch.setattr(Padim, place, lack)
    with pytest.raises(OutOfMemoryError) as raised:
        ensemble.predict(damaged)
    assert "The memory of GPU 1 ran out" in str(raised.value)
    assert "Lower memory_budget in the config.yaml" in str(raised.value)
    assert "Train" not in str(raised.value)
    monkeypatch.undo()
    assert ensemble.predict(damaged).label, "nothing is left of what failed"


def test_a_single_process_may_use_more_memory_and_warns_of_large_images(
    finished_run: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 400)
    monkeypatch.setattr(run_module, "available_memory", lambda: 400)
    with pytest.warns(UserWarning, match=r"an image of 112 x 150 pixels takes about .* are free"):
        ensemble = TiledEnsemble.load(finished_run)
    ensemble.predict(damaged)
    assert ensemble.tile_models._room(torch.device("cpu")) == 100


def test_a_prediction_has_the_size_of_its_image(ensemble: TiledEnsemble, damaged: Path) -> None:
    for size in ((150, 112), (300, 224)):
        with Image.open(damaged) as image:
            prediction = ensemble.predict(image.resize(size))
        assert isinstance(prediction, ImagePrediction)
        assert prediction.map.shape == prediction.mask.shape == prediction.image.shape[:2] == size[::-1]
        assert prediction.image_path is None
        assert sum(region.area for region in prediction.regions) == prediction.mask.sum() > 0
        x, y = prediction.regions[0].peak
        assert prediction.map[y, x] == prediction.map.max() == pytest.approx(prediction.regions[0].peak_score)
        assert prediction.mask[y, x]


def test_every_kind_of_image_is_predicted_alike(ensemble: TiledEnsemble, damaged: Path) -> None:
    pixels = np.asarray(Image.open(damaged))
    kinds = [str(damaged), Image.open(damaged), pixels, pixels / 255, torch.from_numpy(pixels.copy())]
    first = ensemble.predict(damaged)
    assert first.image_path == damaged
    for each in ensemble.predict_batch(kinds):
        assert each.score == pytest.approx(first.score, abs=1e-5)
        np.testing.assert_allclose(each.map, first.map, atol=1e-4)


def test_an_image_of_another_shape_is_warned_of_once(finished_run: Path) -> None:
    ensemble, tall = TiledEnsemble.load(finished_run), np.zeros((300, 90, 3), dtype=np.uint8)
    with pytest.warns(UserWarning, match=r"The image has 300 x 90 pixels .* trained on images of 112 x 150"):
        ensemble.predict(tall)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ensemble.predict(tall)


def test_a_stream_without_end_is_predicted_as_it_is_asked_for(ensemble: TiledEnsemble, damaged: Path) -> None:
    asked: list[Path] = []

    def images() -> Iterator[Path]:
        for each in cycle([damaged]):
            asked.append(each)
            yield each

    stream = ensemble.predict_images(images(), batch_size=2)
    assert [next(stream).label for _ in range(3)] == [True] * 3
    assert len(asked) == 4


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_images(ensemble: TiledEnsemble, damaged: Path, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size must be at least 1, but is {batch_size}"):
        ensemble.predict_images([damaged], batch_size=batch_size)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_single_path_is_no_list_of_images(ensemble: TiledEnsemble, photographs: Path, kind: type) -> None:
    for predict in (ensemble.predict_images, ensemble.predict_batch):
        with pytest.raises(TypeError, match=r"is a single path\. Use predict for an image, and sorted\(Path\(.*glob"):
            predict(kind(photographs / "bad"))


def test_a_device_may_be_an_object_or_left_open(finished_run: Path, ensemble: TiledEnsemble) -> None:
    assert TiledEnsemble.load(finished_run, device=None).device == ensemble.device
    assert TiledEnsemble.load(finished_run, device=torch.device("cpu")).device == torch.device("cpu")


def test_an_altered_checkpoint_is_told_when_it_is_loaded(finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    checkpoint = tmp_path / "run" / "tiles" / "r01_c01.ckpt"
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"r01_c01\.ckpt was changed after it was finished"):
        TiledEnsemble.load(tmp_path / "run")


def test_nothing_is_predicted_of_nothing(ensemble: TiledEnsemble) -> None:
    assert ensemble.predict_batch([]) == list(ensemble.predict_images([])) == []


def test_a_damaged_file_is_named(ensemble: TiledEnsemble, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a\.png is no image that can be read"):
        ensemble.predict(tmp_path / "a.png")


def test_a_picture_shows_where(
    ensemble: TiledEnsemble,
    damaged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_margin: Callable[..., np.ndarray],
) -> None:
    prediction = ensemble.predict(damaged)
    assert prediction.threshold == prediction.pixel_threshold == 0.5
    saved = prediction.save(tmp_path / "deep" / "a.png")
    with Image.open(saved) as picture:
        drawn = without_margin(picture, (112, 150))
    assert (drawn[prediction.map > 0.9] - prediction.image[prediction.map > 0.9]).mean(axis=0)[0] > 20, "redder"
    near = cv2.dilate(prediction.mask.view(np.uint8), np.ones((5, 5))) > 0
    plain = (prediction.map < 0.25) & ~near
    assert plain.any()
    assert np.array_equal(drawn[plain], prediction.image[plain])
    with pytest.raises(ValueError, match=r"must end in a format such as \.png or \.jpg, but is 'a\.what'"):
        prediction.save(tmp_path / "a.what")
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda picture, *_: shown.append(picture))
    prediction.show()
    assert np.array_equal(without_margin(shown[0], (112, 150)), drawn)
    beside = prediction.picture(beside=True)
    assert np.array_equal(without_margin(beside, (112, 150)), drawn)
    assert beside.width > 2 * 150


def test_thresholds_replace_those_that_were_calibrated(finished_run: Path, damaged: Path) -> None:
    given = TiledEnsemble.load(finished_run, threshold=1.0, pixel_threshold="q1")
    prediction = given.predict(damaged)
    assert not prediction.label
    assert not given(torch.rand(1, 3, 112, 150)).pred_label
    with pytest.warns(UserWarning, match="fpr0.01 is finer than 4 normal validation scores"):
        TiledEnsemble.load(finished_run, threshold="fpr0.01")
    with pytest.raises(ConfigurationError, match="--threshold must be a score"):
        TiledEnsemble.load(finished_run, threshold="high")


def test_what_cannot_be_loaded_says_why(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="there is no folder"):
        TiledEnsemble.load(tmp_path / "gone")
    with pytest.raises(ConfigurationError, match="The device must be auto, cpu, or an accelerator of this machine"):
        TiledEnsemble.load(finished_run, device="warp")
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "calibration.json").unlink()
    with pytest.raises(RunFolderError, match=r"calibration\.json is missing"):
        TiledEnsemble.load(tmp_path / "run")


def test_engine_predicts_a_folder(ensemble: TiledEnsemble, photographs: Path, tmp_path: Path) -> None:
    batches = Engine(default_root_dir=tmp_path, logger=False).predict(model=ensemble, data_path=photographs / "bad")
    ours = list(ensemble.predict_images(sorted((photographs / "bad").iterdir())))
    assert [float(batch.pred_score) for batch in batches] == pytest.approx([each.score for each in ours], abs=1e-5)
    assert [bool(batch.pred_label) for batch in batches] == [each.label for each in ours]


def test_engine_measures_what_the_command_measures(
    ensemble: TiledEnsemble, datamodule: AnomalibDataModule, finished_run: Path, tmp_path: Path
) -> None:
    engine = Engine(default_root_dir=tmp_path, logger=False)
    (measured,) = engine.test(ensemble, datamodule=datamodule, verbose=False)
    assert measured == pytest.approx(json.loads((finished_run / "metrics.json").read_text()), abs=1e-6)
