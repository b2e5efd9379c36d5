"""A lack of memory is told as one, whatever was raised around it."""

from __future__ import annotations

import errno
import logging
import pickle

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
    ("error", "of_machine"),
    [(MemoryError(), True), (OSError(errno.ENOMEM, "no"), True), (torch.OutOfMemoryError(CUDA), False)],
)
def test_it_is_known_in_other_processes_whose_it_was(error: Exception, *, of_machine: bool) -> None:
    pickled = pickle.dumps(out_of_memory(error, "Buy more."))
    assert pickle.loads(pickled).of_machine == of_machine  # noqa: S301  # was pickled on the line before


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
