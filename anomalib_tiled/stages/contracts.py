"""What each kind of stage must do, and what is said of one that does something else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomalib_tiled.errors import StageError, StorageError
from anomalib_tiled.stages.kinds import kind_of
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.workers import Outcome, Workers
from anomalib_tiled.system.out_of_memory import lack_of_memory
from anomalib_tiled.system.packages import origin_of
from anomalib_tiled.system.termination import Terminated

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from anomalib_tiled.grid import Tile
    from anomalib_tiled.stages.thresholding import Thresholder
    from anomalib_tiled.stages.workers import TrainTile

SHOWN = 3
"""Images that a message names; a batch may hold more."""


def name_of(stage: object) -> str:
    """Name a stage for a message: kind, name, where it is, and the package that it comes from."""
    kind = kind_of(stage)
    path = f"{type(stage).__module__}.{type(stage).__qualname__}"
    return f"{'stage' if kind is None else kind.name} {type(stage).__qualname__} ({path} of {origin_of(path)})"


@contextmanager
def naming_stage(stage: object) -> Iterator[None]:
    """Name the stage in whatever it raises.

    Raises:
        StageError: The stage raised anything but a lack of memory or disk.
        Terminated: The system asked the process to end while a model was trained.
    """
    try:
        yield
    except StorageError:
        raise
    except SIGTERMException as error:
        raise Terminated from error
    except (Exception, SystemExit) as error:
        if lack_of_memory(error) is not None:
            raise
        message = f"{name_of(stage)} failed: {type(error).__name__}: {error}. Mend it, or choose another."
        raise StageError(message) from error


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Add to the error of a stage what it was working on.

    Args:
        note: A sentence, such as ``Tile: r00_c03.``

    Raises:
        StageError: The stage failed.
    """
    try:
        yield
    except StageError as error:
        message = f"{error} {note}"
        raise type(error)(message) from error


def images_noted(paths: Sequence[str | Path] | None) -> str:
    """Name images in a sentence."""
    if not paths:
        return "Images: without names."
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"Images: {', '.join(map(str, paths[:SHOWN]))}{more}."


def call_stage(
    stage: object, method: Callable[..., torch.Tensor], *arguments: object, shape: tuple[int, ...]
) -> torch.Tensor:
    """Call a stage, and give its result if it is what the contract says.

    While a graph is exported, tensors have shapes and no values, so values are not checked.

    Args:
        stage: The stage.
        method: Its method.
        arguments: What the method takes.
        shape: Shape that the result must have.

    Raises:
        StageError: The stage raised, or returned another shape or type, infinities or NaN; a normalizer: anything
            outside [0, 1].
    """
    with naming_stage(stage):
        result = method(*arguments)
    if not isinstance(result, torch.Tensor) or tuple(result.shape) != shape or not result.is_floating_point():
        given = f"{tuple(result.shape)}, {result.dtype}" if isinstance(result, torch.Tensor) else type(result).__name__
        message = f"{name_of(stage)} must return floats of shape {shape}, but returned {given}. Mend it."
        raise StageError(message)
    if not torch.compiler.is_exporting() and result.numel():
        _check_range(stage, *(float(limit) for limit in result.aminmax()))
    return result.float()  # scores are counted, compared and written in single precision, whatever a stage computes in


def checked_outcomes(workers: Workers, tiles: Sequence[Tile], train_tile: TrainTile) -> Generator[Outcome, None, None]:
    """Have workers train tiles, and give what they report if it is what the contract says.

    Args:
        workers: The workers.
        tiles: What is to be trained.
        train_tile: Trains one tile.

    Raises:
        StageError: The workers raised, reported something else, or left a tile out.
    """
    left = {tile.name: tile for tile in tiles}
    with naming_stage(workers):
        outcomes = iter(workers.train(tiles, train_tile))
    while (outcome := _next_outcome(workers, outcomes)) is not None:
        if not isinstance(outcome, Outcome) or outcome.tile.name not in left:
            message = f"{name_of(workers)} must report one Outcome for each tile, but reported {outcome!r}. Mend it."
            raise StageError(message)
        del left[outcome.tile.name]
        yield outcome
    if left:
        raise StageError(untrained(workers, left.values()))


def untrained(workers: Workers, tiles: Iterable[Tile]) -> str:
    """Say which tiles workers have left untrained."""
    names = ", ".join(tile.name for tile in tiles)
    return f"{name_of(workers)} must finish every tile, but left out {names}. Mend it, or choose another."


def _next_outcome(workers: Workers, outcomes: Iterator[Outcome]) -> Outcome | None:
    with naming_stage(workers):
        return next(outcomes, None)


def learned_number(rule: Thresholder, value: object) -> float:
    """Give a learned threshold as a plain number.

    Raises:
        StageError: It is none, or not finite.
    """
    return _plain_number(rule, "threshold", value)


def learned_numbers(normalizer: Normalizer, learned: object) -> dict[str, float]:
    """Give what a normalizer learned as plain numbers, which a JSON file holds.

    Raises:
        StageError: It is no mapping of names to finite numbers.
    """
    if not isinstance(learned, Mapping) or not all(isinstance(name, str) for name in learned):
        message = f"{name_of(normalizer)} must learn numbers by name, but learned {learned!r}. Mend it."
        raise StageError(message)
    return {name: _plain_number(normalizer, name, value) for name, value in learned.items()}


def _plain_number(stage: object, what: str, value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return value if isinstance(value, int) else float(value)
    message = f"{name_of(stage)} must learn finite numbers, but learned {what} = {value!r}. Mend it."
    raise StageError(message)


def _check_range(stage: object, lowest: float, highest: float) -> None:
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        message = f"{name_of(stage)} returned infinities or NaN. Mend it."
        raise StageError(message)
    if isinstance(stage, Normalizer) and (lowest < 0 or highest > 1):
        message = f"{name_of(stage)} must return scores in [0, 1], but returned {lowest:.6g} to {highest:.6g}. Mend it."
        raise StageError(message)
