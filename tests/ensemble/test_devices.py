"""Devices that are not there, and new tensors whatever a program asks of them."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Thread

import pytest
import torch

from anomalib_tiled.ensemble.devices import device_named, device_of, usual_defaults
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.training.trainer import check_trainer

NO_ACCELERATOR = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is one")


@NO_ACCELERATOR
@pytest.mark.parametrize("name", ["cuda:7", "mps", "hpu", "tpu", "meta", "cpu:5", ""])
def test_a_device_that_does_not_exist(name: str) -> None:
    message = rf"^The device must be auto, cpu, or an accelerator of this machine, such as cuda:0, but is '{name}': "
    with pytest.raises(ConfigurationError, match=message):
        device_named(name)
    assert device_named("cpu").type == "cpu"


@NO_ACCELERATOR
@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_a_trainer_without_its_accelerator_names_the_processor(accelerator: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^The trainer .* on the CPU, set --trainer\.accelerator cpu"):
        check_trainer({"accelerator": accelerator})
    with pytest.raises(ConfigurationError, match="accept another device, such as cpu"):
        device_of({"accelerator": accelerator})


def test_a_number_that_no_device_has() -> None:
    with pytest.raises(ConfigurationError, match=r"^The trainer refuses its arguments: `devices` selected with `CPU"):
        check_trainer({"accelerator": "cpu", "devices": [7]})


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
