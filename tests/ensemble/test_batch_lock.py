"""One thread at a time, and forks that wait for nobody."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from copy import deepcopy
from threading import Event, Thread

import pytest
import torch

from anomalib_tiled.ensemble.batch_lock import BatchLock

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # of Python 3.12: other threads are running
]

PATIENCE = 30.0
"""Seconds after which a child hangs."""


def exit_of_child(work: Callable[[], object]) -> int | None:
    """Fork, do something in the child, and give how it ended; ``None`` if it hangs."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def entered(lock: BatchLock) -> bool:
    with lock:
        return True


def test_a_child_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    lock, inside = BatchLock(), Event()

    def work() -> None:
        with lock:
            inside.set()
            time.sleep(0.3)

    thread = Thread(target=work)
    thread.start()
    inside.wait()
    assert exit_of_child(lambda: entered(lock)) == 0
    thread.join()
    assert lock.acquire(blocking=False), "the parent holds nothing any more"


def test_who_is_in_may_fork() -> None:
    lock = BatchLock()
    with lock:
        assert exit_of_child(lambda: entered(lock)) == 0
    assert exit_of_child(lambda: entered(lock)) == 0


def test_a_child_whose_parent_has_computed_does_so_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchLock, "_computed", False)
    lock, threads = BatchLock(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert exit_of_child(lambda: entered(lock) and torch.get_num_threads() == 2) == 0
        entered(lock)
        assert exit_of_child(lambda: entered(lock) and torch.get_num_threads() == 1) == 0
        assert exit_of_child(lambda: entered(BatchLock()) and torch.get_num_threads() == 1) == 0
        assert exit_of_child(lambda: torch.get_num_threads() == 2) == 0, "it may have other plans"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_copies_are_unlocked() -> None:
    with (lock := BatchLock()):
        for copied in (deepcopy(lock), pickle.loads(pickle.dumps(lock))):  # noqa: S301  # made on the same line
            thread = Thread(target=entered, args=(copied,))
            thread.start()
            thread.join(PATIENCE)
            assert not thread.is_alive()
