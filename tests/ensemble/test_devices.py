"""Devices that are not there."""

from __future__ import annotations

import pytest
import torch

from anomalib_tiled.ensemble.devices import device_named, device_of
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.training.trainer import check_trainer

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is one")


@pytest.mark.parametrize("name", ["cuda:7", "cuda", "mps", "xpu", "hpu", "tpu", "xla", "meta", "cpu:5", "cpu:-1", ""])
def test_a_device_that_does_not_exist(name: str) -> None:
    message = rf"^The device must be auto, cpu, or an accelerator of this machine, such as cuda:0, but is '{name}': "
    with pytest.raises(ConfigurationError, match=message):
        device_named(name)
    assert device_named("cpu").type == "cpu"


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu"])
def test_a_trainer_without_its_accelerator_names_the_processor(accelerator: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^The trainer .* on the CPU, set --trainer\.accelerator cpu"):
        check_trainer({"accelerator": accelerator})
    with pytest.raises(ConfigurationError, match="accept another device, such as cpu"):
        device_of({"accelerator": accelerator})


def test_a_number_that_no_device_has() -> None:
    with pytest.raises(ConfigurationError, match=r"^The trainer refuses its arguments: `devices` selected with `CPU"):
        check_trainer({"accelerator": "cpu", "devices": [7]})
