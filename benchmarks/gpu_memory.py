"""Memory of a GPU, watched from outside by ``nvidia-smi``, which comes with the driver."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEBIBYTE = 2**20

SECONDS_BETWEEN_LOOKS = 0.2
"""PyTorch keeps the memory of a process until that ends, so that few looks find the most."""


@dataclass
class GpuWatch:
    """What a GPU has held while it was watched.

    Args:
        before: Bytes that were in use before.
        most: Most bytes that were in use; ``None`` if no look succeeded.
    """

    before: int
    most: int | None = None

    @property
    def peak(self) -> int | None:
        """Most bytes beyond those before, of all processes: tensors, what PyTorch keeps, and what CUDA needs itself."""
        return None if self.most is None else max(0, self.most - self.before)

    def look(self, gpu: str) -> None:
        """Look once.

        Args:
            gpu: Index or UUID of the GPU.
        """
        if (used := bytes_of(_asked(gpu, "memory.used"))) is not None:
            self.most = max(used, self.most or 0)


def card(gpu: str) -> str:
    """Give name, memory and driver of a GPU.

    Args:
        gpu: Its index or UUID.
    """
    name, memory, driver = (_asked(gpu, field) for field in ("name", "memory.total", "driver_version"))
    return f"{name}, {memory} MiB, driver {driver}"


def in_use(gpu: str) -> int:
    """Give the bytes of a GPU that are in use; 0 if its driver does not say.

    Args:
        gpu: Its index or UUID.
    """
    return bytes_of(_asked(gpu, "memory.used")) or 0


@contextmanager
def watched(gpu: str, before: int) -> Iterator[GpuWatch]:
    """Watch the memory of a GPU meanwhile.

    Args:
        gpu: Its index or UUID.
        before: Bytes that other programs use.
    """
    watch, ended = GpuWatch(before), Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            watch.look(gpu)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()


def bytes_of(printed: str) -> int | None:
    """Read a number of mebibytes.

    Args:
        printed: What ``nvidia-smi`` has printed.

    Returns:
        Bytes; ``None`` if it is no number, as for a part of a GPU.
    """
    return int(printed) * MEBIBYTE if printed.isdecimal() else None


def _asked(gpu: str, field: str) -> str:
    command = ["nvidia-smi", "--format=csv,noheader,nounits", f"--query-gpu={field}", f"--id={gpu}"]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip()  # noqa: S603
