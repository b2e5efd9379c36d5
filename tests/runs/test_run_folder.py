from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.temporary import temporary_name

GRID = TileGrid(Size(4, 8), Size(4, 4), Size(4, 4))
FIRST, SECOND = GRID.tiles
Forbid = Callable[[Path], AbstractContextManager[None]]
EMPTY = Checksum(0, "cae66941d9efbd404e4d88758ea67670")


@pytest.fixture
def settings(configuration: dict[str, object]) -> Settings:
    return Settings.from_mapping(configuration)


@pytest.fixture
def run(tmp_path: Path, settings: Settings, make_run: Callable[[Path, Settings], RunFolder]) -> RunFolder:
    return make_run(tmp_path / "v0", settings)


def trained(run: RunFolder, record: TileRecord) -> None:
    run.write_record(FIRST, record)
    run.checkpoint(FIRST).touch()


def test_a_run_keeps_its_configuration(run: RunFolder, settings: Settings) -> None:
    assert RunFolder.open(run.path).settings() == settings


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"there is no folder {tmp_path / 'v7'}"):
        RunFolder.open(tmp_path / "v7")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"{tmp_path} has no config.yaml. `anomalib tiled fit` prints the folder"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("name", ["logs", "predictions"])
def test_a_folder_that_leads_out_of_the_run_is_refused(run: RunFolder, tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (run.path / name).symlink_to(tmp_path / "home")
    with pytest.raises(RunFolderError, match=rf"{name} must be a folder, but is a link that leads out .* to .*home\."):
        RunFolder.open(run.path)
    (run.path / name).unlink()
    (run.path / "inside").mkdir()
    (run.path / name).symlink_to("inside")
    assert RunFolder.open(run.path) == run


def test_what_must_not_be_read_is_named(
    shared_folder: Path, settings: Settings, forbidden: Forbid, make_run: Callable[[Path, Settings], RunFolder]
) -> None:
    run = make_run(shared_folder / "runs" / "v0", settings)
    run.split_file.write_text("subset\n")
    run.note_checksum(run.split_file)
    for path, read in {
        run.path.parent: lambda: RunFolder.open(run.path),
        run.config_file: run.settings,
        run.split_file: lambda: run.read(run.split_file, ""),
        run.checksums_file: lambda: run.read(run.split_file, ""),
    }.items():
        with forbidden(path), pytest.raises(RunFolderError, match=rf"{path}.* cannot be read.*ermission"):
            read()


def test_a_link_that_leads_in_a_circle_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(RunFolderError, match="there is no folder"):
        RunFolder.open(tmp_path / "round")


def test_a_mount_keeps_its_name_and_latest_stands_for_the_run(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mount").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "latest").symlink_to("./v0")
    (tmp_path / "mine").symlink_to(tmp_path / "mount" / "latest")
    monkeypatch.chdir(tmp_path)
    for name in ("mount/v0", "mount/latest", "mine"):
        assert RunFolder.open(Path(name)).path == tmp_path / "mount" / "v0"
    assert RunFolder.open(tmp_path / "latest").path == run.path


@pytest.mark.parametrize("content", [b"tiling: [", b"", b"tilling: {}", b"m: \xfc", b"seed_everything: 2024-13-45"])
def test_a_configuration_that_was_changed(run: RunFolder, content: bytes) -> None:
    run.config_file.write_bytes(content)
    with pytest.raises(RunFolderError) as raised:
        run.settings()
    assert str(raised.value).startswith(f"{run.config_file} cannot be used any more: ")
    assert str(raised.value).endswith(" Restore it, or fit a new run.")


def test_a_tile_is_done_once_record_and_checkpoint_are_there(run: RunFolder, settings: Settings) -> None:
    assert run.missing(GRID, settings) == (FIRST, SECOND)
    run.checkpoint(FIRST).parent.mkdir()
    run.checkpoint(FIRST).touch()
    assert not run.is_done(FIRST, run.settings().training_hash), "without a record it is not"
    run.checkpoint(FIRST).unlink()
    run.write_record(FIRST, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    assert not run.is_done(FIRST, run.settings().training_hash), "without a checkpoint it is not"
    run.checkpoint(FIRST).touch()
    assert run.is_done(FIRST, run.settings().training_hash)
    assert run.missing(GRID, settings) == (SECOND,)


def test_a_tile_that_was_trained_with_another_configuration(run: RunFolder, settings: Settings) -> None:
    trained(run, TileRecord(1.5, 1, "0123456789abcdef", EMPTY))
    message = f"Tile r00_c00 in {run.path} was trained with another configuration .* --tiles r00_c00`"
    with pytest.raises(RunFolderError, match=message):
        run.missing(GRID, settings)


def test_the_threads_of_earlier_tiles_are_known(run: RunFolder, settings: Settings) -> None:
    assert run.threads(GRID) is None
    run.write_record(SECOND, TileRecord(1.5, 1, settings.training_hash, EMPTY, threads=3))
    assert run.threads(GRID) == 3
    assert run.record(SECOND).threads == 3


def test_a_folder_that_was_seen_says_what_was_so_then(run: RunFolder, settings: Settings) -> None:
    all_trained(run, settings)
    run.write_index(GRID)
    seen = run.seen()
    assert seen == run
    assert seen.seen() is seen
    run.forget(SECOND)
    assert [seen.has_record(tile) for tile in GRID.tiles] == [True, True]
    assert [run.seen().has_record(tile) for tile in GRID.tiles] == [True, False]
    assert seen.record(FIRST) == run.record(FIRST)
    assert seen.state(FIRST) == run.state(FIRST)


def test_many_tiles_are_looked_at_together(run: RunFolder, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    all_trained(run, settings)
    run.write_index(GRID)
    looks: list[Path] = []
    files: set[str] = set()
    scandir, stat = os.scandir, Path.stat
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda path: looks.append(path) or scandir(path))
        patched.setattr(Path, "stat", lambda path, **options: files.add(path.name) or stat(path, **options))
        for look in (run.missing, run.to_train, run.left_out):
            look(GRID, settings)
        run.threads(GRID)
    assert files == {"index.json"}, "no file of a tile is looked at by itself"
    assert looks == [run.tiles] * 4


def test_a_failure_is_remembered_until_the_tile_is_trained(run: RunFolder, settings: Settings) -> None:
    assert run.failure(FIRST) is None
    run.write_failure(FIRST, "out of memory")
    assert run.failure(FIRST) == "out of memory"
    assert run.failure(SECOND) is None
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    assert run.failure(FIRST) is None


def test_records_of_earlier_versions_say_nothing_of_the_machine(run: RunFolder, settings: Settings) -> None:
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY, host="node-7", device="cuda:0 NVIDIA H100"))
    content = read_json(run.record_file(FIRST))
    assert (run.record(FIRST).host, run.record(FIRST).device) == ("node-7", "cuda:0 NVIDIA H100")
    del content["host"], content["device"]
    write_json(run.record_file(FIRST), content)
    assert (run.record(FIRST).host, run.record(FIRST).device) == (None, None)


@pytest.mark.parametrize("record", ["{}", '{"seconds": 1, "epochs": 1, "configuration": "", "checkpoint": {}}'])
def test_a_record_without_a_checksum(run: RunFolder, settings: Settings, record: str) -> None:
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    run.record_file(FIRST).write_text(record)
    with pytest.raises(RunFolderError, match=r"r00_c00.json must hold .* Delete it, and train the tile again"):
        run.record(FIRST)


def all_trained(run: RunFolder, settings: Settings) -> None:
    """Note all tiles as trained."""
    for tile in GRID.tiles:
        path = run.checkpoint(tile)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        modified = path.stat().st_mtime_ns
        run.write_record(tile, TileRecord(1.5, 1, settings.training_hash, Checksum.of(path), modified))


def test_a_tile_that_is_to_be_trained_again_can_be_used_until_then(run: RunFolder, settings: Settings) -> None:
    all_trained(run, settings)
    write_json(run.calibration_file, {})
    assert run.to_train(GRID, settings) == ()
    run.mark_for_training([SECOND])
    assert run.to_train(GRID, settings) == (SECOND,)
    assert run.missing(GRID, settings) == ()
    assert run.calibration_file.exists()
    run.write_record(SECOND, run.record(SECOND))
    assert run.to_train(GRID, settings) == ()


def test_a_tile_that_is_forgotten_is_missing(run: RunFolder, settings: Settings) -> None:
    all_trained(run, settings)
    write_json(run.calibration_file, {})
    run.validation_scores_file.touch()
    (run.path / "metrics.json").touch()
    run.forget(SECOND)
    assert run.missing(GRID, settings) == (SECOND,)
    assert not run.calibration_file.exists(), "it was learned from the tile as it was"
    assert not run.validation_scores_file.exists()
    assert not (run.path / "metrics.json").exists()


def test_what_killed_commands_have_left_is_removed(run: RunFolder, settings: Settings, tmp_path: Path) -> None:
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    dead, alive = (temporary_name("any").replace(f"-{os.getpid()}-", f"-{n}-") for n in (999999999, os.getppid()))
    for folder in ("", "tiles", "raw", "raw/set", "images/bad"):
        (run.path / folder).mkdir(parents=True, exist_ok=True)
        for name in (dead, alive):
            (run.path / folder / name).touch()
    (run.path / "tiles" / dead.replace("any", "r00_c01") / "lightning").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / dead).touch()
    (run.path / "raw" / "linked").symlink_to(tmp_path / "home")
    run.clean_up()
    assert (tmp_path / "home" / dead).is_file()
    assert {path.name for path in run.path.rglob(".*.tmp")} == {alive}
    assert {path.name for path in (run.path / "tiles").iterdir()} == {"r00_c00.ckpt", "r00_c00.json", alive}


def test_what_places_on_other_machines_have_left_is_removed_once_they_have_ended(run: RunFolder) -> None:
    names = ("tiles/.r00_c00.node7-1-0a1b2c3d.tmp", "raw/0a/.r00_c00.maps.node7-1-0a1b2c3d.tmp")
    left = [run.path / name for name in names]
    other = run.path / "images" / left[0].name
    for path in (*left, other):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    mine = run.path / "tiles" / temporary_name("mine")
    mine.touch()
    run.clean_up()
    assert all(path.exists() for path in left)
    run.clean_up(everywhere=True)
    assert not any(path.exists() for path in left)
    assert other.exists(), "no place writes there"
    assert mine.exists(), "its process is at work"


def test_each_process_has_a_folder_of_its_own_for_its_exchange(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = run.exchange
    assert mine == RunFolder(run.path).exchange
    mine.mkdir()
    monkeypatch.setattr(os, "getpid", lambda: 999999999)
    (dead := run.exchange).mkdir()
    assert mine != dead
    run.clean_up()
    assert mine.is_dir()
    assert not dead.exists()


def test_a_file_is_compared_to_what_it_was(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"split.csv is missing. Look for it."):
        run.read(run.split_file, "Look for it.")
    run.split_file.write_text("subset\n")
    with pytest.raises(RunFolderError, match=r"seals.json has no checksum of split.csv. Look at it."):
        run.read(run.split_file, "Look at it.")
    write_json(run.checksums_file, {run.split_file.name: {"size": 7}})
    with pytest.raises(RunFolderError, match=r"seals.json has no checksum of split.csv"):
        run.read(run.split_file, "")
    run.note_checksum(run.split_file)
    run.read(run.split_file, "All is well.")
    run.split_file.write_text("subsets\n")
    with pytest.raises(RunFolderError, match=r"split.csv had 7 bytes when it was finished, and has 8 now. Restore it."):
        run.read(run.split_file, "Restore it.")


def test_unreadable_checksums_must_not_be_deleted(run: RunFolder) -> None:
    run.split_file.write_text("subset\n")
    run.checksums_file.write_text("{")
    with pytest.raises(
        RunFolderError,
        match=r"seals\.json cannot be read as JSON .* It holds checksums of finished files: restore it, or fit a new",
    ):
        run.read(run.split_file, "")


def test_names_of_files(run: RunFolder) -> None:
    write_json(run.calibration_file, {})
    names = [run.split_file, run.calibration_file, run.log_file, run.tile_log(SECOND), run.checkpoint(SECOND)]
    relative = [str(path.relative_to(run.path)) for path in names]
    assert relative == ["split.csv", "calibration.json", "logs/run.log", "logs/r00_c01.log", "tiles/r00_c01.ckpt"]


@pytest.mark.parametrize(("text", "held"), [("", "nothing"), ("- 1", r"\[1\]")])
def test_a_configuration_without_settings_is_named(run: RunFolder, text: str, held: str) -> None:
    run.config_file.write_text(text)
    with pytest.raises(RunFolderError, match=rf"must hold settings by their names, but holds {held}\. Restore it"):
        run.settings()
