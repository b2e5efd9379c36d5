"""A command opens its run once: it reads configuration and split at most once each."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.cli.main import main

COUNTED = ("config.yaml", "split.csv")

_opened: list[str] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    """Note files that are opened to be read; an audit hook stays for the life of the process."""
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path, mode, flags = arguments
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if not writes and not int(flags) & (os.O_WRONLY | os.O_RDWR):
            _opened.append(Path(os.fsdecode(path)).name)


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_note)


def reads(*arguments: str) -> dict[str, int]:
    """Run a command, and count how often it reads the files of a run that hold what is in the run."""
    _opened.clear()
    assert main(list(arguments)) == 0
    counts = Counter(_opened)
    return {name: counts[name] for name in COUNTED}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> str:
    shutil.copytree(finished_run, tmp_path / "copied")
    return str(tmp_path / "copied")


def test_files_that_are_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("")
    _opened.clear()
    path.read_text()
    path.read_bytes()
    assert Counter(_opened) == {"split.csv": 2}


@pytest.mark.slow
def test_a_new_run_is_not_read_at_all(configure: Callable[..., Path]) -> None:
    written = configure()
    given = written.rename(written.with_name("given.yaml"))
    assert reads("train", "--config", str(given)) == {"config.yaml": 0, "split.csv": 1}, "its checksum is taken"


@pytest.mark.parametrize("command", ["fit", "train", "test"])
def test_a_run_is_read_once(run: str, command: str) -> None:
    assert reads(command, "--ckpt_dir", run) == {"config.yaml": 1, "split.csv": 1}


def test_a_run_whose_settings_change_is_read_once(run: str) -> None:
    changed = reads("fit", "--ckpt_dir", run, "--metrics.image", "[F1Score]")
    assert changed == {"config.yaml": 1, "split.csv": 1}


def test_predicting_reads_a_run_once(run: str, new: Path) -> None:
    assert reads("predict", "--ckpt_dir", run, "--data", str(new)) == {"config.yaml": 1, "split.csv": 1}


def test_the_state_of_tiles_needs_no_split(run: str) -> None:
    assert reads("status", "--ckpt_dir", run) == {"config.yaml": 1, "split.csv": 0}
