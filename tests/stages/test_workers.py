"""The contract of workers."""

from __future__ import annotations

import errno
import inspect
import pickle
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from anomalib_tiled.errors import OutOfMemoryError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.workers import Conditions, Outcome, Workers, attempt
from anomalib_tiled.training.workers import LocalWorkers

TILE = TileGrid(Size(4, 4), Size(4, 4), Size(4, 4)).tiles[0]


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


def told(error: Exception, processes: int = 1) -> Exception | None:
    """What is reported of a tile whose training raises this."""

    def fail(tile: Tile) -> None:
        raise error

    return attempt(TILE, fail, processes=processes).error


def test_what_comes_from_elsewhere_is_reported_as_it_is() -> None:
    for error in (ValueError("out of luck"), RuntimeError("shapes differ"), OSError(5, "Input/output error")):
        assert told(error) is error


def test_the_machine_has_no_more_memory() -> None:
    """A real failure of the allocator."""
    outcome = attempt(TILE, lambda tile: torch.empty(2**60))
    assert isinstance(outcome.error, OutOfMemoryError)
    message = str(outcome.error)
    assert message.startswith("The memory of the machine ran out (")
    assert "DefaultCPUAllocator: can't allocate memory" in message
    assert message.endswith("Fit a new run with a smaller data.init_args.train_batch_size or tiling.tile_size.")
    assert "\n" not in message


CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 1 has a total capacity of 15.78 GiB."


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (torch.OutOfMemoryError(CUDA), "GPU 1"),
        (torch.OutOfMemoryError("XPU out of memory."), "the GPU"),
        (torch.OutOfMemoryError("no more"), "the GPU"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "the GPU"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "the GPU"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), "the machine"),
        (MemoryError(), "the machine"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the machine"),
    ],
)
def test_whose_memory_ran_out(error: Exception, whose: str) -> None:
    reason = (str(error) or "MemoryError").splitlines()[0].rstrip(".")
    given = told(error)
    assert isinstance(given, OutOfMemoryError)
    assert str(given).startswith(f"The memory of {whose} ran out ({reason}). Fit a new run with a smaller data.init_")
    assert given.__traceback__ is None, "it does not keep the model in memory"
    assert given.__cause__ is None
    assert str(pickle.loads(pickle.dumps(given))) == str(given)  # noqa: S301  # was pickled on the same line


def test_an_array_that_is_too_large() -> None:
    """A real failure of NumPy."""
    outcome = attempt(TILE, lambda tile: np.ones(2**59))
    assert str(outcome.error).startswith("The memory of the machine ran out (Unable to allocate")


def test_fewer_processes_need_less() -> None:
    advice = (
        "Lower workers.init_args.processes in the config.yaml of the run and resume it, or fit a new run with a smaller"
    )
    assert advice in str(told(torch.OutOfMemoryError(CUDA), 2))
    assert "processes" not in str(told(torch.OutOfMemoryError(CUDA), 1))


def test_memory_may_be_the_cause_of_something_else() -> None:
    error = ValueError("the model cannot be fitted")
    error.__cause__ = TypeError("really")
    error.__cause__.__cause__ = torch.OutOfMemoryError(CUDA)
    assert isinstance(told(error), OutOfMemoryError)


def test_what_failed_is_let_go_of() -> None:
    """Its traceback would keep the model in memory while the next tile is trained."""

    class Model:
        pass

    def fail(tile: Tile) -> None:
        model = Model()
        models.append(weakref.ref(model))
        try:
            {}["a"]
        except KeyError as error:
            message = "out of luck"
            raise ValueError(message) from error

    models: list[weakref.ref[Model]] = []
    outcome = attempt(TILE, fail)
    assert str(outcome.error) == "out of luck"
    assert models[0]() is None
