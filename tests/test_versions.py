from __future__ import annotations

import shutil
from pathlib import Path

from anomalib_tiled.versions import link_newest, make_version


def test_the_link_is_that_of_the_newest_folder(tmp_path: Path) -> None:
    first, second = make_version(tmp_path / "runs"), make_version(tmp_path / "runs")
    assert [first.name, second.name] == ["v0", "v1"]
    assert (tmp_path / "runs" / "latest").resolve() == second
    shutil.rmtree(second)
    link_newest(tmp_path / "runs")
    assert (tmp_path / "runs" / "latest").resolve() == first
    shutil.rmtree(first)
    link_newest(tmp_path / "runs")
    assert not any((tmp_path / "runs").iterdir())


def test_other_folders_are_no_versions(tmp_path: Path) -> None:
    for name in ("v7", "v8.old", "vx", "8"):
        (tmp_path / name).mkdir()
    assert make_version(tmp_path).name == "v8"
