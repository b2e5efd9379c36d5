from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomalib_tiled.system import limits
from anomalib_tiled.system.limits import CORE_FILES, MEMORY_FILES, available_memory, cores, groups

MACHINE = 64


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of a large machine: this process is in /a/b, in version 1 in /c for processor and memory."""
    monkeypatch.setattr("anomalib_tiled.system.limits.sys.platform", "linux")
    monkeypatch.setattr("anomalib_tiled.system.limits.os.sched_getaffinity", lambda process: set(range(MACHINE)))
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("12:cpu,memory:/c\n1:name=systemd:/d\n0::/a/b\n")
    return tmp_path / "groups"


def write(folder: Path, names: tuple[str, ...], *contents: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_text(f"{content}\n")


def test_the_own_group_comes_before_those_around_it(top: Path) -> None:
    assert list(groups("cpu")) == [
        (top / "cpu" / "c", 1),
        (top / "cpu", 1),
        (top / "a" / "b", 2),
        (top / "a", 2),
        (top, 2),
    ]


def test_each_controller_of_version_1_has_a_tree_of_its_own(top: Path) -> None:
    assert next(groups("memory")) == (top / "memory" / "c", 1)


def test_a_system_without_groups(top: Path) -> None:
    (top.parent / "membership").unlink()
    assert list(groups("cpu")) == []


def test_this_machine() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("place", "limit", "number"),
    [(".", "400000 100000", 4), ("a", "150000 100000", 1), ("a/b", "50000 100000", 1), ("a", "max 100000", MACHINE)],
)
def test_core_limits_of_the_own_group_and_of_those_around_it(top: Path, place: str, limit: str, number: int) -> None:
    write(top / "a" / "b", CORE_FILES[2], "max 100000")
    write(top / place, CORE_FILES[2], limit)
    assert cores() == number


@pytest.mark.parametrize(("place", "time", "number"), [("cpu", "600000", 6), ("cpu/c", "-1", MACHINE)])
def test_core_limits_of_version_1(top: Path, place: str, time: str, number: int) -> None:
    write(top / place, CORE_FILES[1], time, 100000)
    assert cores() == number


def test_the_lowest_core_limit_counts(top: Path) -> None:
    write(top / "a", CORE_FILES[2], "800000 100000")
    write(top / "a" / "b", CORE_FILES[2], "2000000 100000")
    assert cores() == 8


def test_core_limits_of_other_groups_do_not_count(top: Path) -> None:
    write(top / "a" / "c", CORE_FILES[2], "100000 100000")
    write(top / "cpu" / "a", CORE_FILES[1], 100000, 100000)
    assert cores() == MACHINE


def test_cores_of_other_processes_do_not_count(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(top, CORE_FILES[2], "400000 100000")
    monkeypatch.setattr("anomalib_tiled.system.limits.os.sched_getaffinity", lambda process: {3, 5})
    assert cores() == 2


@pytest.mark.parametrize(("place", "used", "available"), [(".", 1000, 500), ("a", 1500, 0), ("a/b", 9999, 0)])
def test_memory_limits_of_the_own_group_and_of_those_around_it(
    top: Path, place: str, used: int, available: int
) -> None:
    write(top / "a" / "b", MEMORY_FILES[2], 9000, 1)
    write(top / place, MEMORY_FILES[2], 1500, used)
    assert available_memory() == available


@pytest.mark.parametrize("place", ["memory", "memory/c"])
def test_memory_limits_of_version_1(top: Path, place: str) -> None:
    write(top / place, MEMORY_FILES[1], 1500, 1000)
    assert available_memory() == 500


def test_memory_limits_of_other_groups_do_not_count(top: Path) -> None:
    for place in ("a/c", "d", "memory/a"):
        for names in MEMORY_FILES.values():
            write(top / place, names, 1500, 1000)
    assert available_memory() > 1500


def test_a_group_without_a_memory_limit(top: Path) -> None:
    write(top, MEMORY_FILES[2], "max", 7)
    assert available_memory() > 1500
    (top.parent / "membership").unlink()
    assert available_memory() > 1500


def test_cached_files_do_not_count_as_used_memory(top: Path) -> None:
    write(top, MEMORY_FILES[2], 1500, 1400)
    write(top, ("memory.stat",), "anon 100\ninactive_file 300")
    assert available_memory() == 400
