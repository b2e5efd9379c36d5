from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from anomalib_tiled import memory
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.memory import as_bytes, available_memory, memory_budget


def group(folder: Path, limit: str, usage: str) -> tuple[str, str]:
    (folder / "limit").write_text(limit)
    (folder / "usage").write_text(usage)
    return str(folder / "limit"), str(folder / "usage")


def test_there_is_some_but_no_more_than_the_machine_has() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("usage", "available"), [("1000", 500), ("1500", 0), ("9999", 0)])
def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usage: str, available: int
) -> None:
    monkeypatch.setattr(memory, "CGROUP_FILES", (group(tmp_path, "1500\n", usage),))
    assert available_memory() == available


def test_a_container_without_limit_is_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP_FILES", (group(tmp_path, "max\n", "7"), ("/no/such", "/file")))
    assert available_memory() > 0


def test_what_was_only_read_does_not_count_as_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = group(tmp_path, "1500\n", "1400")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 300\n", encoding="ascii")
    monkeypatch.setattr(memory, "CGROUP_FILES", (files,))
    assert available_memory() == 400


@pytest.mark.parametrize(
    ("size", "expected"),
    [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("500 mb", 500 * 10**6), (4096, 4096), ("4096", 4096), ("2B", 2)],
)
def test_sizes_have_units(size: str | int, expected: int) -> None:
    assert as_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "much", "4 XB", "-1GB", "0", "GB", "1e9"])
def test_what_is_no_size_is_named(size: str) -> None:
    with pytest.raises(ConfigurationError, match=f"such as 500MB, 4GB or 2GiB, but is '{size}'"):
        as_bytes(size)


def test_without_a_budget_a_share_of_what_is_free_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1600)
    assert memory_budget(torch.device("cpu")) == 100
