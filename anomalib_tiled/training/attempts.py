"""The tiles that a fit has tried: which are trained, which failed for which reason, which locations are left out."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomalib_tiled.errors import (
    ConfigurationError,
    NoPlaceError,
    OutOfMemoryError,
    StageError,
    TrainingError,
    UnfitLocationError,
)
from anomalib_tiled.stages.contracts import untrained
from anomalib_tiled.stages.workers import PlaceError
from anomalib_tiled.system.files import refresh
from anomalib_tiled.training.unfit import why_not_left_out
from anomalib_tiled.workers.task import gpu_has_failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.runs.tile_record import TileRecord

ALIKE = 2
"""Tiles that fail for the same reason before training stops: such a reason would stop every tile."""


class Attempts:
    """Records the outcome of each tile in the run folder, and decides what failures mean for the run.

    Args:
        run: The run.
        keep_going: Whether to try all tiles, even after two failed for the same reason.
    """

    def __init__(self, run: Run, *, keep_going: bool) -> None:
        self._run = run
        self._failures = Failures(keep_going)
        self._unfit: list[tuple[Tile, UnfitLocationError]] = []
        self._fitted = False

    @property
    def should_stop(self) -> bool:
        """Whether the remaining tiles would fail for the same reason."""
        return self._failures.are_alike

    @contextmanager
    def advising(self) -> Iterator[None]:
        """Say what is done and how to resume if no place is left to train at.

        Raises:
            NoPlaceError: No place is left.
        """
        try:
            yield
        except NoPlaceError as error:
            run, tiles = self._run, self._run.grid.models
            done = len(tiles) - len(run.folder.to_train(run.grid, run.settings))
            state = f"{done} of {len(tiles)} tiles are done, and stay."
            message = "\n".join([str(error), state, *advice(run.folder, tiles)])
            raise NoPlaceError(message) from error

    def succeed(self, tile: Tile) -> TileRecord:
        """Give the record of a tile that the workers report as trained.

        Raises:
            StageError: The tile is not trained.
        """
        folder, settings = self._run.folder, self._run.settings
        if folder.is_to_train(tile, settings):
            refresh(folder.tiles)
            if folder.is_to_train(tile, settings):
                raise StageError(untrained(self._run.scheduler.workers, [tile]))
        return folder.record(tile)

    def fail(self, tile: Tile, error: Exception) -> None:
        """Record that a tile failed.

        Raises:
            ConfigurationError: The error is one, and so is the same for every tile.
        """
        run = self._run
        if isinstance(error, UnfitLocationError) and not run.folder.has_record(tile):
            self._unfit.append((tile, error))
        # Looked up only where it matters: ten thousand tiles that fail would look for ten thousand records each.
        fitted = isinstance(error, UnfitLocationError) and self._any_fitted()
        run.folder.write_failure(tile, self._failures.add(tile, error, others_fitted=fitted))
        if isinstance(error, ConfigurationError):
            message = "\n".join([str(error), *advice(run.folder, run.grid.models)])
            raise ConfigurationError(message) from error

    def _any_fitted(self) -> bool:
        """Whether the model was fitted on a tile; once it was, nothing is looked up any more."""
        if not self._fitted:
            seen = self._run.folder.seen()
            self._fitted = any(map(seen.has_record, self._run.grid.model_locations))
        return self._fitted

    def finish(self) -> None:
        """Leave out the locations on which the model cannot be fitted.

        Raises:
            TrainingError: Other tiles failed too, or the locations must not be left out.
        """
        run = self._run
        refusal = why_not_left_out(run, [error for _, error in self._unfit]) if self._unfit else None
        if refusal is not None or len(self._unfit) < len(self._failures):
            left = len(run.folder.to_train(run.grid, run.settings))
            raise TrainingError(self._failures.message(run.folder, run.grid.models, left, refusal))
        for tile, error in self._unfit:
            run.folder.leave_out(tile, str(error), run.settings.training_hash)


@dataclass
class Failures:
    """Tiles that could not be trained.

    Args:
        keep_going: Whether to try all other tiles, however many fail for the same reason.
    """

    keep_going: bool = False
    _reasons: dict[str, str] = field(default_factory=dict)
    _tiles: dict[str, list[Tile]] = field(default_factory=dict)
    _lasting: Counter[str] = field(default_factory=Counter)

    def add(self, tile: Tile, error: Exception, *, others_fitted: bool) -> str:
        """Record a failure, and return its reason for the record of the tile.

        Args:
            tile: The tile.
            error: Why it failed.
            others_fitted: Whether the model was fitted on another tile.
        """
        of_location = isinstance(error, UnfitLocationError) and (error.blank or others_fitted)
        reason = str(error) if isinstance(error, UnfitLocationError) else f"{type(error).__name__}: {error}"
        kind = reason.replace(tile.name, "the tile")  # other tiles may fail with the same error and their own name
        self._reasons.setdefault(kind, reason)
        self._tiles.setdefault(kind, []).append(tile)
        self._lasting[kind] += not of_location and not _is_temporary(error)
        return reason

    def __len__(self) -> int:
        """Number of tiles that could not be trained."""
        return sum(map(len, self._tiles.values()))

    @property
    def are_alike(self) -> bool:
        """Whether training should stop, because every other tile would fail for the same reason."""
        return not self.keep_going and any(number >= ALIKE for number in self._lasting.values())

    def message(self, folder: RunFolder, tiles: Sequence[Tile], left: int, refusal: str | None = None) -> str:
        """List which tiles failed for which reason, and how to resume.

        Args:
            folder: The run.
            tiles: All tiles of the run.
            left: Number of tiles that are still to be trained.
            refusal: Why the run does not leave out locations where the model cannot be fitted; ``None`` if there are
                none.
        """
        causes = [
            f"{', '.join(tile.name for tile in failed)}: {self._reasons[kind]} (log: {folder.tile_log(failed[0])})"
            for kind, failed in self._tiles.items()
        ]
        refusals = [] if refusal is None else [refusal]
        further = advice(folder, tiles, stopped=self.are_alike)
        return "\n".join([self._heading(len(tiles), left), *causes, *refusals, *further])

    def _heading(self, number: int, left: int) -> str:
        if not self.are_alike:
            done = "all others are done" if len(self) < number else "none is done"
            return f"{len(self)} tiles could not be trained; {done}."
        return (
            f"{len(self)} tiles could not be trained. Training stopped, because {ALIKE} failed for the same "
            f"reason: {number - left} of {number} tiles are done, {left} are left."
        )


def advice(folder: RunFolder, tiles: Sequence[Tile], *, stopped: bool = False) -> list[str]:
    """Say how to fix a run whose training has failed, and how to resume it; a line each.

    Args:
        folder: The run.
        tiles: All tiles of the run.
        stopped: Whether training stopped before all tiles were tried.
    """
    command, seen = f"anomalib tiled fit --ckpt_dir {folder.path}", folder.seen()
    done = ",".join(tile.name for tile in tiles if seen.has_record(tile))
    again = f", and train the tiles that are done again: `{command} --tiles {done}`" if done else ""
    lines = [
        f"Fix the cause, then resume with `{command}`.",
        f"If a setting of model, data, trainer or workers is the cause, change it in {folder.config_file}{again}.",
    ]
    return [*lines, f"To try all other tiles anyway: `{command} --keep_going`."] if stopped else lines


def _is_temporary(error: Exception) -> bool:
    """Whether another tile may succeed, or this one later: a process, its memory or its GPU failed."""
    return isinstance(error, (PlaceError, OutOfMemoryError)) or gpu_has_failed(error)
