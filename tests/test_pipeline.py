"""How far a run is, and what it says of what failed."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from anomalib_tiled import pipeline, preparation
from anomalib_tiled.calibration import Calibration
from anomalib_tiled.config import CacheSettings, Settings
from anomalib_tiled.errors import (
    ConfigurationError,
    DataError,
    OutOfMemoryError,
    RunFolderError,
    StageError,
    StorageError,
    TrainingError,
)
from anomalib_tiled.grid import Tile
from anomalib_tiled.layout import grid_of
from anomalib_tiled.lock import locked
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.run import Run
from anomalib_tiled.run_folder import RunFolder, TileRecord
from anomalib_tiled.seals import Seal
from anomalib_tiled.training.seen_images import noted_fingerprint

TILES = ["r00_c00", "r00_c01", "r00_c02", "r01_c00", "r01_c01", "r01_c02"]


def record(folder: RunFolder, *names: str) -> None:
    """Note tiles as trained."""
    configuration = folder.settings().training_hash
    for tile in grid_of(folder.settings().tiling).tiles:
        if tile.name in names:
            path = folder.checkpoint(tile)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            folder.write_record(tile, TileRecord(1.0, 1, configuration, Seal.of(path)))


def states(folder: RunFolder) -> list[tuple[str, str]]:
    return [(each.state, each.detail) for each in pipeline.status(folder)]


def test_a_tile_is_missing_done_or_failed(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    assert states(folder) == [("missing", "")] * 6
    record(folder, "r00_c01")
    folder.write_failure(pipeline.status(folder)[2].tile, "RuntimeError: out of luck")
    assert states(folder)[:4] == [
        ("missing", ""),
        ("done", ""),
        ("failed", "RuntimeError: out of luck"),
        ("missing", ""),
    ]


def test_a_tile_that_failed_once_and_then_was_trained_is_done(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    folder.write_failure(pipeline.status(folder)[2].tile, "RuntimeError: out of luck")
    record(folder, "r00_c02")
    assert states(folder)[2] == ("done", "")


def test_a_tile_of_another_configuration_is_not_passed_over(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    record(folder, "r00_c02")
    folder.config_file.write_text(replace(folder.settings(), seed_everything=8).to_yaml())
    with pytest.raises(RunFolderError, match=r"Tile r00_c02 in .* was trained with another configuration"):
        pipeline.status(folder)


def fails(run: Run, tile: Tile) -> None:
    """Stand in for the training; all tiles of the first row fail for one reason, one of the second for another."""
    reasons = dict.fromkeys(TILES[:3], "out of luck") | {"r01_c01": "out of money"}
    if tile.name in reasons:
        raise RuntimeError(reasons[tile.name])
    record(run.folder, tile.name)


def test_two_tiles_that_fail_alike_stop_the_others(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings)
    monkeypatch.setattr(pipeline, "train_tile", fails)
    record(folder, "r01_c00")
    with pytest.raises(TrainingError) as raised:
        pipeline.fit(folder, Observers())
    command = f"anomalib tiled fit --ckpt_dir {folder.path}"
    assert str(raised.value) == (
        "2 tiles could not be trained, and no other is tried, because 2 failed for the same reason: 1 of 6 tiles are "
        "done, 5 are left.\n"
        f"r00_c00, r00_c01: RuntimeError: out of luck (log: {folder.path / 'logs' / 'r00_c00.log'})\n"
        f"Fix the cause, then go on with `{command}`.\n"
        "If a setting of the model, the data or the trainer is the cause, change it in "
        f"{folder.path / 'config.yaml'}, and train the tiles that are done again: `{command} --tiles r01_c00`.\n"
        f"To try all other tiles all the same: `{command} --keep_going`."
    )
    assert [state for state, _ in states(folder)] == ["failed", "failed", "missing", "done", "missing", "missing"]


def test_all_tiles_are_tried_where_that_is_asked_for_and_failures_gathered_by_their_reasons(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = preparation.prepare(settings)
    monkeypatch.setattr(pipeline, "train_tile", fails)
    with pytest.raises(TrainingError) as raised:
        pipeline.fit(folder, Observers(), keep_going=True)
    command = f"anomalib tiled fit --ckpt_dir {folder.path}"
    assert str(raised.value) == (
        "4 tiles could not be trained; all others are done.\n"
        f"r00_c00, r00_c01, r00_c02: RuntimeError: out of luck (log: {folder.path / 'logs' / 'r00_c00.log'})\n"
        f"r01_c01: RuntimeError: out of money (log: {folder.path / 'logs' / 'r01_c01.log'})\n"
        f"Fix the cause, then go on with `{command}`.\n"
        "If a setting of the model, the data or the trainer is the cause, change it in "
        f"{folder.path / 'config.yaml'}, and train the tiles that are done again: "
        f"`{command} --tiles r01_c00,r01_c02`."
    )
    assert [state for state, _ in states(folder)] == ["failed", "failed", "failed", "done", "failed", "done"]
    assert not folder.calibration_file.exists()


def test_what_stopped_workers_have_half_done_does_not_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings)

    def fail(run: Run, tile: Tile) -> None:
        (run.folder.path / "tiles" / f".{tile.name}").mkdir(parents=True)
        message = "out of luck"
        raise RuntimeError(message)

    monkeypatch.setattr(pipeline, "train_tile", fail)
    with pytest.raises(TrainingError, match="no other is tried"):
        pipeline.fit(folder, Observers())
    assert {path.name for path in (folder.path / "tiles").iterdir()} == {"r00_c00.failed.json", "r00_c01.failed.json"}


def test_tiles_of_another_configuration_can_be_trained_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error says that refuses to go on."""
    folder = preparation.prepare(settings)
    record(folder, *TILES[:3])
    folder.config_file.write_text(replace(folder.settings(), trainer={"max_epochs": 2}).to_yaml())
    record(folder, TILES[3])
    monkeypatch.setattr(pipeline, "train_tile", lambda run, tile: record(run.folder, tile.name))
    monkeypatch.setattr(pipeline, "calibrate", lambda _: Calibration())
    monkeypatch.setattr(pipeline, "keep_calibration", lambda *_: None)
    again = ",".join(TILES[:3])
    with pytest.raises(RunFolderError, match=rf"`anomalib tiled fit --ckpt_dir {folder.path} --tiles {again}`"):
        pipeline.fit(folder, Observers())
    pipeline.fit(folder, Observers(), again.split(","))
    assert states(folder) == [("done", "")] * 6


def test_what_is_wrong_with_the_configuration_is_not_tried_on_every_tile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Run, tile: Tile) -> None:
        message = "The model cannot be used."
        raise ConfigurationError(message)

    monkeypatch.setattr(pipeline, "train_tile", refuse)
    folder = preparation.prepare(settings)
    with pytest.raises(ConfigurationError) as raised:
        pipeline.fit(folder, Observers())
    assert str(raised.value) == (
        "The model cannot be used.\n"
        f"Fix the cause, then go on with `anomalib tiled fit --ckpt_dir {folder.path}`.\n"
        "If a setting of the model, the data or the trainer is the cause, change it in "
        f"{folder.path / 'config.yaml'}."
    )
    assert [state for state, _ in states(folder)] == ["failed", *["missing"] * 5]


def test_only_missing_tiles_are_trained(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tried = preparation.prepare(settings), []

    def stop(run: Run, tile: Tile) -> None:
        tried.append(tile.name)
        raise StorageError

    record(folder, *TILES[:4])
    monkeypatch.setattr(pipeline, "train_tile", stop)
    with pytest.raises(StorageError):
        pipeline.fit(folder, Observers())
    assert tried == ["r01_c01"], "a full disk stops all"


def finished(settings: Settings) -> RunFolder:
    """Give a run as if it were trained and calibrated."""
    folder = preparation.prepare(settings)
    record(folder, *TILES)
    folder.calibration_file.write_text("{}")
    return folder


@pytest.mark.parametrize("cache", [None, CacheSettings()])
def test_what_cannot_be_fitted_again_stays_as_it_is(
    settings: Settings, image_folder: Path, cache: CacheSettings | None
) -> None:
    folder = finished(replace(settings, cache=cache))
    before = {path: path.read_bytes() for path in folder.path.rglob("*.json")}
    for path in (image_folder / "good").iterdir():
        path.rename(image_folder / path.name)
    with pytest.raises(DataError, match=r"\.png is missing"):
        pipeline.fit(folder, Observers(), ["r00_c01"])
    lacking = replace(settings.workers, init_args={"devices": [7]})
    folder.config_file.write_text(replace(folder.settings(), workers=lacking).to_yaml())
    with pytest.raises(ConfigurationError, match="devices names 7"):
        pipeline.fit(folder, Observers(), ["r00_c01"])
    assert {path: path.read_bytes() for path in folder.path.rglob("*.json")} == before
    assert states(folder) == [("done", "")] * 6


def test_a_tile_that_cannot_be_trained_again_stays_and_is_tried_by_the_next_fit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(settings)
    monkeypatch.setattr(pipeline, "train_tile", fails)
    for again in (["r00_c01", "r01_c01"], []):
        with pytest.raises(TrainingError, match=r"2 tiles could not be trained"):
            pipeline.fit(folder, Observers(), again)
        assert folder.calibration_file.exists()
        reasons = {"r00_c01": "RuntimeError: out of luck", "r01_c01": "RuntimeError: out of money"}
        told = dict.fromkeys(TILES, "")
        told |= {name: f"to be trained again; failed: {reason}" for name, reason in reasons.items()}
        assert states(folder) == [("done", detail) for detail in told.values()]


def test_workers_that_do_nothing_have_not_trained_a_tile_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(settings)
    monkeypatch.setattr(pipeline, "train_tile", lambda run, tile: None)
    with pytest.raises(StageError, match="left out r00_c01"):
        pipeline.fit(folder, Observers(), ["r00_c01"])


def test_a_tile_that_is_not_there_cannot_be_trained_again(settings: Settings) -> None:
    folder = finished(settings)
    with pytest.raises(ConfigurationError, match=r"--tiles names 'r1_c1', but the grid has no such tile. Did you mean"):
        pipeline.fit(folder, Observers(), ["r00_c01", "r1_c1"])
    assert states(folder) == [("done", "")] * 6, "all or nothing"


def test_a_full_disk_leaves_nothing_half_done(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings)

    def fill(run: Run, tile: Tile) -> None:
        (run.folder.path / "tiles" / f".{tile.name}").mkdir(parents=True)
        (run.folder.path / "tiles" / f".{tile.name}.ckpt.tmp").touch()
        raise StorageError

    monkeypatch.setattr(pipeline, "train_tile", fill)
    with pytest.raises(StorageError):
        pipeline.fit(folder, Observers())
    assert list((folder.path / "tiles").iterdir()) == []


@pytest.mark.parametrize("which", ["r00_c01.ckpt", "shared-0a1b.ckpt"])
def test_damage_that_keeps_the_size_is_known_before_anything_is_done(settings: Settings, which: str) -> None:
    folder = finished(settings)
    path = folder.path / "tiles" / which
    path.write_bytes(b"one")
    if which.startswith("r"):
        tile = grid_of(folder.settings().tiling).tile("r00_c01")
        folder.write_record(tile, damaged(folder, path))
    for command in (pipeline.fit, partial(pipeline.test, data=None, output=None)):
        with pytest.raises(RunFolderError, match=f"{which} was altered after it was finished"):
            command(folder, Observers())


def damaged(folder: RunFolder, path: Path) -> TileRecord:
    """Give the record of a checkpoint that had other content of the same size."""
    return TileRecord(1.0, 1, folder.settings().training_hash, replace(Seal.of(path), sha256="0"), modified=1)


def test_tiles_that_saw_other_images_are_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings)
    monkeypatch.setattr(pipeline, "train_tile", trained_or_full)
    with pytest.raises(StorageError):
        pipeline.fit(folder, Observers())
    image = next(sample.image_path for sample in Run.open(folder).split.subset("train"))
    with Image.open(image) as opened:
        opened.rotate(180).save(image)
    with pytest.raises(DataError) as raised:
        pipeline.fit(folder, Observers())
    assert str(raised.value) == (
        "All tiles of a run must be trained on the same images, but 1 training images have changed "
        f"({image}) since tiles were trained. Put them back as they were, or train those tiles again: "
        f"`anomalib tiled fit --ckpt_dir {folder.path} --tiles r00_c00,r00_c01`."
    )
    with pytest.raises(StorageError):
        pipeline.fit(folder, Observers(), ["r00_c00", "r00_c01"])


def trained_or_full(run: Run, tile: Tile) -> None:
    """Stand in for the training of two tiles; there is no room for a third."""
    if tile.name == "r00_c02":
        raise StorageError
    record(run.folder, tile.name)
    noted = replace(run.folder.record(tile), images=noted_fingerprint(run.folder))
    run.folder.write_record(tile, noted)


def test_an_altered_configuration_is_refused_before_images_are_decoded_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(replace(settings, cache=CacheSettings()))
    cached = list(folder.settings().cache_directory.iterdir())
    tiling = replace(folder.settings().tiling, image_size=(16, 24))
    folder.config_file.write_text(replace(folder.settings(), tiling=tiling).to_yaml())
    monkeypatch.setattr("anomalib_tiled.training.workers.LocalWorkers.start", lambda _: pytest.fail("workers start"))
    with pytest.raises(RunFolderError, match=r"Tile r00_c00 in .* was trained with another configuration"):
        pipeline.fit(folder, Observers())
    assert list(folder.settings().cache_directory.iterdir()) == cached != []


def test_two_fits_in_one_folder(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    with (
        locked(folder.path),
        pytest.raises(RunFolderError, match=rf"is being fitted by process {os.getpid()} on {platform.node()} since"),
    ):
        pipeline.fit(folder, Observers())


def test_without_test_images_there_is_nothing_to_measure(settings: Settings) -> None:
    arguments = {name: settings.data.init_args[name] for name in ("name", "root", "normal_dir", "num_workers")}
    training_only = {**arguments, "test_split_mode": "none", "val_split_mode": "none"}
    folder = preparation.prepare(replace(settings, data=replace(settings.data, init_args=training_only)))
    with pytest.raises(
        DataError, match=r"There must be test images, but there are none\. Set the data module's test_s"
    ):
        pipeline.test(folder, Observers(), data=None, output=None)


@pytest.mark.parametrize("command", ["calibrate", "_test"])
def test_a_lack_of_memory_beside_the_training_says_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = preparation.prepare(settings)
    monkeypatch.setattr(pipeline, "train_tile", lambda run, tile: record(run.folder, tile.name))
    monkeypatch.setattr(pipeline, command, lambda *_: torch.empty(2**60))
    run = {
        "calibrate": lambda: pipeline.fit(folder, Observers()),
        "_test": lambda: pipeline.test(folder, Observers(), data=None, output=None),
    }
    with pytest.raises(OutOfMemoryError, match=r"Lower memory_budget in .* or workers\.init_args\.processes\.$"):
        run[command]()
