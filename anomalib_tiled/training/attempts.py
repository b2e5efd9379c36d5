"""The tiles that a fit has tried: which are trained, which failed, and which locations are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, StageError, TrainingError, UnfitLocationError
from anomalib_tiled.stages.contracts import untrained
from anomalib_tiled.training.failures import Failures, advice
from anomalib_tiled.training.unfit import why_not_left_out

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.tile_states import TileRecord
    from anomalib_tiled.stages.workers import Workers


class Attempts:
    """Records the outcome of each tile in the run folder, and decides what failures mean for the run.

    Args:
        run: The run.
        workers: The workers that train its tiles.
        keep_going: Whether to try all tiles, even after two failed for the same reason.
    """

    def __init__(self, run: Run, workers: Workers, *, keep_going: bool) -> None:
        self._run, self._workers = run, workers
        self._failures = Failures(keep_going)
        self._unfit: list[tuple[Tile, UnfitLocationError]] = []

    @property
    def should_stop(self) -> bool:
        """Whether the remaining tiles would fail for the same reason."""
        return self._failures.are_alike

    def succeed(self, tile: Tile) -> TileRecord:
        """Give the record of a tile that the workers report as trained.

        Raises:
            StageError: The tile is not trained.
        """
        if self._run.folder.is_to_train(tile, self._run.settings):
            raise StageError(untrained(self._workers, [tile]))
        return self._run.folder.record(tile)

    def fail(self, tile: Tile, error: Exception) -> None:
        """Record that a tile failed.

        Raises:
            ConfigurationError: The error is one, and so is the same for every tile.
        """
        run = self._run
        if isinstance(error, UnfitLocationError) and not run.folder.has_record(tile):
            self._unfit.append((tile, error))
        fitted = any(map(run.folder.has_record, run.grid.locations))
        run.folder.write_failure(tile, self._failures.add(tile, error, others_fitted=fitted))
        if isinstance(error, ConfigurationError):
            message = "\n".join([str(error), *advice(run.folder, run.grid.tiles)])
            raise ConfigurationError(message) from error

    def finish(self) -> None:
        """Leave out the locations on which the model cannot be fitted.

        Raises:
            TrainingError: Other tiles failed too, or the locations must not be left out.
        """
        run = self._run
        refusal = why_not_left_out(run, [error for _, error in self._unfit]) if self._unfit else None
        if refusal is not None or len(self._unfit) < len(self._failures):
            left = len(run.folder.to_train(run.grid, run.settings))
            raise TrainingError(self._failures.message(run.folder, run.grid.tiles, left, refusal))
        for tile, error in self._unfit:
            run.folder.leave_out(tile, str(error), run.settings.training_hash)
