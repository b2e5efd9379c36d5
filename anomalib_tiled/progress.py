"""Progress bars on the terminal, silent where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import Task

T = TypeVar("T")


class SpeedColumn(ProgressColumn):
    """How many of something are done in a second.

    Args:
        unit: What is done, such as ``images``.
    """

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Show the speed of the last half minute."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


@contextmanager
def progress_bar(unit: str | None = None) -> Iterator[Progress]:
    """Open a bar on the process's own standard error: what redirects ``sys.stderr`` into a log does not silence it.

    Args:
        unit: What is done, if it shall be shown how many of it are done in a second.
    """
    console = Console(file=sys.__stderr__)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        *([] if unit is None else [SpeedColumn(unit)]),
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
