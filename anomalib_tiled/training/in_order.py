"""Work on places whose results are needed in the order of the items."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Value = TypeVar("Value")


def values_in_order(work: Callable[[Item], Value], items: Sequence[Item], description: str) -> Iterator[Value]:
    """Do the same work on all items.

    Args:
        work: Work on one item.
        items: The items.
        description: Text of the progress bar.
    """
    for item in track(items, description):
        yield work(item)
