"""Locations on which a model cannot be fitted, such as a blank margin: what tells them from other failures."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import LightningModule

from anomalib_tiled.errors import UnfitLocationError
from anomalib_tiled.system.out_of_memory import lack_of_memory
from anomalib_tiled.training.worker import has_failed_for_good

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile

ARITHMETIC = (RuntimeError, ValueError, ArithmeticError, IndexError)
"""What models and numerical libraries raise of numbers that they cannot work with; LinAlgErrors are among them."""

FLAT = 4 / 255
"""Fraction of the range from black to white within which all pixels of a blank tile lie, but for a few."""

BUT_FOR = 0.01
"""Share of the pixels that may lie elsewhere: dust, or noise."""

WHOLE_RANGE = 1.0
"""Difference of black and white where pixels are no whole numbers."""


@contextmanager
def naming_unfit_locations(run: Run, tile: Tile) -> Iterator[None]:
    """Tell the model's own failure on a location from all others, which come out as they are.

    Raises:
        UnfitLocationError: The model was at work, and memory and GPU did not fail.
    """
    try:
        yield
    except ARITHMETIC as error:
        if lack_of_memory(error) is not None or has_failed_for_good(error) or not _is_of_a_model(error):
            raise
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise unfit_location(run, tile, f"{type(error).__name__.lstrip('_')}: {reason}") from error


def unfit_location(run: Run, tile: Tile, reason: str) -> UnfitLocationError:
    """Make the error of a location on which the model cannot be fitted.

    Args:
        run: The run.
        tile: The location.
        reason: What went wrong.
    """
    blank = _is_blank(run, tile)
    shown = ", which show nothing, or the same in all images" if blank else ""
    error = UnfitLocationError(f"{run.settings.model.name} cannot be fitted on these tiles{shown}: {reason}")
    error.blank = blank
    return error


def why_not_left_out(run: Run, unfit: Collection[UnfitLocationError]) -> str | None:
    """Say why locations are not left out; ``None`` if they may be.

    Tiles that show something must not be more than those that were fitted: such a model fails wherever there is
    something to learn, and the cause is the model or its settings.

    Args:
        run: The run, after all tiles were tried.
        unfit: A failure for each location on which the model cannot be fitted, at least one.
    """
    fitted = sum(map(run.folder.has_record, run.grid.locations))
    if not fitted:
        return "No tile could be fitted, so the cause is the model, its settings or the images, not a location."
    if (of_content := sum(not error.blank for error in unfit)) > fitted:
        return (
            f"{of_content} tiles that show something could not be fitted, and only {fitted} could, so the cause is the "
            "model or its settings, not the locations."
        )
    if run.settings.unfitted_tiles == "error":
        return "To leave out the locations on which the model cannot be fitted: unfitted_tiles: leave_out."
    return None


def _is_of_a_model(error: BaseException) -> bool:
    """Whether a model was at work, and not a callback, a data loader or the trainer."""
    trace = error.__traceback__
    while trace is not None:
        if isinstance(trace.tb_frame.f_locals.get("self"), LightningModule):
            return True
        trace = trace.tb_next
    return False


def _is_blank(run: Run, tile: Tile) -> bool:
    """Whether the training images show nothing at a location: none has any contrast, or all are the same there."""
    lowest = highest = None
    plain = True
    for sample in run.split.subset("train"):
        pixels = run.source.image(sample, tile.rows, tile.columns)
        scaled = pixels / (np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else WHOLE_RANGE)
        plain = plain and _nearly_all_within(np.abs(scaled - np.median(scaled, axis=(0, 1))))
        lowest = scaled if lowest is None else np.minimum(lowest, scaled)
        highest = scaled if highest is None else np.maximum(highest, scaled)
    return plain or lowest is None or highest is None or _nearly_all_within(highest - lowest)


def _nearly_all_within(distances: NDArray[np.floating]) -> bool:
    return bool(np.quantile(distances, 1 - BUT_FOR) <= FLAT)
