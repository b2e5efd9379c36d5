"""A lock that lets one thread predict at a time, and that is free in a process that is forked meanwhile."""

from __future__ import annotations

import os
from threading import RLock, get_ident
from typing import ClassVar
from weakref import WeakValueDictionary

import torch

_locks: WeakValueDictionary[int, BatchLock] = WeakValueDictionary()
_held_by_forks: dict[int, list[BatchLock]] = {}


class BatchLock:
    """A reentrant lock for one thread at a time. Copies and pickles of it are unlocked.

    A fork waits until all these locks are free, so that the child gets models without a batch in progress. If a thread
    has ever held a lock, the child computes with one thread: it would wait for PyTorch's threads, which a fork loses.
    """

    _computed: ClassVar[bool] = False
    """Whether a thread of this process has ever held a lock."""

    _lost_threads: ClassVar[bool] = False
    """Whether this process is a fork of such a process, and has not reset its number of threads yet."""

    def __init__(self) -> None:
        self._lock = RLock()
        _locks[id(self)] = self

    def __enter__(self) -> None:
        """Wait until no other thread holds the lock."""
        self.acquire()
        BatchLock._computed = True
        if BatchLock._lost_threads:
            torch.set_num_threads(1)
            BatchLock._lost_threads = False

    def __exit__(self, *_: object) -> None:
        """Release the lock."""
        self.release()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Acquire the lock; return whether that succeeded, which may fail if not ``blocking``."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __reduce__(self) -> tuple[type[BatchLock], tuple[()]]:
        """Pickle and copy as an unlocked lock."""
        return BatchLock, ()

    @classmethod
    def hold_all(cls) -> None:
        """Acquire all locks, before a fork."""
        locks = [lock for reference in _locks.valuerefs() if (lock := reference()) is not None]
        for lock in locks:
            lock.acquire()
        _held_by_forks[get_ident()] = locks

    @classmethod
    def release_all(cls) -> None:
        """Release all locks, after a fork."""
        for lock in _held_by_forks.pop(get_ident()):
            lock.release()

    @classmethod
    def release_all_in_child(cls) -> None:
        """Release the copies of all locks in a forked process."""
        cls.release_all()
        cls._lost_threads |= cls._computed


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(
        before=BatchLock.hold_all,
        after_in_parent=BatchLock.release_all,
        after_in_child=BatchLock.release_all_in_child,
    )
