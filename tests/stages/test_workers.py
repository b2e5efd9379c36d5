"""The contract of workers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

import pytest

from anomalib_tiled.grid import Tile
from anomalib_tiled.stages.workers import Conditions, Outcome, Workers
from anomalib_tiled.training.workers import LocalWorkers


def test_workers_must_train() -> None:
    assert Workers.__abstractmethods__ == {"train"}, "and nothing else"
    with pytest.raises(TypeError, match="train"):
        Workers()


def test_the_built_in_workers_take_what_the_contract_gives() -> None:
    for method in ("adapt", "start", "train"):
        assert inspect.signature(getattr(LocalWorkers, method)) == inspect.signature(getattr(Workers, method))


def test_workers_need_not_look_at_what_the_run_says() -> None:
    class Plain(Workers):
        def train(self, tiles: Sequence[Tile], train_tile: object) -> Iterator[Outcome]:
            return iter([])

    plain = Plain()
    plain.adapt(Conditions(threads=2))
    plain.start()
    assert vars(plain) == {}, "they are as they were"


@pytest.mark.parametrize(
    ("accelerator", "devices", "free"),
    [
        ("auto", "auto", True),
        ("gpu", "auto", True),
        ("cuda", "auto", True),
        ("cpu", "auto", False),
        ("auto", 1, False),
        ("gpu", [1], False),
        ({"class_path": "lightning.pytorch.accelerators.CPUAccelerator"}, "auto", False),
    ],
)
def test_whether_a_tile_may_be_trained_on_any_gpu(accelerator: object, devices: object, *, free: bool) -> None:
    assert Conditions(accelerator, devices).any_gpu == free
