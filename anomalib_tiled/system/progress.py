"""Progress bars on a terminal; elsewhere silence, or a line now and then."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10
"""Time between two progress lines where there is no terminal."""


class _Where(ProgressColumn):
    """Shows what the field ``where`` of a task, a function, returns at the moment."""

    def render(self, task: Task) -> Text:
        """Give the text."""
        where = task.fields.get("where")
        return Text("" if where is None else where())


def progress_bar(*, shown: bool = True) -> Progress:
    """Give a bar on the standard error of the process, where it is visible while ``sys.stderr`` goes into a log.

    Args:
        shown: Whether to show it, if standard error is a terminal.
    """
    console = Console(file=sys.__stderr__)
    description, left = TextColumn("{task.description}"), TextColumn("left")
    columns = (
        description,
        _Where(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        left,
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not (shown and console.is_terminal), redirect_stderr=False)


def track(
    items: Iterable[T], description: str, total: int | None = None, where: Callable[[], str] | None = None
) -> Iterator[T]:
    """Yield the items and show how many are done and how much time is left.

    Args:
        items: The items.
        description: The work, for example ``Reading images``.
        total: Number of items; ``None`` for their length, if they have one.
        where: Gives what is shown behind the description, such as the number of places.

    Yields:
        The items, one by one.
    """
    with progress_bar() as progress:
        task = progress.add_task(description, total=total, where=where)
        yield from progress.track(items, total=total, task_id=task)


@contextmanager
def steps(description: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show finished steps and the time that is left: as a bar on a terminal, as lines elsewhere.

    Each step is logged, too.

    Args:
        description: The work, for example ``Exporting``.
        total: Number of steps.

    Yields:
        Function to call after each step, with the name of the step.
    """
    started = printed = monotonic()
    done = 0
    with progress_bar() as progress:
        task = progress.add_task(description, total=total)

        def step(what: str) -> None:
            nonlocal done, printed
            done, now = done + 1, monotonic()
            left = (now - started) / done * (total - done)
            line = f"{description}: {what} done, {done} of {total} steps, about {left:.0f} s left"
            logger.info("%s", line)
            progress.update(task, completed=done)
            if progress.disable and now - printed >= SECONDS_BETWEEN_LINES:
                printed = now
                print(line, file=sys.__stderr__, flush=True)  # a line instead of a bar

        yield step
