from __future__ import annotations

import pytest
import torch

from anomalib_tiled import memory
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.memory import as_bytes, memory_budget


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
