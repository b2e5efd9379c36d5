"""What a program asks of new tensors, and what ours are like."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest
import torch

from anomalib_tiled.ensemble.torch_defaults import usual_defaults


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_new_tensors_are_the_usual_ones_and_others_afterwards() -> None:
    with torch.device("meta"):
        with usual_defaults():
            inside = torch.zeros(1)
        outside = torch.zeros(1)
    assert (inside.dtype, inside.device.type) == (torch.float32, "cpu")
    assert (outside.dtype, outside.device.type) == (torch.float64, "meta")


@pytest.mark.usefixtures("double")
def test_it_may_stand_above_a_function_and_ends_with_an_error_too() -> None:
    @usual_defaults()
    def fail() -> None:
        raise ValueError(torch.get_default_dtype())

    for _ in range(2):
        with pytest.raises(ValueError, match=r"torch\.float32"):
            fail()
        assert torch.get_default_dtype() == torch.float64


@pytest.mark.usefixtures("double")
def test_one_thread_takes_nothing_from_another() -> None:
    is_in, may_leave = Event(), Event()
    found: list[torch.dtype] = []

    def stay() -> None:
        with usual_defaults():
            is_in.set()
            may_leave.wait()
            found.append(torch.get_default_dtype())

    thread = Thread(target=stay)
    with usual_defaults():
        thread.start()
        is_in.wait()
    may_leave.set()
    thread.join()
    assert found == [torch.float32]
    assert torch.get_default_dtype() == torch.float64
