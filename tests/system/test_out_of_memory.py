"""An error from a lack of memory says so, whatever was raised around it."""

from __future__ import annotations

import errno
import logging
import pickle

import numpy as np
import pytest
import torch

from anomalib_tiled.errors import ConfigurationError, OutOfMemoryError, StorageError
from anomalib_tiled.system.out_of_memory import advising_on_memory, lack_of_memory, out_of_memory

CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 1 has a total capacity of 15.78 GiB."


def test_it_is_said_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    message = r"^The memory of the machine ran out \(.*can't allocate memory.*\)\. Buy more\.$"
    with pytest.raises(OutOfMemoryError, match=message), advising_on_memory("Buy more."):
        torch.empty(2**60)
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (torch.OutOfMemoryError(CUDA), "GPU 1"),
        (torch.OutOfMemoryError("no more"), "the GPU"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), "the GPU"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), "the GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "the GPU"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), "the machine"),
        (MemoryError(), "the machine"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "the machine"),
    ],
)
def test_whose_memory_ran_out_is_known_in_other_processes_too(error: Exception, whose: str) -> None:
    reason = (str(error) or "MemoryError").splitlines()[0].rstrip(".")
    sent = pickle.loads(pickle.dumps(out_of_memory(error, "Buy more.")))  # noqa: S301  # was pickled on the same line
    assert str(sent) == f"The memory of {whose} ran out ({reason}). Buy more."
    assert sent.of_machine == (whose == "the machine")
    assert sent.__cause__ is None, "it does not keep the model in memory"


def test_an_array_that_is_too_large() -> None:
    """A real failure of NumPy."""
    with (
        pytest.raises(OutOfMemoryError, match=r"machine ran out \(Unable to allocate"),
        advising_on_memory("Buy more."),
    ):
        np.ones(2**59)


def test_the_first_advice_holds() -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"GPU 1 ran out \(CUDA .*\)\. First\.$"),
        advising_on_memory("Second."),
        advising_on_memory("First."),
    ):
        raise torch.OutOfMemoryError(CUDA)


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("shapes differ"), StorageError("full")])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, advising_on_memory("Buy more."):
        raise error
    assert raised.value is error


def test_it_is_found_among_the_causes() -> None:
    error, origin = ConfigurationError("Padim cannot be made"), torch.OutOfMemoryError(CUDA)
    assert lack_of_memory(error) is None
    error.__cause__ = RuntimeError("no")
    error.__cause__.__cause__ = origin
    assert lack_of_memory(error) is origin
