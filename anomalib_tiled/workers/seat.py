"""A place as the scheduler sees it, and what has become of those that are gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.errors import TiledError
from anomalib_tiled.stages.workers import PlaceError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from anomalib_tiled.stages.workers import Place
    from anomalib_tiled.workers.proof import PlaceReport
    from anomalib_tiled.workers.queue import Job, Where
    from anomalib_tiled.workers.task import Answer

NAMED = 3
"""Places that the last message names at most for each reason."""


@dataclass(eq=False)
class Seat:
    """A place, and what it does.

    Args:
        place: The place.
        future: The answer that it owes; ``None`` while it is idle.
        report: Its proof, once it has given it.
        job: What it works on; ``None`` for its proof, or nothing.
        kept: Whether it has been idle since earlier work, and may have ended meanwhile.
    """

    place: Place
    future: Future[Answer] | None = None
    report: PlaceReport | None = None
    job: Job | None = None
    kept: bool = False

    @property
    def where(self) -> Where:
        """Machine and GPU."""
        return ("" if self.report is None else self.report.host), self.place.device

    @property
    def is_ready(self) -> bool:
        """Whether it can be given an item."""
        return self.report is not None and self.future is None


class Reasons:
    """Why places have ended or were excluded."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = {}

    def add(self, place: str, reason: str) -> None:
        """Note why a place has gone."""
        self._places.setdefault(reason, []).append(place)

    def lines(self) -> list[str]:
        """Say for each reason which places it was."""
        return [f"{_names(places)}: {reason}" for reason, places in self._places.items()]


def _names(places: list[str]) -> str:
    more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
    return f"{', '.join(places[:NAMED])}{more}"


def message_of(error: BaseException) -> str:
    """Give the message of an error, with its class unless it was written for users."""
    return str(error) if isinstance(error, (TiledError, PlaceError)) else f"{type(error).__name__}: {error}"
