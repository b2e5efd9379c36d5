"""Default precision and device of new PyTorch tensors, independent of the program that imports this package."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL = torch.float32
"""Precision in which models are made and predict."""


class _DefaultPrecision:
    """Sets PyTorch's default precision, which all threads share: the first thread sets it, the last one resets it."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, USUAL

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(USUAL)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.set_default_dtype(self._before)


_PRECISION = _DefaultPrecision()


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Make new tensors on the CPU and in single precision, as models expect; also a decorator."""
    elsewhere = nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with _PRECISION, elsewhere:
        yield
