"""How far a run is, and what it says of what failed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from anomalib_tiled import pipeline
from anomalib_tiled.config.settings import CacheSettings, Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_job import TileJob
from anomalib_tiled.errors import (
    ConfigurationError,
    DataError,
    OutOfMemoryError,
    RunFolderError,
    StageError,
    StorageError,
    TrainingError,
    UnfitLocationError,
)
from anomalib_tiled.grid import Tile
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.runs.claims import claim_tile
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.runs.tile_status import tile_statuses
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.locks import locked
from anomalib_tiled.system.temporary import temporary_name
from anomalib_tiled.training import attempts, preparation
from anomalib_tiled.training.training_images import recorded_fingerprint

pytestmark = pytest.mark.usefixtures("unchecked")

TILES = ["r00_c00", "r00_c01", "r00_c02", "r01_c00", "r01_c01", "r01_c02"]


def record(folder: RunFolder, *names: str) -> None:
    """Note tiles as trained."""
    configuration = folder.settings().training_hash
    for tile in grid_of(folder.settings().tiling).tiles:
        if tile.name in names:
            path = folder.checkpoint(tile)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            folder.write_record(tile, TileRecord(1.0, 1, configuration, Checksum.of(path)))


def states(folder: RunFolder) -> list[tuple[str, str]]:
    return [(each.state, each.detail) for each in tile_statuses(folder)]


def test_a_tile_is_missing_done_or_failed(settings: Settings) -> None:
    folder = preparation.prepare(settings).folder
    assert states(folder) == [("missing", "")] * 6
    record(folder, "r00_c01")
    folder.write_failure(tile_statuses(folder)[2].tile, "RuntimeError: out of luck")
    assert states(folder)[:4] == [
        ("missing", ""),
        ("done", ""),
        ("failed", "RuntimeError: out of luck"),
        ("missing", ""),
    ]


def test_a_tile_that_failed_once_and_then_was_trained_is_done(settings: Settings) -> None:
    folder = preparation.prepare(settings).folder
    folder.write_failure(tile_statuses(folder)[2].tile, "RuntimeError: out of luck")
    record(folder, "r00_c02")
    assert states(folder)[2] == ("done", "")


def test_a_tile_whose_scores_do_not_vary_is_named(settings: Settings) -> None:
    folder = preparation.prepare(settings).folder
    record(folder, "r00_c01", "r00_c02")
    content = Calibration(borrowed={"r00_c01": "r00_c02"}).to_json()
    folder.calibration_file.write_text(json.dumps(content))
    detail = "normal scores hardly vary: thresholds and scales from those of r00_c02"
    assert states(folder)[:3] == [("missing", ""), ("done", detail), ("done", "")]
    del content["borrowed"]  # as earlier versions wrote it
    folder.calibration_file.write_text(json.dumps(content))
    assert states(folder)[1] == ("done", "")


def test_a_tile_of_another_configuration_is_not_passed_over(settings: Settings) -> None:
    folder = preparation.prepare(settings).folder
    record(folder, "r00_c02")
    folder.config_file.write_text(replace(folder.settings(), seed_everything=8).to_yaml())
    with pytest.raises(RunFolderError, match=r"Tile r00_c02 in .* was trained with another configuration"):
        tile_statuses(folder)


@pytest.mark.parametrize("damage", ["checkpoint", "record"])
def test_a_damaged_tile_is_shown_among_the_others(settings: Settings, damage: str) -> None:
    folder = preparation.prepare(settings).folder
    record(folder, "r00_c01", "r00_c02")
    tile = tile_statuses(folder)[1].tile
    if damage == "checkpoint":
        folder.checkpoint(tile).write_bytes(b"more")
        expected = f"{folder.checkpoint(tile)} had 0 bytes when it was finished, and has 4 now. Train the tile again: "
    else:
        folder.record_file(tile).write_text("{}")
        expected = f"{folder.record_file(tile)} must hold the record of a trained tile"
    found = states(folder)
    assert [state for state, _ in found] == ["missing", "damaged", "done", "missing", "missing", "missing"]
    assert found[1][1].startswith(expected)


def training_by(monkeypatch: pytest.MonkeyPatch, train: Callable[[TileJob, Tile], None]) -> None:
    """Let a function stand in for the training of a tile."""
    monkeypatch.setattr(pipeline, "TrainAndPredict", lambda job: lambda claimed: train(job, claimed.tile))


def fails(job: TileJob, tile: Tile) -> None:
    """Stand in for the training; all tiles of the first row fail for one reason, one of the second for another."""
    reasons = dict.fromkeys(TILES[:3], "out of luck") | {"r01_c01": "out of money"}
    if tile.name in reasons:
        raise RuntimeError(reasons[tile.name])
    record(job.folder, tile.name)


def test_two_tiles_that_fail_alike_stop_the_others(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    training_by(monkeypatch, fails)
    record(folder, "r01_c00")
    with pytest.raises(TrainingError) as raised:
        pipeline.fit(Run.open(folder), Observers())
    command = f"anomalib tiled fit --ckpt_dir {folder.path}"
    assert str(raised.value) == (
        "2 tiles could not be trained. Training stopped, because 2 failed for the same reason: 1 of 6 tiles are "
        "done, 5 are left.\n"
        f"r00_c00, r00_c01: RuntimeError: out of luck (log: {folder.path / 'logs' / 'r00_c00.log'})\n"
        f"Fix the cause, then resume with `{command}`.\n"
        "If a setting of model, data, trainer or workers is the cause, change it in "
        f"{folder.path / 'config.yaml'}, and train the tiles that are done again: `{command} --tiles r01_c00`.\n"
        f"To try all other tiles anyway: `{command} --keep_going`."
    )
    assert [state for state, _ in states(folder)] == ["failed", "failed", "missing", "done", "missing", "missing"]


def test_all_tiles_are_tried_where_that_is_asked_for_and_failures_gathered_by_their_reasons(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = preparation.prepare(settings).folder
    training_by(monkeypatch, fails)
    with pytest.raises(TrainingError) as raised:
        pipeline.fit(Run.open(folder), Observers(), keep_going=True)
    command = f"anomalib tiled fit --ckpt_dir {folder.path}"
    assert str(raised.value) == (
        "4 tiles could not be trained; all others are done.\n"
        f"r00_c00, r00_c01, r00_c02: RuntimeError: out of luck (log: {folder.path / 'logs' / 'r00_c00.log'})\n"
        f"r01_c01: RuntimeError: out of money (log: {folder.path / 'logs' / 'r01_c01.log'})\n"
        f"Fix the cause, then resume with `{command}`.\n"
        "If a setting of model, data, trainer or workers is the cause, change it in "
        f"{folder.path / 'config.yaml'}, and train the tiles that are done again: "
        f"`{command} --tiles r01_c00,r01_c02`."
    )
    assert [state for state, _ in states(folder)] == ["failed", "failed", "failed", "done", "failed", "done"]
    assert list(read_json(folder.tiles / "index.json")) == ["r01_c00.json", "r01_c02.json"]
    assert not folder.calibration_file.exists()


def of_stopped_worker(name: str) -> str:
    return temporary_name(name).replace(f"-{os.getpid()}-", "-999999999-")


def test_what_stopped_workers_have_half_done_does_not_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder

    def fail(job: TileJob, tile: Tile) -> None:
        (job.folder.path / "tiles" / of_stopped_worker(tile.name)).mkdir(parents=True)
        message = "out of luck"
        raise RuntimeError(message)

    training_by(monkeypatch, fail)
    with pytest.raises(TrainingError, match="Training stopped"):
        pipeline.fit(Run.open(folder), Observers())
    assert {path.name for path in (folder.path / "tiles").iterdir()} == {"r00_c00.failed.json", "r00_c01.failed.json"}


def test_tiles_of_another_configuration_can_be_trained_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the error says that refuses to go on."""
    folder = preparation.prepare(settings).folder
    record(folder, *TILES[:3])
    folder.config_file.write_text(replace(folder.settings(), trainer={"max_epochs": 2}).to_yaml())
    record(folder, TILES[3])
    training_by(monkeypatch, lambda job, tile: record(job.folder, tile.name))
    monkeypatch.setattr(pipeline, "calibrate", lambda _: Calibration())
    monkeypatch.setattr(pipeline, "keep_calibration", lambda *_: None)
    again = ",".join(TILES[:3])
    with pytest.raises(RunFolderError, match=rf"`anomalib tiled fit --ckpt_dir {folder.path} --tiles {again}`"):
        pipeline.fit(Run.open(folder), Observers())
    pipeline.fit(Run.open(folder), Observers(), again.split(","))
    assert states(folder) == [("done", "")] * 6


def test_what_is_wrong_with_the_configuration_is_not_tried_on_every_tile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(job: TileJob, tile: Tile) -> None:
        message = "The model cannot be used."
        raise ConfigurationError(message)

    training_by(monkeypatch, refuse)
    folder = preparation.prepare(settings).folder
    with pytest.raises(ConfigurationError) as raised:
        pipeline.fit(Run.open(folder), Observers())
    assert str(raised.value) == (
        "The model cannot be used.\n"
        f"Fix the cause, then resume with `anomalib tiled fit --ckpt_dir {folder.path}`.\n"
        "If a setting of model, data, trainer or workers is the cause, change it in "
        f"{folder.path / 'config.yaml'}."
    )
    assert [state for state, _ in states(folder)] == ["failed", *["missing"] * 5]


def test_only_missing_tiles_are_trained(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tried = preparation.prepare(settings).folder, []

    def stop(job: TileJob, tile: Tile) -> None:
        tried.append(tile.name)
        raise StorageError

    record(folder, *TILES[:4])
    training_by(monkeypatch, stop)
    with pytest.raises(StorageError):
        pipeline.fit(Run.open(folder), Observers())
    assert tried == ["r01_c01"], "a full disk stops all"


def finished(settings: Settings) -> RunFolder:
    """Give a run as if it were trained and calibrated."""
    folder = preparation.prepare(settings).folder
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
        pipeline.fit(Run.open(folder), Observers(), ["r00_c01"])
    lacking = replace(settings.stages["workers"], init_args={"devices": [7]})
    folder.config_file.write_text(replace(folder.settings(), stages={**settings.stages, "workers": lacking}).to_yaml())
    with pytest.raises(ConfigurationError, match="devices names 7"):
        pipeline.fit(Run.open(folder), Observers(), ["r00_c01"])
    assert {path: path.read_bytes() for path in folder.path.rglob("*.json")} == before
    assert states(folder) == [("done", "")] * 6


def test_a_tile_that_cannot_be_trained_again_stays_and_is_tried_by_the_next_fit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(settings)
    training_by(monkeypatch, fails)
    for again in (["r00_c01", "r01_c01"], []):
        with pytest.raises(TrainingError, match=r"2 tiles could not be trained"):
            pipeline.fit(Run.open(folder), Observers(), again)
        assert folder.calibration_file.exists()
        reasons = {"r00_c01": "RuntimeError: out of luck", "r01_c01": "RuntimeError: out of money"}
        told = dict.fromkeys(TILES, "")
        told |= {name: f"to be trained again; failed: {reason}" for name, reason in reasons.items()}
        assert states(folder) == [("done", detail) for detail in told.values()]


def test_workers_that_do_nothing_have_not_trained_a_tile_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(settings)
    training_by(monkeypatch, lambda job, tile: None)
    with pytest.raises(StageError, match="left out r00_c01"):
        pipeline.fit(Run.open(folder), Observers(), ["r00_c01"])


def test_a_tile_that_is_not_there_cannot_be_trained_again(settings: Settings) -> None:
    folder = finished(settings)
    with pytest.raises(ConfigurationError, match=r"--tiles names 'r1_c1', but the grid has no such tile. Did you mean"):
        pipeline.fit(Run.open(folder), Observers(), ["r00_c01", "r1_c1"])
    assert states(folder) == [("done", "")] * 6, "all or nothing"


def test_a_full_disk_leaves_nothing_half_done(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder

    def fill(job: TileJob, tile: Tile) -> None:
        (job.folder.path / "tiles" / of_stopped_worker(tile.name)).mkdir(parents=True)
        (job.folder.path / "tiles" / of_stopped_worker(f"{tile.name}.ckpt")).touch()
        raise StorageError

    training_by(monkeypatch, fill)
    with pytest.raises(StorageError):
        pipeline.fit(Run.open(folder), Observers())
    assert list((folder.path / "tiles").iterdir()) == []


@pytest.mark.parametrize("which", ["r00_c01.ckpt", "shared-0a1b.ckpt"])
def test_damage_that_keeps_the_size_is_known_before_anything_is_done(settings: Settings, which: str) -> None:
    folder = finished(settings)
    path = folder.path / "tiles" / which
    path.write_bytes(b"one")
    if which.startswith("r"):
        tile = grid_of(folder.settings().tiling).tile("r00_c01")
        folder.write_record(tile, damaged(folder, path))
    for command in (pipeline.fit, partial(pipeline.test, data=None, output=None, report=False)):
        with pytest.raises(RunFolderError, match=f"{which} was changed after it was finished"):
            command(Run.open(folder), Observers())


def damaged(folder: RunFolder, path: Path) -> TileRecord:
    """Give the record of a checkpoint that had other content of the same size."""
    return TileRecord(1.0, 1, folder.settings().training_hash, replace(Checksum.of(path), sha256="0"), modified=1)


def test_tiles_that_saw_other_images_are_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    training_by(monkeypatch, trained_or_full)
    with pytest.raises(StorageError):
        pipeline.fit(Run.open(folder), Observers())
    image = next(sample.image_path for sample in Run.open(folder).split.subset("train"))
    with Image.open(image) as opened:
        opened.rotate(180).save(image)
    with pytest.raises(DataError) as raised:
        pipeline.fit(Run.open(folder), Observers())
    assert str(raised.value) == (
        "All tiles of a run must be trained on the same images, but 1 training images have changed "
        f"({image}) since tiles were trained. Restore the images, or train those tiles again: "
        f"`anomalib tiled fit --ckpt_dir {folder.path} --tiles r00_c00,r00_c01`."
    )
    with pytest.raises(StorageError):
        pipeline.fit(Run.open(folder), Observers(), ["r00_c00", "r00_c01"])


def trained_or_full(job: TileJob, tile: Tile) -> None:
    """Stand in for the training of two tiles; there is no room for a third."""
    if tile.name == "r00_c02":
        raise StorageError
    record(job.folder, tile.name)
    noted = replace(job.folder.record(tile), images=recorded_fingerprint(job.folder))
    job.folder.write_record(tile, noted)


def test_an_altered_configuration_is_refused_before_images_are_decoded_for_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished(replace(settings, cache=CacheSettings()))
    cached = list(folder.settings().cache_directory.iterdir())
    tiling = replace(folder.settings().tiling, image_size=(16, 24))
    folder.config_file.write_text(replace(folder.settings(), tiling=tiling).to_yaml())
    monkeypatch.setattr("anomalib_tiled.workers.local.LocalWorkers.start", lambda _: pytest.fail("workers start"))
    with pytest.raises(RunFolderError, match=r"Tile r00_c00 in .* was trained with another configuration"):
        pipeline.fit(Run.open(folder), Observers())
    assert list(folder.settings().cache_directory.iterdir()) == cached != []


def test_two_fits_in_one_folder(settings: Settings) -> None:
    folder = preparation.prepare(settings).folder
    with (
        locked(folder.path),
        pytest.raises(RunFolderError, match=rf"is being fitted by process {os.getpid()} on {platform.node()} since"),
    ):
        pipeline.fit(Run.open(folder), Observers())


def litters(job: TileJob, tile: Tile) -> None:
    """Stand in for places on another machine, which are killed while they train the second row."""
    (job.folder.path / "tiles" / f".{tile.name}.node7-1-0a1b2c3d.tmp").mkdir(parents=True)
    assert job.folder.claim_file(tile).is_file()
    if tile.row == 1:
        message = "killed"
        raise RuntimeError(message)
    record(job.folder, tile.name)


def test_nothing_of_ended_places_is_left_over(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    training_by(monkeypatch, litters)
    with pytest.raises(TrainingError, match="3 tiles could not be trained"):
        pipeline.fit(Run.open(folder), Observers(), keep_going=True)
    names = {path.name for path in (folder.path / "tiles").iterdir()}
    assert {name.partition(".")[2] for name in names} == {"ckpt", "json", "failed.json"}


def test_a_fit_that_another_machine_has_followed_changes_nothing_more(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was suspended while a tile was trained: its place lost the tile, and says so."""
    folder = preparation.prepare(settings).folder
    left = folder.path / "tiles" / ".r00_c00.node7-1-0a1b2c3d.tmp"

    def overtaken(job: TileJob, tile: Tile) -> None:
        write_json(folder.path / "fit.lock.json", {"host": "node7", "process": 1, "since": "now", "machine": "node7"})
        claim_tile(folder, tile)
        left.touch()
        message = "not mine"
        raise RunFolderError(message)

    training_by(monkeypatch, overtaken)
    with pytest.raises(RunFolderError, match=rf"{folder.path} was taken over by process 1 on node7 since now"):
        pipeline.fit(Run.open(folder), Observers())
    assert {path.name for path in (folder.path / "tiles").iterdir()} == {"r00_c00.claim", left.name}
    assert (folder.path / "fit.lock.json").is_file()


def test_what_another_machine_has_written_is_seen_though_it_was_missing_before(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS remembers which files were missing until the folder is changed from this machine."""
    folder, is_file = preparation.prepare(settings).folder, Path.is_file
    missing = {folder.tiles / f"{name}{ending}" for name in TILES for ending in (".ckpt", ".json")}

    def remembered(path: Path) -> bool:
        return is_file(path) and path not in missing

    def changed(tiles: Path) -> None:
        assert tiles == folder.tiles
        missing.clear()

    def looked_at_before(job: TileJob, tile: Tile) -> None:
        assert not job.folder.has_record(tile)
        record(job.folder, tile.name)

    monkeypatch.setattr(Path, "is_file", remembered)
    training_by(monkeypatch, looked_at_before)
    monkeypatch.setattr(pipeline, "calibrate", lambda _: Calibration())
    monkeypatch.setattr(attempts, "refresh", lambda _: None)
    with pytest.raises(StageError, match="must finish every tile, but left out r00_c00"):
        pipeline.fit(Run.open(folder), Observers())
    monkeypatch.setattr(attempts, "refresh", changed)
    pipeline.fit(Run.open(folder), Observers())
    assert {state for state, _ in states(folder)} == {"done"}


def test_without_test_images_there_is_nothing_to_measure(settings: Settings) -> None:
    arguments = {name: settings.data.init_args[name] for name in ("name", "root", "normal_dir", "num_workers")}
    training_only = {**arguments, "test_split_mode": "none", "val_split_mode": "none"}
    run = preparation.prepare(replace(settings, data=replace(settings.data, init_args=training_only)))
    with pytest.raises(
        DataError, match=r"There must be test images, but there are none\. Set the data module's test_s"
    ):
        pipeline.test(run, Observers(), data=None, output=None, report=False)


@pytest.mark.parametrize("command", ["calibrate", "_measure"])
def test_a_lack_of_memory_beside_the_training_says_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    folder = preparation.prepare(settings).folder
    training_by(monkeypatch, lambda job, tile: record(job.folder, tile.name))
    monkeypatch.setattr(pipeline, command, lambda *_, **__: torch.empty(2**60))
    run = {
        "calibrate": lambda: pipeline.fit(Run.open(folder), Observers()),
        "_measure": lambda: pipeline.test(Run.open(folder), Observers(), data=None, output=None, report=False),
    }
    with pytest.raises(OutOfMemoryError, match=r"Lower memory_budget in .* or workers\.init_args\.processes\.$"):
        run[command]()


def fails_at(*names: str, blank: bool = True, others: str | None = None) -> Callable[[TileJob, Tile], None]:
    """Stand in for a model that cannot be fitted on some tiles, and for another failure on one."""

    def train(job: TileJob, tile: Tile) -> None:
        if tile.name in names:
            error = UnfitLocationError("Padim cannot be fitted on these tiles: singular")
            error.blank = blank
            raise error
        if tile.name == others:
            message = "out of luck"
            raise RuntimeError(message)
        record(job.folder, tile.name)

    return train


NOTE = "tiles are left out: {} (Padim cannot be fitted on these tiles: singular). {} are not inspected: no defect"


def fitted(monkeypatch: pytest.MonkeyPatch, folder: RunFolder, train: object, again: Sequence[str] = ()) -> list[str]:
    """Fit, and give the names of the tiles that calibration knows, and what is noted."""
    calibrated: list[str] = []

    def calibrate(run: Run) -> Calibration:
        calibrated.extend(tile.name for tile in run.grid.tiles)
        return Calibration(notes=("learned",))

    training_by(monkeypatch, train)
    monkeypatch.setattr(pipeline, "calibrate", calibrate)
    notes = pipeline.fit(Run.open(folder), Observers(), again).notes
    return [*calibrated, *notes]


def test_locations_on_which_the_model_cannot_be_fitted_are_left_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = preparation.prepare(settings).folder
    *tiles, note, learned = fitted(monkeypatch, folder, fails_at("r00_c00", "r01_c00"))
    assert tiles == ["r00_c01", "r00_c02", "r01_c01", "r01_c02"]
    assert note.startswith("2 of 6 " + NOTE.format("r00_c00, r01_c00", "32 pixels of an image (33.3 %)"))
    assert learned == "learned"
    reason = "Padim cannot be fitted on these tiles: singular"
    assert states(folder) == [("left out", reason), ("done", ""), ("done", "")] * 2
    left_out = grid_of(folder.settings().tiling).locations[0]
    assert read_json(folder.left_out_file(left_out)) == {
        "error": reason,
        "configuration": folder.settings().training_hash,
    }
    assert folder.failure(left_out) is None


def never(job: TileJob, tile: Tile) -> None:
    pytest.fail(f"{tile.name} is trained again")


def test_a_location_that_is_left_out_is_settled(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    said = fitted(monkeypatch, folder, fails_at("r00_c00"))
    assert fitted(monkeypatch, folder, never) == said


def test_it_may_be_tried_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    said = fitted(monkeypatch, folder, fails_at("r00_c00"))
    assert fitted(monkeypatch, folder, fails_at("r00_c00"), ["r00_c00"]) == said
    with pytest.raises(TrainingError, match="out of luck"):
        fitted(monkeypatch, folder, fails_at(others="r00_c00"), ["r00_c00"])
    state, detail = states(folder)[0]
    assert (state, detail.partition(";")[0]) == ("left out", "to be trained again")
    *tiles, note = fitted(monkeypatch, folder, fails_at())
    assert (tiles, note) == (TILES, "learned")
    assert states(folder) == [("done", "")] * 6


def test_a_fit_that_was_stopped_knows_what_it_has_tried(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    unfit = fails_at("r00_c00")

    def stopped(job: TileJob, tile: Tile) -> None:
        if tile.name == "r00_c02":
            raise KeyboardInterrupt
        unfit(job, tile)

    with pytest.raises(KeyboardInterrupt):
        fitted(monkeypatch, folder, stopped)
    assert states(folder)[0] == ("failed", "Padim cannot be fitted on these tiles: singular")
    *tiles, note, _ = fitted(monkeypatch, folder, unfit)
    assert tiles == TILES[1:]
    assert note.startswith("1 of 6 tiles are left out: r00_c00")


def failure(monkeypatch: pytest.MonkeyPatch, folder: RunFolder, train: object, again: Sequence[str] = ()) -> list[str]:
    """Fit, and give the lines of the error, but the first."""
    with pytest.raises(TrainingError) as raised:
        fitted(monkeypatch, folder, train, again)
    assert not any("left out" in state for state, _ in states(folder))
    return str(raised.value).splitlines()[1:]


def test_locations_are_not_left_out_where_they_are_not_to_blame(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = preparation.prepare(settings).folder
    cause = f"r00_c00: Padim cannot be fitted on these tiles: singular (log: {folder.path / 'logs' / 'r00_c00.log'})"
    others = f"r00_c01: RuntimeError: out of luck (log: {folder.path / 'logs' / 'r00_c01.log'})"
    assert failure(monkeypatch, folder, fails_at("r00_c00", others="r00_c01"))[:2] == [cause, others]
    all_fail = failure(monkeypatch, preparation.prepare(settings).folder, fails_at(*TILES))
    assert all_fail[1].startswith("No tile could be fitted, so the cause is the model")
    most_fail = failure(monkeypatch, preparation.prepare(settings).folder, fails_at(*TILES[2:], blank=False))
    assert most_fail[1].startswith("4 tiles that are not blank could not be fitted, and only 2 could, so the cause is")


def test_a_tile_that_has_a_model_keeps_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings).folder
    fitted(monkeypatch, folder, fails_at())
    failure(monkeypatch, folder, fails_at("r00_c00"), ["r00_c00"])
    assert states(folder)[0][0] == "done"


def test_leaving_out_may_be_forbidden(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(replace(settings, unfitted_tiles="error")).folder
    lines = failure(monkeypatch, folder, fails_at("r00_c00"))
    assert lines[1] == "To leave out the locations where the model cannot be fitted, set unfitted_tiles: leave_out."
    folder.config_file.write_text(replace(folder.settings(), unfitted_tiles="leave_out").to_yaml())
    assert fitted(monkeypatch, folder, fails_at("r00_c00"))[:-2] == TILES[1:]
    folder.config_file.write_text(replace(folder.settings(), unfitted_tiles="error").to_yaml())
    failure(monkeypatch, folder, fails_at("r00_c00"))


def test_a_location_that_was_left_out_with_another_configuration_is_tried(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = preparation.prepare(settings).folder
    fitted(monkeypatch, folder, fails_at(*TILES[1:]))
    record_file = folder.record_file(grid_of(folder.settings().tiling).locations[0])
    record_file.unlink()
    folder.config_file.write_text(replace(folder.settings(), seed_everything=8).to_yaml())
    assert states(folder) == [("missing", "")] * 6
    assert fitted(monkeypatch, folder, fails_at()) == [*TILES, "learned"]
