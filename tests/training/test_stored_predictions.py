"""Each tile model is loaded once for all images, and what it says is found again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.models.components import AnomalibModule
from numpy.typing import NDArray
from torchvision.transforms.v2 import Identity

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.cache import DecodedFiles, PixelSource, open_source
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.images import Pixels
from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.ensemble.loaded_models import SavedModels
from anomalib_tiled.ensemble.raw_prediction import RawPrediction
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_predictions import TilePredictions
from anomalib_tiled.errors import OutOfMemoryError, StageError, TrainingError
from anomalib_tiled.grid import Tile, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.temporary import temporary_name
from anomalib_tiled.training import stored_predictions as predicting
from anomalib_tiled.training.stored_predictions import PredictionJob, lazy_predictions, predict_trained
from anomalib_tiled.workers.scheduler import scheduler_of

Make = Callable[[float], AnomalibModule]


@dataclass
class Models:
    """Plays the checkpoints of a run, and remembers which were loaded."""

    brightness: Make
    loaded: list[str] = field(default_factory=list)
    made: int = 0
    checksums: dict[str, Checksum] = field(default_factory=dict)

    def load(self, tile: Tile) -> AnomalibModule:
        self.made += 1
        model = self.brightness(0.0)
        self.reload(model, tile)
        return model

    def reload(self, model: AnomalibModule, tile: Tile) -> None:
        self.loaded.append(tile.name)
        model.factor.data = torch.tensor(10.0 * (1 + tile.row + tile.column))

    def record(self, tile: Tile) -> SimpleNamespace:
        return SimpleNamespace(checkpoint=self.checksums.get(tile.name, Checksum(1, "first")))


@pytest.fixture
def models(brightness: Make, monkeypatch: pytest.MonkeyPatch) -> Models:
    models = Models(brightness)
    monkeypatch.setattr(RunFolder, "is_done", lambda *_: True)
    monkeypatch.setattr(RunFolder, "record", models.record)
    monkeypatch.setattr(SavedModels, "load", models.load)
    monkeypatch.setattr(SavedModels, "reload", models.reload)
    return models


@pytest.fixture
def run(
    configuration: dict[str, object],
    datamodule: Folder,
    image_folder: Path,
    models: Models,
) -> Run:
    """A run as if all of its tiles were trained, with images in the cache."""
    assert not models.loaded
    settings = Settings.from_mapping(configuration | {"trainer": {"accelerator": "cpu"}})
    folder, grid = RunFolder(image_folder / "runs" / "v0"), grid_of(settings.tiling)
    split = split_once(datamodule)
    return Run(
        folder,
        settings,
        grid,
        split,
        open_source(split, grid, image_folder / "cache"),
        datamodule,
        scheduler_of(settings),
    )


def passed(run: Run) -> list[RawPrediction]:
    """Predict the test images, and give what comes."""
    ensemble = run.ensemble(Calibration())
    batches = lazy_predictions(run, ensemble, "test", run.folder.predictions, "Testing")
    return [predict() for _, predict in batches]


def whole(run: Run) -> list[RawPrediction]:
    """Predict the same images whole."""
    ensemble = run.ensemble(Calibration())
    return [ensemble.predict_raw(batch.image) for batch in run.images("test")]


def assert_equal(found: Sequence[RawPrediction], expected: Sequence[RawPrediction]) -> None:
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.maps, other.maps)


def test_predictions_are_those_of_whole_images(run: Run) -> None:
    assert_equal(passed(run), whole(run))


def test_one_model_object_is_loaded_once_a_tile_and_never_again(run: Run, models: Models) -> None:
    first = passed(run)
    assert models.loaded == [tile.name for tile in run.grid.tiles]
    assert models.made == 1
    assert_equal(passed(run), first)
    assert len(models.loaded) == len(run.grid.tiles)


def test_a_model_is_loaded_once_for_all_its_tiles(run: Run, models: Models) -> None:
    outer, inner = ["r00_c00", "r00_c02", "r01_c00", "r01_c02"], ["r00_c01", "r01_c01"]
    run = replace(run, grid=run.grid.grouped([outer, inner]))
    found = passed(run)
    assert models.loaded == ["r00_c00", "r00_c01"]
    expected = whole(run)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.maps, other.maps)
    models.loaded.clear()
    models.checksums["r00_c01"] = Checksum(1, "second")
    passed(run)
    assert models.loaded == ["r00_c01"], "its two tiles"


def test_a_tile_that_was_trained_again_is_predicted_again(run: Run, models: Models) -> None:
    passed(run)
    models.loaded.clear()
    models.checksums["r01_c01"] = Checksum(1, "second")
    passed(run)
    assert models.loaded == ["r01_c01"]


def keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all predictions be too large to be kept."""
    monkeypatch.setattr(predicting, "KEPT", 0)
    monkeypatch.setattr(predicting, "SHARE_THAT_STAYS", 0)


def trained(run: Run, models: Models) -> None:
    """Predict with models as if they had just been trained."""
    for tile in run.grid.tiles:
        predict_trained(run.job, tile, models.load(tile), torch.device("cpu"))
    models.loaded.clear()


def test_a_model_that_has_just_been_trained_is_not_loaded(run: Run, models: Models) -> None:
    expected = whole(run)  # validation images are test images
    trained(run, models)
    assert_equal(passed(run), expected)
    assert not models.loaded
    [index] = run.folder.predictions.glob("*/index.json")
    assert list(read_json(index)) == [f"{tile.name}.json" for tile in run.grid.tiles]


def test_tensors_have_the_layout_of_a_loaded_model_right_after_training(run: Run, models: Models) -> None:
    """Inverted matrices lie column by column, and last digits of products depend on that."""
    tile = run.grid.tiles[0]
    model = models.load(tile)
    model.register_buffer("turned", torch.rand(2, 3, 4).mT)
    before = model.turned.clone()
    predict_trained(run.job, tile, model, torch.device("cpu"))
    assert model.turned.is_contiguous()
    assert torch.equal(model.turned, before)


@pytest.mark.parametrize("why", ["augmented", "too large"])
def test_a_model_predicts_later_what_is_not_kept(
    run: Run, models: Models, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "augmented":
        run.datamodule.val_augmentations = Identity()
    else:
        keep_nothing(monkeypatch)
    trained(run, models)
    assert not run.folder.predictions.exists()
    expected = whole(run)
    models.loaded.clear()
    assert_equal(passed(run), expected)
    assert models.loaded == [tile.name for tile in run.grid.tiles]


def test_what_tiles_say_is_told(run: Run) -> None:
    told = []
    [(_, predict), *_] = lazy_predictions(run, run.ensemble(Calibration()), "test", run.folder.predictions, "Testing")
    predict(lambda tile, raw: told.append((tile.name, raw.maps.shape)))
    assert told == [(tile.name, (2, 1, 4, 4)) for tile in run.grid.tiles]


def test_too_much_to_be_kept_is_removed_in_the_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = passed(run)
    keep_nothing(monkeypatch)
    shutil.rmtree(run.folder.predictions)
    assert_equal(passed(run), expected)
    assert list(run.folder.predictions.iterdir()) == []


def test_much_is_kept_where_the_disk_is_large_and_still_when_less_is_free(
    run: Run, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = TilePredictions.bytes_for(run.grid, len(run.images("test").samples))
    monkeypatch.setattr(predicting, "KEPT", 0)
    monkeypatch.setattr(predicting.shutil, "disk_usage", lambda _: SimpleNamespace(free=9 * needed))
    passed(run)
    assert list(run.folder.predictions.iterdir()) == []
    monkeypatch.setattr(predicting.shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * needed))
    expected = passed(run)
    models.loaded.clear()
    monkeypatch.setattr(predicting.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * needed))
    assert_equal(passed(run), expected)
    assert not models.loaded


def test_only_what_can_be_used_again_stays(run: Run, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(predicting, "code_of", lambda _: ["an earlier version"])
        passed(run)
    passed(run)
    models.loaded.clear()
    strangers = [run.folder.predictions / name for name in ("notes", ".working")]
    for folder in strangers:
        folder.mkdir()
    assert len(list(run.folder.predictions.iterdir())) == 4
    predicting.remove_outdated(run)
    passed(run)
    assert not models.loaded
    left = set(run.folder.predictions.iterdir())
    assert left > set(strangers)
    assert len(left) == 3


def test_what_killed_processes_have_left_is_removed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_nothing(monkeypatch)
    used = run.folder.predictions / temporary_name("work")
    left = used.with_name(used.name.replace(f"-{os.getpid()}-", "-999999999-"))
    for folder in (left, used):
        folder.mkdir(parents=True)
    passed(run)
    assert list(run.folder.predictions.iterdir()) == [used]


def test_code_that_has_changed_predicts_anew(run: Run, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    passed(run)
    models.loaded.clear()
    monkeypatch.setattr(predicting, "code_of", lambda _: ["another version"])
    passed(run)
    assert models.loaded == [tile.name for tile in run.grid.tiles]


def test_a_model_of_another_package_is_made_anew_for_each_tile(run: Run, models: Models) -> None:
    elsewhere = replace(run.settings.model, class_path="factory.Model")
    run = replace(run, settings=replace(run.settings, model=elsewhere))
    expected = whole(run)
    models.made = 0
    assert_equal(passed(run), expected)
    assert models.made == len(run.grid.tiles)


def test_where_the_disk_is_small_images_are_predicted_in_parts(
    run: Run, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(run)
    models.loaded.clear()
    image = TilePredictions.bytes_for(run.grid, 1)
    monkeypatch.setattr(predicting.shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * 2 * image))
    assert_equal(passed(run), expected)
    assert len(models.loaded) == 2 * len(run.grid.tiles)
    assert list(run.folder.predictions.iterdir()) == []


def test_what_is_there_needs_no_room(run: Run, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = passed(run)
    models.loaded.clear()
    monkeypatch.setattr(predicting.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert_equal(passed(run), expected)
    assert not models.loaded


def test_parts_know_of_masks_what_the_whole_knows(run: Run) -> None:
    images = replace(run.images("test"), batch_size=8)
    [whole_batch] = [batch.gt_mask for batch in images]
    parts = [batch.gt_mask for part in images.parts(2) for batch in part]
    assert len(parts) > 1
    assert torch.equal(torch.cat(parts), whole_batch)


@pytest.mark.parametrize("how", ["augmented", "not in the cache"])
def test_images_that_cannot_be_read_tile_by_tile_are_predicted_whole(run: Run, how: str) -> None:
    expected = whole(run)
    if how == "augmented":
        run.datamodule.test_augmentations = Identity()
    else:
        run = replace(run, source=DecodedFiles(run.grid.image_size, run.split.has_masks))
    assert_equal(passed(run), expected)
    assert not run.folder.predictions.exists()


@dataclass(frozen=True)
class OtherFormat:
    """A format of the image cache that nothing but its own class knows."""

    decoded: DecodedFiles
    fingerprint: str
    scope: Scope = EVERYTHING

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        return self.decoded.image(sample, rows, columns)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        return self.decoded.mask(sample, rows, columns)

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> NDArray[np.bool_] | None:
        return self.decoded.hidden(sample, rows, columns)


def test_another_format_of_the_cache_is_known_by_its_fingerprint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(split: Split, grid: TileGrid, _: Path | None, *, scope: Scope) -> PixelSource:
        return OtherFormat(DecodedFiles(grid.image_size, split.has_masks, scope), "other")

    monkeypatch.setattr("anomalib_tiled.ensemble.run.open_source", opened)
    expected, cached = whole(run), run.job
    run = replace(run, source=DecodedFiles(run.grid.image_size, run.split.has_masks)).with_cache()
    assert run.with_cache() is run, "it is a cache already"
    assert_equal(passed(run), expected)
    kept = PredictionJob(run.job, "test", run.folder.predictions).kept.folder
    assert kept.is_dir()
    assert kept != PredictionJob(cached, "test", run.folder.predictions).kept.folder, (
        "of other pixels, for all it knows"
    )


def test_tiles_that_are_left_out_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting.PredictTile, "__call__", lambda *_, **__: None)
    with pytest.raises(StageError, match="must finish every tile, but left out r00_c00, r00_c01"):
        passed(run)


def test_what_is_unexpected_names_the_tile_and_the_log(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: SavedModels, tile: Tile) -> AnomalibModule:
        message = f"no {tile.name}"
        raise RuntimeError(message)

    monkeypatch.setattr(SavedModels, "load", broken)
    log = run.folder.tile_log(run.grid.tiles[0])
    message = rf"Tile r00_c00 could not be predicted: RuntimeError: no r00_c00 \(log: {log}\)"
    with pytest.raises(TrainingError, match=message):
        passed(run)
    assert "Predicting tile r00_c00 failed." in log.read_text()
    assert not run.folder.log_file.exists(), "several processes would write into it"


def test_what_goes_wrong_with_a_tile_is_raised(run: Run, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SavedModels, "load", lambda *_: models.brightness(float("nan")))
    assert not models.made
    with pytest.raises(StageError, match="The model of tile r00_c00 predicts infinities or NaN"):
        passed(run)


def test_memory_that_runs_out_says_what_to_lower(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(*_: object) -> AnomalibModule:
        message = "CUDA out of memory. Tried to allocate 2 GiB. GPU 3 has 1 GiB."
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr(SavedModels, "load", large)
    with pytest.raises(
        OutOfMemoryError, match=r"GPU 3 ran out .* Lower memory_budget in .* or workers\.init_args\.processes"
    ):
        passed(run)


def test_another_configuration_predicts_anew(run: Run, models: Models) -> None:
    passed(run)
    models.loaded.clear()
    model = replace(run.settings.model, init_args={"layers": ["layer2"]})
    passed(replace(run, settings=replace(run.settings, model=model)))
    assert models.loaded == [tile.name for tile in run.grid.tiles]


def test_other_shared_weights_predict_anew(run: Run, models: Models) -> None:
    shared = run.folder.path / "tiles" / "shared-0a1b.ckpt"
    shared.parent.mkdir(parents=True)
    shared.touch()
    for checksum, loaded in (("0a1b", 6), ("0a1b", 0), ("2c3d", 6)):
        shared = shared.rename(shared.with_name(f"shared-{checksum}.ckpt"))
        models.loaded.clear()
        passed(run)
        assert len(models.loaded) == loaded
