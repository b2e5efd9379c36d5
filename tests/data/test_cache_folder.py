"""A folder of the cache is made once, whoever else is at it, and whenever one of them is killed."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import numpy as np
import pytest

from anomalib_tiled.data.cache import DecodedFiles, ImageCache, make_folder, open_source
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import StorageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.system.temporary import temporary_name

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
WHOLE = slice(0, 8), slice(0, 12)

# Notes each decode by a file, <image>.<process>, and waits within the third one for another file.
PROGRAM = """
import os, sys, time
from pathlib import Path

import numpy as np

from anomalib_tiled.data import cache
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.grid import Size, TileGrid

root, begin = Path(sys.argv[1]), Path(sys.argv[2])
read = cache.read_image


def slow(path, *size_and_matrix):
    (root / "decoded" / f"{path.stem}.{os.getpid()}").touch()
    while len(list((root / "decoded").glob(f"*.{os.getpid()}"))) > 2 and not (root / "go on").exists():
        time.sleep(0.01)
    return read(path, *size_and_matrix)


cache.read_image = slow
split = Split(tuple(Sample("train", path, None, 0) for path in sorted((root / "good").iterdir())))
grid = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
(root / f"ready.{os.getpid()}").touch()
while not begin.exists():
    time.sleep(0.01)
source = cache.open_source(split, grid, root / "cache")
cache.read_image = read
for sample in split.samples:
    expected = cache.DecodedFiles(grid.image_size, has_masks=False).image(sample, slice(0, 8), slice(0, 12))
    assert np.array_equal(source.image(sample, slice(0, 8), slice(0, 12)), expected)
"""


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    began = time.monotonic()
    while not happened():
        assert time.monotonic() < began + seconds
        time.sleep(0.01)


@contextmanager
def programs(root: Path, number: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Have processes ready to fill a cache; they begin together."""
    (root / "decoded").mkdir()
    command = [sys.executable, "-c", PROGRAM, str(root), str(root / "begin")]
    started = [subprocess.Popen(command, env=os.environ) for _ in range(number)]
    try:
        wait_until(
            lambda: len(list(root.glob("ready.*"))) == number or any(each.poll() is not None for each in started)
        )
        (root / "begin").touch()
        yield started
    finally:
        for each in started:
            each.kill()
            each.wait()


def decodes(root: Path) -> list[str]:
    """The images that were decoded to fill the cache."""
    return sorted(path.stem for path in (root / "decoded").iterdir())


@pytest.fixture
def split(image_folder: Path) -> Split:
    return Split(tuple(Sample("train", path, None, 0) for path in sorted((image_folder / "good").iterdir())))


def check(source: ImageCache, split: Split) -> None:
    direct = DecodedFiles(GRID.image_size, has_masks=False)
    for sample in split.samples:
        assert np.array_equal(source.image(sample, *WHOLE), direct.image(sample, *WHOLE))


@pytest.mark.slow
def test_two_processes_that_need_it_at_the_same_moment_make_it_once(split: Split, image_folder: Path) -> None:
    with programs(image_folder, 2) as started:
        wait_until(lambda: len(decodes(image_folder)) > 2)
        (image_folder / "go on").touch()
        assert [each.wait() for each in started] == [0, 0]
    assert decodes(image_folder) == ["0", "1", "2", "3"]
    assert len(list((image_folder / "cache").iterdir())) == 1, "neither locks nor half folders are left"
    check(open_source(split, GRID, image_folder / "cache", build=False), split)


@pytest.mark.slow
def test_one_that_is_killed_is_taken_over_by_the_one_that_waits(split: Split, image_folder: Path) -> None:
    def half_done() -> list[Path]:
        return list((image_folder / "cache").glob(".*.tmp"))

    with programs(image_folder, 2) as started:
        wait_until(lambda: len(decodes(image_folder)) > 2)
        (left,) = half_done()
        first = next(each for each in started if f"-{each.pid}-" in left.name)
        first.kill()
        first.wait()
        (image_folder / "go on").touch()
        (second,) = [each for each in started if each is not first]
        assert second.wait() == 0
    assert len(list((image_folder / "decoded").glob(f"*.{second.pid}"))) == 4
    assert half_done() == []
    check(open_source(split, GRID, image_folder / "cache", build=False), split)


@pytest.mark.slow
def test_what_one_that_was_killed_has_left_is_removed(split: Split, image_folder: Path) -> None:
    with programs(image_folder, 1) as (program,):
        wait_until(lambda: len(decodes(image_folder)) > 2)
        assert isinstance(open_source(split, GRID, image_folder / "cache", build=False), DecodedFiles), "not complete"
        program.kill()
        program.wait()
    assert len(list((image_folder / "cache").glob(".*.tmp"))) == 1
    check(open_source(split, GRID, image_folder / "cache"), split)
    assert len(list((image_folder / "cache").iterdir())) == 1


def test_whoever_comes_second_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    folder, filling, go_on, filled = tmp_path / "key", Event(), Event(), []

    def fill(temporary: Path) -> None:
        filled.append(temporary)
        filling.set()
        assert go_on.wait(60)
        (temporary / "index.json").write_text("{}")

    def work() -> None:
        make_folder(folder, fill, is_made=(folder / "index.json").is_file, needed=0)

    threads = [Thread(target=work), Thread(target=work)]
    threads[0].start()
    assert filling.wait(60)
    threads[1].start()
    wait_until(lambda: f"Waiting for another process, which decodes the same images into {folder}." in caplog.messages)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(filled) == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_another_machine_that_was_faster_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "key"

    def fill(temporary: Path) -> None:
        (temporary / "index.json").write_text("ours")
        folder.mkdir()
        (folder / "index.json").write_text("theirs")

    make_folder(folder, fill, is_made=(folder / "index.json").is_file, needed=0)
    assert (folder / "index.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]


def test_the_room_of_what_is_removed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "key"
    name = temporary_name("another key")
    dead = tmp_path / name.replace(f"-{os.getpid()}-", "-999999999-")
    dead.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if dead.exists() else 10))
    make_folder(folder, lambda temporary: None, is_made=lambda: False, needed=10)
    with pytest.raises(StorageError, match=r"needs 0.0 MB in .* but only 0.0 MB are free\. Make room"):
        make_folder(folder, pytest.fail, is_made=lambda: False, needed=11)
