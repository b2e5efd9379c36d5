"""Ends a command on SIGTERM, which ``kill``, job queues and shutdowns send, as on Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. Code that cleans up, or says how to resume, after Ctrl-C does so now too."""


@contextmanager
def raised_when_terminated() -> Iterator[None]:
    """Turn SIGTERM into an error like that of Ctrl-C; a second one ends the process at once.

    A handler that another program has set for SIGTERM stays.

    Raises:
        Terminated: SIGTERM has come.
    """
    if current_thread() is not main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(number: int, frame: object) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise Terminated
