from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder, TileRecord, check_output
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import write_json
from anomalib_tiled.system.temporary import temporary_name

NewRunFolder = Callable[[Path, Settings], RunFolder]

GRID = TileGrid(Size(4, 8), Size(4, 4), Size(4, 4))
FIRST, SECOND = GRID.tiles
Forbid = Callable[[Path], AbstractContextManager[None]]
EMPTY = Checksum(0, "cae66941d9efbd404e4d88758ea67670")


@pytest.fixture
def settings(configuration: dict[str, object]) -> Settings:
    return Settings.from_mapping(configuration)


@pytest.fixture
def run(tmp_path: Path, settings: Settings, new_run_folder: NewRunFolder) -> RunFolder:
    return new_run_folder(tmp_path, settings)


def trained(run: RunFolder, record: TileRecord) -> None:
    run.write_record(FIRST, record)
    run.checkpoint(FIRST).touch()


def test_runs_are_numbered_and_the_latest_is_linked(
    tmp_path: Path, settings: Settings, new_run_folder: NewRunFolder
) -> None:
    runs = [new_run_folder(tmp_path / "Padim" / "tiny", settings) for _ in range(3)]
    assert [run.path.name for run in runs] == ["v0", "v1", "v2"]
    latest = tmp_path / "Padim" / "tiny" / "latest"
    assert latest.readlink() == Path("v2"), "a relative link, so that the folder can be moved"
    assert RunFolder.open(latest) == runs[-1]


def test_a_run_keeps_its_configuration(run: RunFolder, settings: Settings) -> None:
    assert RunFolder.open(run.path).settings() == settings


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"there is no folder {tmp_path / 'v7'}"):
        RunFolder.open(tmp_path / "v7")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=f"{tmp_path} has no config.yaml. `anomalib tiled fit` prints the folder"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("name", ["logs", "tiles", "raw", "images", "predictions"])
def test_a_folder_that_leads_out_of_the_run_is_refused(run: RunFolder, tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (run.path / name).symlink_to(tmp_path / "home")
    with pytest.raises(RunFolderError, match=rf"{name} must be a folder, but is a link that leads out .* to .*home\."):
        RunFolder.open(tmp_path / "latest")
    (run.path / name).unlink()
    (run.path / "inside").mkdir()
    (run.path / name).symlink_to("inside")
    assert RunFolder.open(tmp_path / "latest") == run


PERMISSIONS = r"Change its permissions, or those of the folders that it lies in\."


def test_a_run_that_must_not_be_looked_into(
    shared_folder: Path, settings: Settings, forbidden: Forbid, new_run_folder: NewRunFolder
) -> None:
    run = new_run_folder(shared_folder / "runs", settings)
    for path in (shared_folder / "runs", run.path):
        with (
            forbidden(path),
            pytest.raises(RunFolderError, match=f"{run.path} cannot be read: .*denied. {PERMISSIONS}"),
        ):
            RunFolder.open(run.path)


def test_files_of_a_run_that_must_not_be_read(
    shared_folder: Path, settings: Settings, forbidden: Forbid, new_run_folder: NewRunFolder
) -> None:
    run = new_run_folder(shared_folder, settings)
    run.split_file.write_text("subset\n")
    run.note_checksum(run.split_file)
    for path, read in {
        run.config_file: run.settings,
        run.split_file: lambda: run.read(run.split_file, ""),
        run.checksums_file: lambda: run.read(run.split_file, ""),
    }.items():
        with forbidden(path), pytest.raises(RunFolderError, match=rf"{path}.* cannot be read.*[Pp]ermission"):
            read()


def test_a_file_in_a_folder_that_must_not_be_looked_into(
    shared_folder: Path, settings: Settings, forbidden: Forbid, new_run_folder: NewRunFolder
) -> None:
    run = new_run_folder(shared_folder, settings)
    (run.path / "tiles").mkdir()
    run.checkpoint(FIRST).touch()
    with forbidden(run.path / "tiles"), pytest.raises(RunFolderError, match=f"ckpt cannot be read: .* {PERMISSIONS}"):
        run.read(run.checkpoint(FIRST), "")


def test_a_link_that_leads_in_a_circle_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(RunFolderError, match="there is no folder"):
        RunFolder.open(tmp_path / "round")


DATE = "seed_everything: 2024-13-45"


@pytest.mark.parametrize(
    "content", [b"tiling: [", b"", b"tilling: {}", b"just text", "model: ü".encode("utf-16"), b"m: \xfc", DATE.encode()]
)
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


def test_a_damaged_record(run: RunFolder, settings: Settings) -> None:
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    run.record_file(FIRST).write_text('{"seconds": 1.')
    with pytest.raises(RunFolderError, match=r"r00_c00.json cannot be read as JSON"):
        run.is_done(FIRST, run.settings().training_hash)


def test_the_threads_of_earlier_tiles_are_known(run: RunFolder, settings: Settings) -> None:
    assert run.threads(GRID) is None
    run.write_record(SECOND, TileRecord(1.5, 1, settings.training_hash, EMPTY, threads=3))
    assert run.threads(GRID) == 3
    assert run.record(SECOND).threads == 3


def test_a_record_of_a_time_when_threads_were_not_noted(run: RunFolder) -> None:
    write_json(run.record_file(FIRST), {"seconds": 1, "epochs": 1, "configuration": "", "checkpoint": vars(EMPTY)})
    assert run.threads(GRID) is None
    run.write_record(SECOND, TileRecord(1.5, 1, "", EMPTY, threads=3))
    assert run.threads(GRID) == 3


def test_a_failure_is_remembered_until_the_tile_is_trained(run: RunFolder, settings: Settings) -> None:
    assert run.failure(FIRST) is None
    run.write_failure(FIRST, "out of memory")
    assert run.failure(FIRST) == "out of memory"
    assert run.failure(SECOND) is None
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    assert run.failure(FIRST) is None


def test_a_checkpoint_that_was_cut_short_is_named(run: RunFolder, settings: Settings) -> None:
    trained(run, TileRecord(1.5, 1, settings.training_hash, Checksum(1000, "0")))
    message = (
        rf"r00_c00.ckpt had 1000 bytes when it was finished, and has 0 now. Train the tile again: "
        rf"`anomalib tiled fit --ckpt_dir {run.path} --tiles r00_c00`."
    )
    with pytest.raises(RunFolderError, match=message):
        run.missing(GRID, settings)


@pytest.mark.parametrize("record", ["{}", '{"seconds": 1, "epochs": 1, "configuration": "", "checkpoint": {}}'])
def test_an_changed_record(run: RunFolder, settings: Settings, record: str) -> None:
    trained(run, TileRecord(1.5, 1, settings.training_hash, EMPTY))
    run.record_file(FIRST).write_text(record)
    with pytest.raises(RunFolderError, match=r"r00_c00.json was changed .* Delete it, and train the tile again"):
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
    run.clean_up()
    assert {path.name for path in run.path.rglob(".*.tmp")} == {alive}
    assert {path.name for path in (run.path / "tiles").iterdir()} == {"r00_c00.ckpt", "r00_c00.json", alive}


def test_what_others_have_left_is_not_removed(run: RunFolder, tmp_path: Path) -> None:
    """As if the folders were those of the user."""
    (run.path / "tiles" / ".ssh").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    run.predictions.mkdir()
    (run.predictions / "evil").symlink_to(tmp_path / "home")
    dead = temporary_name("any").replace(f"-{os.getpid()}-", "-999999999-")
    kept = [run.path / "tiles" / ".bashrc", tmp_path / "home" / dead, run.predictions / ".draft.tmp"]
    for path in kept:
        path.touch()
        os.utime(path, (1, 1))
    run.clean_up()
    assert all(path.is_file() for path in kept)
    assert (run.path / "tiles" / ".ssh").is_dir()


def test_a_file_is_compared_to_what_it_was(run: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"split.csv is missing. Look for it."):
        run.read(run.split_file, "Look for it.")
    run.split_file.write_text("subset\n")
    with pytest.raises(RunFolderError, match=r"seals.json has no checksum of split.csv. Look at it."):
        run.read(run.split_file, "Look at it.")
    for checksum in (7, {}, {"size": 7}, {"size": 7, "sha256": "", "more": 1}):
        write_json(run.checksums_file, {run.split_file.name: checksum})
        with pytest.raises(RunFolderError, match=r"seals.json has no checksum of split.csv"):
            run.read(run.split_file, "")
    run.note_checksum(run.split_file)
    run.read(run.split_file, "All is well.")
    write_json(run.calibration_file, {})
    run.note_checksum(run.calibration_file)
    run.read(run.split_file, "Both are known.")
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


@pytest.mark.parametrize("tile_size", ["[64]", "[64, 64.0]", "null"])
def test_a_size_that_is_none_is_named_with_the_file(run: RunFolder, tile_size: str) -> None:
    content = yaml.safe_load(run.config_file.read_text())
    content["tiling"]["tile_size"] = yaml.safe_load(tile_size)
    run.config_file.write_text(yaml.safe_dump(content))
    message = (
        r"config.yaml cannot be used any more: tiling.tile_size must be a whole number of pixels, or \[height, width"
    )
    with pytest.raises(RunFolderError, match=message):
        run.settings()


def test_results_do_not_go_into_a_run(run: RunFolder) -> None:
    run.split_file.touch()
    run = run.path
    for path, reason in {
        run: "is",
        run.parent / "latest": "is",
        run / "tiles": "belongs to",
        run / "images" / "new": "belongs to",
        run / "raw" / ".." / "logs": "belongs to",
    }.items():
        with pytest.raises(
            ConfigurationError, match=rf"--output must be .* but {path} {reason} the run folder {run}\. "
        ):
            check_output(path)
    for path in (run / "predictions", run / "export" / "onnx", run / "mine", run.parent, run.parent / "new"):
        check_output(path)
