from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomalib_tiled.system import limits as control_groups
from anomalib_tiled.system.free_memory import EARLIER_FILES, FILES, available_memory


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of control groups, of which this process is in /a/b."""
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("12:cpu,memory:/c\n1:name=systemd:/d\n0::/a/b\n")
    return tmp_path / "groups"


def limit(folder: Path, bytes_at_most: str, used: str, files: tuple[str, str] = FILES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(files, (bytes_at_most, used), strict=True):
        (folder / name).write_text(f"{content}\n")


def test_there_is_some_but_no_more_than_the_machine_has() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("used", "available"), [("1000", 500), ("1500", 0), ("9999", 0)])
@pytest.mark.parametrize("place", [".", "a", "a/b"])
def test_the_limits_of_the_own_group_and_of_those_around_it_count(
    groups: Path, used: str, available: int, place: str
) -> None:
    limit(groups / "a" / "b", "9000", "1")
    limit(groups / place, "1500", used)
    assert available_memory() == available


@pytest.mark.parametrize("place", ["memory", "memory/c"])
def test_groups_of_the_first_version_count_too(groups: Path, place: str) -> None:
    limit(groups / place, "1500", "1000", EARLIER_FILES)
    assert available_memory() == 500


def test_other_groups_do_not_count(groups: Path) -> None:
    for place in ("a/c", "d", "memory/a"):
        limit(groups / place, "1500", "1000")
        limit(groups / place, "1500", "1000", EARLIER_FILES)
    assert available_memory() > 1500


def test_a_group_without_limit_is_as_none(groups: Path) -> None:
    limit(groups, "max", "7")
    assert available_memory() > 1500
    (groups.parent / "membership").unlink()
    assert available_memory() > 1500


def test_what_was_only_read_does_not_count_as_used(groups: Path) -> None:
    limit(groups, "1500", "1400")
    (groups / "memory.stat").write_text("anon 100\ninactive_file 300\n", encoding="ascii")
    assert available_memory() == 400
