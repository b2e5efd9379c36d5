from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from anomalib_tiled.errors import OutOfMemoryError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.training.worker import KilledError, Place, Worker, gpu_has_failed

TILE = TileGrid(Size(4, 4), Size(4, 4), Size(4, 4)).tiles[0]
ASSERTION = "CUDA error: device-side assert triggered\nCUDA kernel errors might be reported at some other call."


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("an illegal memory access was encountered"),
        RuntimeError(ASSERTION),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("HIP error: invalid device function"),
        caused(ValueError("the model cannot be fitted"), torch.AcceleratorError(ASSERTION)),
    ],
)
def test_a_gpu_may_fail_for_good(error: Exception) -> None:
    assert gpu_has_failed(error)


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("out of luck"),
        ValueError("This is no CUDA error"),
        OutOfMemoryError("The memory of GPU 1 ran out (CUDA error: out of memory)."),
        caused(OutOfMemoryError("The memory of GPU 1 ran out."), RuntimeError("CUDA error: out of memory")),
    ],
)
def test_after_other_errors_it_goes_on(error: Exception | None) -> None:
    assert not gpu_has_failed(error)


@pytest.mark.parametrize("failure", [None, ValueError("out of luck"), KeyboardInterrupt()])
def test_a_tile_is_trained_with_the_threads_of_its_place(failure: BaseException | None) -> None:
    def train(tile: Tile) -> None:
        seen.append(torch.get_num_threads())
        if failure is not None:
            raise failure

    seen: list[int] = []
    before = torch.get_num_threads()
    try:
        Place(before + 1).attempt(TILE, train)
    except KeyboardInterrupt:
        seen.append(0)
    assert seen[0] == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("code", "again", "said"),
    [
        (-9, False, "the process was killed, as the system does when memory is short. Lower workers.init_args"),
        (
            -9,
            True,
            "the process was killed more than once, as the system does when memory is short. Lower workers.init_args",
        ),
        (7, False, "the process ended with exit code 7"),
        (7, True, "the process ended more than once with exit code 7"),
    ],
)
def test_it_is_said_how_a_process_died(code: int, *, again: bool, said: str) -> None:
    worker = Worker(Place(1), Mock(exitcode=code), Mock())
    assert str(worker.exit_report(again=again)).startswith(said)
    assert isinstance(worker.exit_report(again=again), KilledError) == (code == -9)
