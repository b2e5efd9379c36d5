"""Items that wait for a place: which one a place gets next, and whether one that was lost is tried again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from anomalib_tiled.errors import OutOfMemoryError
from anomalib_tiled.stages.workers import KilledError, PreemptedError

if TYPE_CHECKING:
    from collections.abc import Iterable

TRIES = 3
"""How often an item is given to a place: a place may end by chance, but one item may also end every place."""

PREEMPTIONS = 20
"""How often places may be taken back from an item: work that takes longer than places live would never end."""

Where = tuple[str, int | None]
"""Name of a machine, and index of a GPU."""


class Named(Protocol):
    """What work is done on: a tile, or a shard of images."""

    @property
    def name(self) -> str:
        """Name in messages."""


@dataclass(eq=False)
class Job:
    """An item that is to be done.

    Args:
        item: The item.
        tries: How many places have failed with it.
        preemptions: How many places were taken back from it.
        lost_at: Where it was lost last.
        alone: Whether memory was short for it, so that it gets its last try while nothing else runs.
    """

    item: Named
    tries: int = 0
    preemptions: int = 0
    lost_at: Where | None = None
    alone: bool = False


class Queue:
    """The items that wait. Those for which memory was short come last, one at a time.

    Args:
        items: All items, in their order.
    """

    def __init__(self, items: Iterable[Named] = ()) -> None:
        self.waiting = deque(map(Job, items))
        self._alone: deque[Job] = deque()

    def __len__(self) -> int:
        """Number of items that wait."""
        return len(self.waiting) + len(self._alone)

    def next_for(self, where: Where, *, others: bool) -> Job | None:
        """Take the first item that was not lost where this place is.

        Args:
            where: Where the place is.
            others: Whether there are places elsewhere; if not, the first item of all is taken.
        """
        for position, job in enumerate(self.waiting):  # lost items are the first, so this looks at few
            if job.lost_at != where or not others:
                del self.waiting[position]
                return job
        return None

    def next_alone(self) -> Job | None:
        """Take an item for its last try."""
        return None if self.waiting or not self._alone else self._alone.popleft()

    def put_back(self, job: Job, error: Exception, *, counts: bool, others: bool) -> bool:
        """Put a lost item back, so that the next place elsewhere gets it, unless it has been tried too often.

        Args:
            job: The item, and where it was lost.
            error: Why.
            counts: Whether the item may have been the cause.
            others: Whether there were other places, which have taken memory, too. Other programs may also have done so
                before a place was killed, so that is tried again in any case.
        """
        if is_short_of_memory(error):
            if job.alone or not (others or isinstance(error, KilledError)):
                return False
            job.alone = True
        elif isinstance(error, PreemptedError):
            job.preemptions += 1
        else:
            job.tries += counts
        if job.tries >= TRIES or job.preemptions >= PREEMPTIONS:
            return False
        if job.alone:
            self._alone.append(job)
        else:
            self.waiting.appendleft(job)
        return True


def is_short_of_memory(error: BaseException) -> bool:
    """Whether the memory of the machine ran out, which all its places share."""
    return isinstance(error, KilledError) or (isinstance(error, OutOfMemoryError) and error.of_machine)
