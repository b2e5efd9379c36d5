"""What is said of a run whose files are not what they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.changed_files import changed_files
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_states import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, write_json

FIRST, SECOND = TileGrid(Size(4, 8), Size(4, 4), Size(4, 4)).tiles
WITH_CHECKSUM = ("split.csv", "calibration.json", "validation_scores.npz")


@pytest.fixture
def run(tmp_path: Path, configuration: dict[str, object]) -> RunFolder:
    """A finished run of two tiles that share weights; the tensors in it are none."""
    settings = Settings.from_mapping(configuration)
    run = RunFolder.create(tmp_path, settings)
    run.split_file.write_text("subset,image_path")
    run.validation_scores_file.write_bytes(bytes(10))
    write_json(run.calibration_file, {"configuration": settings.calibration_hash})
    for path in (run.split_file, run.validation_scores_file, run.calibration_file):
        run.note_checksum(path)
    for tile in (FIRST, SECOND):
        run.checkpoint(tile).parent.mkdir(exist_ok=True)
        run.checkpoint(tile).write_text(tile.name)
        run.write_record(tile, TileRecord(1.5, 1, settings.training_hash, Checksum.of(run.checkpoint(tile))))
    (shared := run.path / "tiles" / "shared.ckpt").write_text("shared")
    shared.rename(shared.with_name(f"shared-{Checksum.of(shared).sha256}.ckpt"))
    return run


def shared_of(run: RunFolder) -> Path:
    [path] = (run.path / "tiles").glob("shared-*")
    return path


def configured(run: RunFolder, old: str, new: str) -> None:
    """Alter the configuration."""
    text = run.config_file.read_text()
    assert old in text
    run.config_file.write_text(text.replace(old, new))


def test_nothing_is_said_of_a_run_as_it_was_finished(run: RunFolder) -> None:
    assert changed_files(run) == ()


@pytest.mark.parametrize("name", [*WITH_CHECKSUM, "tiles/r00_c01.ckpt"])
def test_a_file_that_differs_in_one_byte_is_named(run: RunFolder, name: str) -> None:
    path = run.path / name
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    assert changed_files(run)[0] == f"{path} was changed after it was finished. It is used as it is."


@pytest.mark.parametrize("name", [*WITH_CHECKSUM, "tiles/r00_c01.ckpt"])
def test_a_file_that_has_grown_is_named_with_both_sizes(run: RunFolder, name: str) -> None:
    path = run.path / name
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b" ")
    wrong = f"{path} had {size} bytes when it was finished, and has {size + 1} now. It is used as it is."
    assert changed_files(run) == (wrong,)


def test_shared_weights_are_known_by_their_name(run: RunFolder) -> None:
    shared_of(run).write_text("others")
    assert changed_files(run) == (f"{shared_of(run)} was changed after it was finished. It is used as it is.",)


@pytest.mark.parametrize("name", WITH_CHECKSUM)
def test_a_file_without_a_checksum_cannot_be_compared(run: RunFolder, name: str) -> None:
    checksums = run.checksums()
    del checksums[name]
    write_json(run.checksums_file, checksums)
    wrong = f"There is no checksum of {run.path / name}. It is used as it is."
    assert changed_files(run) == (wrong,)


def test_no_file_is_compared_with_unreadable_checksums(run: RunFolder) -> None:
    run.checksums_file.write_text("{")
    first, *others = changed_files(run)
    assert first.startswith(f"{run.checksums_file}, which holds checksums of finished files, cannot be read (")
    assert first.endswith(" Its checksums are not compared.")
    assert others == [f"There is no checksum of {run.path / name}. It is used as it is." for name in WITH_CHECKSUM]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text("{"),
        lambda path: path.write_text("{}"),
        lambda path: write_json(path, {**read_json(path), "checkpoint": {"size": 3}}),
    ],
    ids=["gone", "cut short", "empty", "without a checksum"],
)
def test_a_record_that_says_nothing_is_named(run: RunFolder, spoil: Callable[[Path], object]) -> None:
    spoil(run.record_file(FIRST))
    [said] = changed_files(run)
    assert said.startswith(f"{run.record_file(FIRST)} has no checksum of r00_c00.ckpt (")
    assert said.endswith("). It is used as it is.")


def test_a_configuration_that_decides_training_is_that_of_no_tile_and_no_calibration(run: RunFolder) -> None:
    configured(run, "seed_everything: 7", "seed_everything: 8")
    assert changed_files(run) == (
        f"{run.config_file} is not the configuration that r00_c00, r00_c01 were trained with. It is used as it is.",
        f"{run.config_file} is not the configuration that calibration.json was made with. It is used as it is.",
    )


def test_a_configuration_that_decides_what_is_learned_is_not_that_of_the_calibration(run: RunFolder) -> None:
    configured(run, "scoring.Max", "scoring.Mean")
    wrong = f"{run.config_file} is not the configuration that calibration.json was made with. It is used as it is."
    assert changed_files(run) == (wrong,)


def test_what_is_not_there_is_not_compared(run: RunFolder) -> None:
    for name in (*WITH_CHECKSUM, "tiles/r00_c00.ckpt"):
        (run.path / name).unlink()
    shared_of(run).unlink()
    assert changed_files(run) == ()
