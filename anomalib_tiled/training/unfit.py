"""Locations where a model cannot be fitted, such as a blank margin, as opposed to other failures."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import LightningModule

from anomalib_tiled.errors import UnfitLocationError
from anomalib_tiled.system.out_of_memory import lack_of_memory
from anomalib_tiled.workers.task import gpu_has_failed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_job import RunData, TileJob
    from anomalib_tiled.grid import Tile

ARITHMETIC = (RuntimeError, ValueError, ArithmeticError, IndexError)
"""Errors of models and numerical libraries about numbers that they cannot work with; LinAlgErrors are among them."""

FLAT = 4 / 255
"""Fraction of the range from black to white within which nearly all pixels of a blank tile lie."""

BUT_FOR = 0.01
"""Share of the pixels of a blank tile that may lie outside that range: dust, or noise."""


@contextmanager
def errors_naming_unfit_locations(job: TileJob, tile: Tile) -> Iterator[None]:
    """Turn an error of the model itself into an UnfitLocationError; raise all other errors unchanged.

    Raises:
        UnfitLocationError: The model raised an error, and neither memory nor GPU failed.
    """
    try:
        yield
    except ARITHMETIC as error:
        if lack_of_memory(error) is not None or gpu_has_failed(error) or not _is_of_a_model(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise unfit_location(job, tile, f"{type(error).__name__.lstrip('_')}: {reason}") from error


def unfit_location(job: TileJob, tile: Tile, reason: str) -> UnfitLocationError:
    """Make the error for a location where the model cannot be fitted, or for those that share a model.

    Args:
        job: The job of training the location.
        tile: The location; the first of those that share its model.
        reason: Why the model cannot be fitted.
    """
    blank = all(_is_blank(job.data, each) for each in job.grid.members(tile))
    shown = ", which are blank, or the same in all images" if blank else ""
    error = UnfitLocationError(f"{job.settings.model.name} cannot be fitted on these tiles{shown}: {reason}")
    error.blank = blank
    return error


def why_not_left_out(run: Run, unfit: Collection[UnfitLocationError]) -> str | None:
    """Say why the run does not leave out locations; ``None`` if it may.

    The failed tiles that are not blank must not outnumber the fitted tiles: otherwise the model fails wherever there
    is something to learn, and the cause is the model or its settings.

    Args:
        run: The run, after all tiles were tried.
        unfit: A failure for each location where the model cannot be fitted, at least one.
    """
    fitted = sum(map(run.folder.seen().has_record, run.grid.model_locations))
    if not fitted:
        return "No tile could be fitted, so the cause is the model, its settings or the images, not a location."
    if (of_content := sum(not error.blank for error in unfit)) > fitted:
        return (
            f"{of_content} tiles that are not blank could not be fitted, and only {fitted} could, so the cause is the "
            "model or its settings, not the locations."
        )
    if run.settings.unfitted_tiles == "error":
        return "To leave out the locations where the model cannot be fitted, set unfitted_tiles: leave_out."
    return None


def _is_of_a_model(error: BaseException) -> bool:
    """Whether a model raised the error, not a callback, a data loader or the trainer."""
    trace = error.__traceback__
    while trace is not None:
        if isinstance(trace.tb_frame.f_locals.get("self"), LightningModule):
            return True
        trace = trace.tb_next
    return False


def _is_blank(data: RunData, tile: Tile) -> bool:
    """Whether a location is blank: no training image has any contrast there, or all are the same."""
    lowest = highest = None
    plain = True
    for sample in data.split.subset("train"):
        scaled = data.source.image(sample, tile.rows, tile.columns) / 255
        plain = plain and _nearly_all_within(np.abs(scaled - np.median(scaled, axis=(0, 1))))
        lowest = scaled if lowest is None else np.minimum(lowest, scaled)
        highest = scaled if highest is None else np.maximum(highest, scaled)
    return plain or lowest is None or highest is None or _nearly_all_within(highest - lowest)


def _nearly_all_within(distances: NDArray[np.floating]) -> bool:
    return bool(np.quantile(distances, 1 - BUT_FOR) <= FLAT)
