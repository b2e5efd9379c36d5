"""Work on places: its values in the order of the items, and what is raised if it fails."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from anomalib_tiled.errors import TiledError, TrainingError
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, advising_on_memory
from anomalib_tiled.system.progress import track
from anomalib_tiled.workers.queue import Named

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.workers.scheduler import Outcome

Item = TypeVar("Item", bound=Named)
Value = TypeVar("Value")

LESS_MEMORY = f"{LOWER_THE_BUDGET} or workers.init_args.processes."
"""Advice if there is too little memory to predict the images of a run."""


@dataclass(frozen=True)
class LoggedWork:
    """Does work, and writes into a log what happens meanwhile.

    Args:
        work: The work.
        log: The log.
    """

    work: Callable[..., object]
    log: Path

    def __call__(self, item: Named, *, device: int | None = None) -> object:
        """Work on an item.

        Raises:
            OutOfMemoryError: Memory ran out.
            TiledError: The work cannot be done.
        """
        with log_to(self.log), advising_on_memory(LESS_MEMORY):
            return self.work(item) if device is None else self.work(item, device=device)


def values_in_order(
    run: Run, work: Callable[[Item], Value], items: Sequence[Item], description: str, log: Path
) -> Generator[Value, None, None]:
    """Do work on all items on places, and yield the values in the order of the items.

    A single item, which is little work, is done in this process, unless places are on other machines: no process has to
    start for it.

    Args:
        run: The run.
        work: Takes an item, and by name a ``device`` unless that is ``None``; can be pickled. Its values are small.
        items: The items, each with a name of its own.
        description: Text of the progress bar.
        log: Log of what happens on places.

    Raises:
        TiledError: The work cannot be done.
    """
    if len(items) == 1 and not run.scheduler.workers.elsewhere:
        yield work(items[0])
        return
    done: dict[str, Value] = {}
    missing = iter(items)
    following = next(missing, None)
    with closing(run.on_places(LoggedWork(work, log), items)) as outcomes:
        for outcome in track(outcomes, description, len(items), run.scheduler.describe_places):
            done[outcome.item.name] = value_of(outcome, f"{description} failed for {outcome.item.name}", log)
            while following is not None and following.name in done:
                yield done.pop(following.name)
                following = next(missing, None)


def value_of(outcome: Outcome[Item], failure: str, log: Path) -> Any:  # noqa: ANN401  # as of an Outcome
    """Give the value of an item.

    Args:
        outcome: How the work on it ended.
        failure: What has failed, if the error does not say so itself.
        log: Log with the cause.

    Raises:
        TiledError: The work has failed.
    """
    if isinstance(outcome.error, TiledError):
        raise outcome.error
    if outcome.error is not None:
        reason = f"{type(outcome.error).__name__}: {outcome.error}"
        message = f"{failure}: {reason} (log: {log})"
        raise TrainingError(message) from outcome.error
    return outcome.value
