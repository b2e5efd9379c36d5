"""Images that change between the trainings of tiles of one run."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import DataError
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.os_errors import readable
from anomalib_tiled.training import preparation
from anomalib_tiled.training import training_images as seen_images
from anomalib_tiled.training.training_images import SeenImage, record_images, recorded_fingerprint


@pytest.fixture
def run(settings: Settings, unchecked: None) -> Run:
    """A run whose first two tiles are trained."""
    run = preparation.prepare(settings)
    assert recorded_fingerprint(run.folder) == ""
    assert record_images(run, run.grid.tiles) is None
    for tile in run.grid.tiles[:2]:
        trained(run, tile.name, recorded_fingerprint(run.folder))
    return run


def trained(run: Run, name: str, images: str) -> None:
    """Note a tile as trained."""
    run.folder.write_record(run.grid.tile(name), TileRecord(1.0, 1, "", Checksum(0, ""), 0, images))


def image(run: Run, number: int = 0) -> Path:
    return run.split.subset("train")[number].image_path


def change(path: Path) -> None:
    with Image.open(path) as opened:
        opened.rotate(180).save(path)


def test_images_that_stay_are_read_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checksum, "of", lambda path: pytest.fail(f"{path} is read"))
    noted = recorded_fingerprint(run.folder)
    assert record_images(run, run.grid.tiles[2:]) is None
    assert recorded_fingerprint(run.folder) == noted != ""


def test_images_that_were_copied_or_touched_are_what_they_were(run: Run) -> None:
    os.utime(image(run), (1, 1))
    shutil.copyfile(image(run, 1), image(run).with_name("copy"))
    (image(run).with_name("copy")).replace(image(run, 1))
    noted = recorded_fingerprint(run.folder)
    assert record_images(run, run.grid.tiles[2:]) is None
    assert recorded_fingerprint(run.folder) == noted


def test_tiles_that_saw_other_images_must_be_trained_again(run: Run) -> None:
    change(image(run, 1))
    message = rf"but 1 training images have changed \({image(run, 1)}\) since .* --tiles r00_c00,r00_c01`"
    for _ in range(2):  # the first refusal forgets nothing
        with pytest.raises(DataError, match=message):
            record_images(run, run.grid.tiles[2:])
    with pytest.raises(DataError, match=r"--tiles r00_c00,r00_c01`"):
        record_images(run, [run.grid.tiles[0], *run.grid.tiles[2:]])
    assert record_images(run, run.grid.tiles) is None
    trained(run, "r00_c00", recorded_fingerprint(run.folder))
    assert record_images(run, run.grid.tiles[1:]) is None


def test_images_that_were_put_back_are_what_they_were(run: Run) -> None:
    before = image(run).read_bytes()
    change(image(run))
    with pytest.raises(DataError):
        record_images(run, run.grid.tiles[2:])
    image(run).write_bytes(before)
    assert record_images(run, run.grid.tiles[2:]) is None


def test_a_run_that_is_calibrated_again_says_so(run: Run) -> None:
    for tile in run.grid.tiles[2:]:
        trained(run, tile.name, recorded_fingerprint(run.folder))
    assert record_images(run, []) is None
    change(image(run))
    said = f"1 training images have changed ({image(run)}) since the tiles were trained: the models learned from"
    for _ in range(2):
        assert record_images(run, []).startswith(said)


def test_a_run_of_which_some_tiles_saw_others_is_not_calibrated(run: Run) -> None:
    for tile in run.grid.tiles[2:]:
        trained(run, tile.name, recorded_fingerprint(run.folder))
    change(image(run))
    assert record_images(run, run.grid.tiles) is None
    trained(run, "r00_c01", recorded_fingerprint(run.folder))
    with pytest.raises(DataError, match=r"must be trained on the same images.* --tiles r00_c00,r00_c02,r01_c00,"):
        record_images(run, [])


def test_images_that_have_gone_are_needed_for_training_only(run: Run) -> None:
    image(run).unlink()
    assert record_images(run, []) is None


def test_images_that_cannot_be_read_any_more_are_needed_for_training_only(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Checksum:
        with readable(path):
            raise PermissionError(errno.EACCES, "Permission denied")

    record_images(run, run.grid.tiles)
    change(image(run))
    monkeypatch.setattr(seen_images.Checksum, "of", fail)
    assert record_images(run, []) is None
    with pytest.raises(DataError, match="Permission denied"):
        record_images(run, run.grid.tiles)


def test_what_was_never_noted_is_not_read_without_need(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for tile in run.grid.tiles:
        trained(run, tile.name, "")
    run.folder.trained_on_file.unlink()
    run.folder.trained_on_table.unlink()
    monkeypatch.setattr(Checksum, "of", lambda path: pytest.fail(f"{path} is read"))
    assert record_images(run, []) is None


def test_many_are_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomalib_tiled.training.training_images.NAMED", 1)
    for number in range(3):
        change(image(run, number))
    with pytest.raises(DataError, match=rf"but 3 training images have changed \({image(run)} and 2 more\) since"):
        record_images(run, run.grid.tiles[2:])


@pytest.mark.parametrize("damage", [None, "", "path,size\n", "path,size,modified,sha256\na,b,c,d\n", "\0"])
def test_without_the_note_it_is_not_known_which(run: Run, damage: str | None) -> None:
    run.folder.trained_on_table.unlink()
    if damage is not None:
        run.folder.trained_on_table.write_text(damage)
    change(image(run))
    with pytest.raises(DataError, match="but training images have changed since tiles were trained"):
        record_images(run, run.grid.tiles[2:])


def test_the_note_of_an_earlier_version_is_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    table, file = run.folder.trained_on_table, run.folder.trained_on_file
    after = table.read_text(), file.read_text()
    rows = {
        row.pop("path"): {**row, "size": int(row["size"]), "modified": int(row["modified"])}
        for row in csv.DictReader(after[0].splitlines())
    }
    file.write_text(json.dumps({"fingerprint": recorded_fingerprint(run.folder), "images": rows}))
    table.unlink()
    with monkeypatch.context() as patched:
        patched.setattr(Checksum, "of", lambda path: pytest.fail(f"{path} is read"))
        assert record_images(run, run.grid.tiles[2:]) is None
    assert (table.read_text(), file.read_text()) == after


def test_names_of_images_may_be_of_any_bytes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {os.fsdecode(b'/a \xfc, "b".png'): SeenImage(1, 2, "3")}
    seen_images._write(run.folder, odd)
    assert seen_images._read(run.folder) == odd


def test_tiles_of_which_nothing_is_known_are_taken_as_they_are(run: Run) -> None:
    for tile in run.grid.tiles[:2]:
        trained(run, tile.name, "")
    change(image(run))
    assert record_images(run, run.grid.tiles[2:]) is None


def test_an_image_that_has_gone_is_named(run: Run) -> None:
    image(run).unlink()
    with pytest.raises(DataError, match=f"{image(run)} is missing"):
        record_images(run, run.grid.tiles[2:])


def test_a_note_that_was_altered_is_no_change_of_images(run: Run) -> None:
    table, file = run.folder.trained_on_table, run.folder.trained_on_file
    noted = table.read_text(), file.read_text()
    known = {row["path"]: row["sha256"] for row in csv.DictReader(noted[0].splitlines())}
    table.write_text(noted[0].replace(known[str(image(run))], "0" * 64))
    file.write_text(json.dumps({"fingerprint": "0"}))
    assert record_images(run, run.grid.tiles[2:]) is None
    assert (table.read_text(), file.read_text()) == noted, "and is mended"
