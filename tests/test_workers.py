"""The contract of workers."""

from __future__ import annotations

import inspect

import pytest

from anomalib_tiled.training.workers import LocalWorkers
from anomalib_tiled.workers import Workers


def test_workers_must_train() -> None:
    assert inspect.isabstract(Workers)
    with pytest.raises(TypeError, match="train"):
        Workers()


def test_the_built_in_workers_take_what_the_contract_gives() -> None:
    assert inspect.signature(LocalWorkers.train) == inspect.signature(Workers.train)
