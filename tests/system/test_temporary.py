from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from anomalib_tiled.system.temporary import LOCK, working_folder


def test_a_folder_is_there_while_it_is_needed(tmp_path: Path) -> None:
    with working_folder(tmp_path, ".work-") as work:
        assert work.parent == tmp_path
    assert not any(tmp_path.iterdir())


def test_what_killed_processes_have_left_is_removed_and_what_others_use_is_not(tmp_path: Path) -> None:
    for name in (".work-left", ".work-used", ".other"):
        (tmp_path / name).mkdir()
    with FileLock(tmp_path / ".work-used" / LOCK), working_folder(tmp_path, ".work-") as work:
        assert {path.name for path in tmp_path.iterdir()} == {work.name, ".work-used", ".other"}
