from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_tiled.system import limits as control_groups
from anomalib_tiled.system.limits import groups


@pytest.fixture(autouse=True)
def membership(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Groups of this process, of both versions."""
    monkeypatch.setattr(control_groups, "GROUPS", tmp_path)
    monkeypatch.setattr(control_groups, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "membership").write_text("12:cpu,memory:/c\n1:name=systemd:/d\n0::/a/b\n")
    return tmp_path / "membership"


def test_the_own_group_comes_before_those_around_it(tmp_path: Path) -> None:
    assert list(groups("cpu")) == [
        (tmp_path / "cpu" / "c", 1),
        (tmp_path / "cpu", 1),
        (tmp_path / "a" / "b", 2),
        (tmp_path / "a", 2),
        (tmp_path, 2),
    ]


def test_each_controller_of_the_first_version_has_a_tree_of_its_own(tmp_path: Path) -> None:
    assert next(groups("memory")) == (tmp_path / "memory" / "c", 1)
    assert {version for _, version in groups("cpuset")} == {2}


def test_a_system_without_groups(membership: Path) -> None:
    membership.unlink()
    assert list(groups("cpu")) == []
