"""The system asks a command to end, as ``kill``, a job queue or a shutdown do: it ends as after Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM has come. Whoever cleans up, or says how to go on, after Ctrl-C does so now."""


@contextmanager
def raised_when_terminated() -> Iterator[None]:
    """Have SIGTERM raise what Ctrl-C does; a second one ends the process at once.

    Whoever has set up something of his own for it keeps that.

    Raises:
        Terminated: It has come.
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
