"""A lock that lets one thread predict at a time, and that a process which is forked meanwhile does not wait for."""

from __future__ import annotations

import os
from threading import RLock, get_ident
from typing import ClassVar
from weakref import WeakValueDictionary

import torch

_locks: WeakValueDictionary[int, BatchLock] = WeakValueDictionary()
_held_by_forks: dict[int, list[BatchLock]] = {}


class BatchLock:
    """Lets one thread in at a time, which may come in again. Copies and pickles of it are unlocked.

    A fork waits until nobody is in, so that the child gets objects that are at work on nothing. If anybody has been in,
    the child computes with one thread: those that PyTorch had in the parent are gone, and would be waited for.
    """

    _computed: ClassVar[bool] = False
    """Whether this process has computed."""

    _lost_threads: ClassVar[bool] = False
    """Whether the process that this one is a copy of had."""

    def __init__(self) -> None:
        self._lock = RLock()
        _locks[id(self)] = self

    def __enter__(self) -> None:
        """Wait until nobody else is in."""
        self.acquire()
        BatchLock._computed = True
        if BatchLock._lost_threads:
            torch.set_num_threads(1)
            BatchLock._lost_threads = False

    def __exit__(self, *_: object) -> None:
        """Let the next one in."""
        self.release()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Keep others out; say whether that was possible at once, if it must be."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Let others in again."""
        self._lock.release()

    def __reduce__(self) -> tuple[type[BatchLock], tuple[()]]:
        """Travel unlocked."""
        return BatchLock, ()

    @classmethod
    def hold_all(cls) -> None:
        """Wait until nobody is in, and keep all others out."""
        locks = [lock for reference in _locks.valuerefs() if (lock := reference()) is not None]
        for lock in locks:
            lock.acquire()
        _held_by_forks[get_ident()] = locks

    @classmethod
    def release_all(cls) -> None:
        """Let others in again."""
        for lock in _held_by_forks.pop(get_ident()):
            lock.release()

    @classmethod
    def release_all_in_child(cls) -> None:
        """Let others in that are copies of what was held."""
        cls.release_all()
        cls._lost_threads |= cls._computed


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(
        before=BatchLock.hold_all,
        after_in_parent=BatchLock.release_all,
        after_in_child=BatchLock.release_all_in_child,
    )
