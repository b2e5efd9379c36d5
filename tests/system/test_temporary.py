from __future__ import annotations

import os
import platform
from pathlib import Path

from anomalib_tiled.system.temporary import TEMPORARY, remove_abandoned, temporary_name, working_folder


def left_by(path: Path, process: int) -> Path:
    """Name what another process of this machine leaves."""
    return path.with_name(temporary_name(path.name).replace(f"-{os.getpid()}-", f"-{process}-"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_temporary_name_says_who_writes_and_is_like_no_other(tmp_path: Path) -> None:
    first, second = (temporary_name("any.txt") for _ in range(2))
    assert first != second
    assert first.startswith(f".any.txt.{platform.node().replace('.', '_')}-")
    assert f"-{os.getpid()}-" in first
    (tmp_path / first).touch()
    os.utime(tmp_path / first, (1, 1))
    remove_abandoned(tmp_path.iterdir())
    assert names(tmp_path) == {first}, "this process is at work"


def test_files_links_and_folders_of_ended_processes_are_removed(tmp_path: Path) -> None:
    (home := tmp_path / "home").mkdir()
    (home / "mine").touch()
    file, link, folder, used = (
        left_by(tmp_path / name, process)
        for name, process in (
            ("any.txt", 999999999),
            ("latest", 999999999),
            ("v0", 10**30),
            ("any.txt", os.getppid()),
        )
    )
    file.touch()
    link.symlink_to(home)
    (folder / "below").mkdir(parents=True)
    used.touch()
    remove_abandoned(tmp_path.rglob(TEMPORARY))
    assert names(tmp_path) == {"home", used.name}
    assert (home / "mine").is_file()


def test_only_temporary_names_are_removed(tmp_path: Path) -> None:
    others = {".notes.tmp", ".any.txt.here-0.tmp", "any.txt.here-999999999-0a1b2c3d.tmp", ".bashrc", "any.txt"}
    for name in others:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    remove_abandoned(tmp_path.iterdir())
    assert names(tmp_path) == others


def test_a_process_of_another_machine_has_a_day(tmp_path: Path) -> None:
    path = tmp_path / ".any.other-machine-999999999-0a1b2c3d.tmp"
    (path / "a" / "b").mkdir(parents=True)
    for part in (path / "a" / "b", path / "a", path):
        remove_abandoned([path])
        assert path.is_dir()
        os.utime(part, (1, 1))
    remove_abandoned([path])
    assert not path.exists()
    remove_abandoned([path])


def test_a_folder_is_there_while_it_is_needed(tmp_path: Path) -> None:
    dead = left_by(tmp_path / "work", 999999999)
    for name in (dead.name, "other"):
        (tmp_path / name).mkdir()
    with working_folder(tmp_path) as work:
        assert names(tmp_path) == {work.name, "other"}, "what a killed process has left is removed"
        (work / "file").touch()
    assert names(tmp_path) == {"other"}
