from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomalib_tiled.system import limits as control_groups
from anomalib_tiled.system.cores import cores

MACHINE = 64


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of control groups of a large machine, of which this process is in /a/b, or in /c of the first version."""
    monkeypatch.setattr("anomalib_tiled.system.cores.sys.platform", "linux")
    monkeypatch.setattr("anomalib_tiled.system.cores.os.sched_getaffinity", lambda process: set(range(MACHINE)))
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("4:cpu,cpuacct:/c\n0::/a/b\n")
    return tmp_path / "groups"


def limit(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("cpu_", "cpu.", 1)).write_text(f"{content}\n")


def test_there_is_one_but_no_more_than_the_machine_has() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("said", "number"),
    [("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", 64), ("max 100000", 64)],
)
@pytest.mark.parametrize("place", [".", "a", "a/b"])
def test_time_limits_of_the_own_group_and_of_those_around_it_count(
    groups: Path, said: str, number: int, place: str
) -> None:
    limit(groups / "a" / "b", cpu_max="max 100000")
    limit(groups / place, cpu_max=said)
    assert cores() == number


@pytest.mark.parametrize(("time", "number"), [("600000", 6), ("-1", 64), ("1", 1)])
@pytest.mark.parametrize("place", ["cpu", "cpu/c"])
def test_limits_of_the_first_version_count_too(groups: Path, time: str, number: int, place: str) -> None:
    limit(groups / place, cpu_cfs_quota_us=time, cpu_cfs_period_us="100000")
    assert cores() == number


def test_the_lowest_limit_counts(groups: Path) -> None:
    limit(groups / "a", cpu_max="800000 100000")
    limit(groups / "a" / "b", cpu_max="2000000 100000")
    assert cores() == 8


def test_limits_of_other_groups_do_not_count(groups: Path) -> None:
    limit(groups / "a" / "c", cpu_max="100000 100000")
    limit(groups / "cpu" / "a", cpu_cfs_quota_us="100000", cpu_cfs_period_us="100000")
    assert cores() == MACHINE


def test_cores_that_are_not_ours_do_not_count(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(groups, cpu_max="400000 100000")
    monkeypatch.setattr("anomalib_tiled.system.cores.os.sched_getaffinity", lambda process: {3, 5})
    assert cores() == 2
