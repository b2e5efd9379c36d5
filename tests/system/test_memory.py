from __future__ import annotations

import pytest
import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size
from anomalib_tiled.system import memory
from anomalib_tiled.system.memory import SHARE_ALONE, as_bytes, memory_budget, pixels_within, too_large


@pytest.mark.parametrize(
    ("size", "expected"),
    [("4GB", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("500 mb", 500 * 10**6), (4096, 4096), ("4096", 4096), ("2B", 2)],
)
def test_sizes_have_units(size: str | int, expected: int) -> None:
    assert as_bytes(size) == expected


@pytest.mark.parametrize("size", ["", "4 XB", "-1GB", "0", "9" * 38])
def test_what_is_no_size_is_named(size: str) -> None:
    with pytest.raises(ConfigurationError, match=f"such as 500MB, 4GB or 2GiB, but is '{size}'"):
        as_bytes(size)


def test_without_a_budget_a_share_of_what_is_free_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1600)
    assert memory_budget(torch.device("cpu")) == 100
    assert memory_budget(torch.device("cpu"), SHARE_ALONE) == 400


def test_processes_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1600, 3200))
    alone, one_of_four = (memory_budget(torch.device("cuda:0"), SHARE_ALONE / places) for places in (1, 4))
    assert (alone, one_of_four) == (800, 200)


def test_half_of_a_budget_is_for_images() -> None:
    assert pixels_within(2**30) == 2**22


def test_an_image_that_is_too_large_for_what_is_free_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    message = too_large(Size(8192, 8000), 8 * 10**9)
    assert message is not None
    assert "an image of 8192 x 8000 pixels takes about 8.4 GB" in message
    assert "8.0 GB are free" in message
    assert "smaller tiling.image_size" in message
    assert too_large(Size(8192, 8000), 9 * 10**9) is None
    monkeypatch.setattr(memory, "available_memory", lambda: 127)
    assert too_large(Size(1, 1)) is not None
