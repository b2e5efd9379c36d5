"""Ends a command on SIGTERM, which ``kill``, job queues and shutdowns send, as on Ctrl-C."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDING = b"\nEnding after the images in hand. A second Ctrl-C ends at once.\n"
STDERR = 2


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


@contextmanager
def noted_when_stopped() -> Iterator[Callable[[], bool]]:
    """Only note the first Ctrl-C or SIGTERM, for work that ends by them; a second one ends it at once.

    A signal that is ignored, or that another program handles, stays so.

    Yields:
        Function that says whether a signal has come.
    """
    stopped = False

    def note(number: int, frame: object) -> None:
        nonlocal stopped
        del number, frame
        stopped = True
        restore()
        with suppress(OSError):
            os.write(STDERR, ENDING)  # a stream may be in the middle of another line

    def restore() -> None:
        while earlier:
            signal.signal(*earlier.popitem())

    ending_at_once = (signal.default_int_handler, signal.SIG_DFL, _raise)
    in_main = current_thread() is main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if in_main}
    earlier = {number: handler for number, handler in handlers.items() if handler in ending_at_once}
    for number in tuple(earlier):
        signal.signal(number, note)
    try:
        yield lambda: stopped
    finally:
        restore()
