"""Turns every error that means a lack of memory into one that says what to do."""

from __future__ import annotations

import errno
import logging
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomalib_tiled.errors import OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
"""Words of PyTorch's allocators in a plain ``RuntimeError`` when memory runs out, in small letters."""

ON_GPU = re.compile(r"\b(cuda|cublas|cudnn|hip|mps|xpu)", re.IGNORECASE)
"""Names in such a message that mean a GPU."""

MACHINE = "the machine"

LOWER_THE_BUDGET = "Lower memory_budget in the config.yaml of the run (null is a share of what is free)"
"""Beginning of the advice where images are predicted."""


def out_of_memory(error: BaseException, advice: str) -> OutOfMemoryError | None:
    """Turn an error that comes from a lack of memory into one that says what to do.

    Args:
        error: The error.
        advice: What to do; a sentence.

    Returns:
        An error that says which memory ran out, and what to do; ``None`` if the cause was something else. It does not
        refer to the given error, which would keep the failed model in memory.
    """
    if (origin := lack_of_memory(error)) is None:
        return None
    reason = (str(origin).strip() or type(origin).__name__).splitlines()[0].rstrip(".")
    whose = _whose(origin)
    known = OutOfMemoryError(f"The memory of {whose} ran out ({reason}). {advice}")
    known.of_machine = whose == MACHINE
    return known


def lack_of_memory(error: BaseException) -> BaseException | None:
    """Give the first among an error and its causes that says that memory ran out; ``None`` if there is none."""
    if _is_memory(error):
        return error
    return None if error.__cause__ is None else lack_of_memory(error.__cause__)


@contextmanager
def advising_on_memory(advice: str) -> Iterator[None]:
    """Say what to do if memory runs out meanwhile; all other errors stay unchanged.

    Args:
        advice: What to do; a sentence.

    Raises:
        OutOfMemoryError: Memory ran out.
    """
    try:
        yield
    except Exception as error:
        if (known := out_of_memory(error, advice)) is None:
            raise
        logger.info("Memory ran out.", exc_info=True)
        raise known from None


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return (
        isinstance(error, MemoryError)
        or _is_of_pytorch(error)
        or (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS))
    )


def _whose(error: BaseException) -> str:
    """Say which memory ran out; PyTorch names the GPU in its message."""
    text = str(error)
    if named := re.search(r"\bGPU (\d+)", text):
        return f"GPU {named[1]}"
    if _is_of_pytorch(error) or ON_GPU.search(text):
        return "the GPU"
    return MACHINE


def _is_of_pytorch(error: BaseException) -> bool:
    """Whether PyTorch has raised an error, for which it must be loaded: commands that only read results do without."""
    pytorch = sys.modules.get("torch")
    return pytorch is not None and isinstance(error, pytorch.OutOfMemoryError)
