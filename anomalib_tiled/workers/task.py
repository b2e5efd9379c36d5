"""A task, as a place gets it: a function, one item, and how its errors come back."""

from __future__ import annotations

import gc
import pickle
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from anomalib_tiled.errors import OutOfMemoryError
from anomalib_tiled.stages.workers import MEMORY_SETTINGS
from anomalib_tiled.system.import_warnings import without_known_warnings
from anomalib_tiled.system.out_of_memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAILED_GPU = re.compile(r"(CUDA|HIP|cuDNN|MIOpen) error", re.IGNORECASE)
"""Beginning of messages about GPU errors for which PyTorch has no class."""

ONE_AT_A_TIME = Lock()
"""Tasks redirect logs and seed random numbers of their whole process, so threads of one process take turns."""


class UnsentError(RuntimeError):
    """Replaces an error that cannot be sent from one process to another."""


class Work:
    """A function that places call, pickled once, and unpickled once in each process.

    Args:
        function: Takes an item, and by name a ``device`` unless that is ``None``; can be pickled.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self._function: Callable[..., object] | None = function
        self._pickled: bytes | None = None

    def __call__(self, item: object, *, device: int | None = None) -> object:
        """Call the function; what it raises passes."""
        function = self._function or _unpickled(self._pickled or b"")
        return function(item) if device is None else function(item, device=device)

    def __reduce__(self) -> tuple[Callable[[bytes], Work], tuple[bytes]]:
        """Pickle as bytes, so that an error of unpickling is reported with the item."""
        if self._pickled is None:
            self._pickled = pickle.dumps(self._function)
        return _pickled_work, (self._pickled,)


def _pickled_work(content: bytes) -> Work:
    work = Work(_not_unpickled)
    work._function, work._pickled = None, content  # noqa: SLF001  # the other half of __reduce__
    return work


def _not_unpickled(*_: object) -> None:
    """Stand in for a function that has not been unpickled yet."""


@lru_cache(maxsize=2)
def _unpickled(content: bytes) -> Callable[..., object]:
    """Unpickle a function once in a process: it keeps what it has read."""
    with without_known_warnings():  # imports everything, unless this process is a copy of one that has
        function: Callable[..., object] = pickle.loads(content)  # noqa: S301  # made by the command that started this
    return function


@dataclass(frozen=True)
class Answer:
    """How a task ended.

    Args:
        value: What the function returned.
        error: Why it failed; ``None`` if it succeeded.
        lost: Whether every further task would fail here too, because the GPU has failed for this process.
    """

    value: Any = None
    error: Exception | None = None
    lost: bool = False


@dataclass(frozen=True)
class Task:
    """Calls a function with an item. Returns, and never raises, an `Exception`.

    Args:
        work: The function.
        item: The item.
        threads: Processor threads to use; ``None`` leaves their number as it is.
        device: Index of the GPU to work on; ``None`` for the device of the configuration.
        advice: What helps if memory runs out, besides smaller tiles; "" if nothing does.
    """

    work: Work
    item: object
    threads: int | None = None
    device: int | None = None
    advice: str = ""

    def __call__(self) -> Answer:
        """Do it."""
        with ONE_AT_A_TIME, _threads(self.threads):
            try:
                return Answer(self.work(self.item, device=self.device))
            except Exception as error:  # noqa: BLE001  # reported with the name of the item
                known = out_of_memory(error, self._advice) or _without_traceback(error)
        gc.collect()  # failed models refer to themselves, and would keep memory from the next task
        return Answer(error=_sendable(known), lost=gpu_has_failed(known))

    @property
    def _advice(self) -> str:
        return f"{f'{self.advice}, or fit' if self.advice else 'Fit'} a new run with a smaller {MEMORY_SETTINGS}."


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let PyTorch use this number of threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _without_traceback(error: Exception) -> Exception:
    """Remove tracebacks, which keep the failed model in memory; the log of the tile has them."""
    parts: list[BaseException] = [error]
    for part in parts:
        part.__traceback__ = None
        parts += [each for each in (part.__cause__, part.__context__) if each is not None and each not in parts]
    return error


def _sendable(error: Exception) -> Exception:
    """Return an error that can be pickled; of an error that cannot, only its message is kept."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # was pickled on the same line
    except Exception:  # noqa: BLE001  # pickling errors of other packages may raise anything
        return UnsentError(f"{type(error).__name__}: {error}")
    return error


def gpu_has_failed(error: BaseException | None) -> bool:
    """Whether a GPU refuses all further work of the process after this error.

    Such errors are, for example, invalid memory accesses, and assertions that fail on the device.
    """
    if error is None or isinstance(error, OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError) or FAILED_GPU.match(str(error)):
        return True
    return gpu_has_failed(error.__cause__)
