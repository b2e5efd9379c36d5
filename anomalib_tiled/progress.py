"""Progress bars on the terminal, silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Open a bar on the process's own standard error: what redirects ``sys.stderr`` into a log does not silence it."""
    console = Console(file=sys.__stderr__)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, redirect_stderr=False) as progress:
        yield progress


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and show how many are done and how much time is left.

    Args:
        items: What is to be worked on.
        description: What is being done, for example ``Reading images``.
        total: Number of items; asked of the items themselves if left out.

    Yields:
        The items, one by one.
    """
    with progress_bar() as progress:
        yield from progress.track(items, description=description, total=total if total is not None else _length(items))


def _length(items: Iterable[T]) -> int | None:
    return len(items) if isinstance(items, Sized) else None
