"""Checks that stages keep their contracts, and errors that name the stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomalib_tiled.errors import ConfigurationError, DataError, NoPlaceError, StageError, StorageError
from anomalib_tiled.grid import Tile
from anomalib_tiled.stages.kinds import kind_of
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.workers import Workers
from anomalib_tiled.system.out_of_memory import lack_of_memory
from anomalib_tiled.system.packages import origin_of
from anomalib_tiled.system.termination import Terminated

SHOWN = 3
"""Images that a message names at most."""


def name_of(stage: object) -> str:
    """Name a stage for a message: its kind, name, dotted path and package."""
    kind = kind_of(stage)
    path = f"{type(stage).__module__}.{type(stage).__qualname__}"
    return f"{'stage' if kind is None else kind.name} {type(stage).__qualname__} ({path} of {origin_of(path)})"


@contextmanager
def errors_naming_stage(stage: object) -> Iterator[None]:
    """Name the stage in its errors.

    Raises:
        StageError: The stage raised an error that is not about the configuration, images, places, memory or a full
            disk.
        Terminated: The system asked the process to end while a model was trained.
    """
    try:
        yield
    except (ConfigurationError, DataError, NoPlaceError, StorageError):
        raise
    except SIGTERMException as error:
        raise Terminated from error
    except (Exception, SystemExit) as error:
        if lack_of_memory(error) is not None:
            raise
        message = f"{name_of(stage)} failed: {type(error).__name__}: {error}. Fix it, or choose another stage."
        raise StageError(message) from error


@contextmanager
def with_context(note: str) -> Iterator[None]:
    """Add to the error of a stage which tile or images it was working on.

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


def image_context(paths: Sequence[str | Path] | None) -> str:
    """Name images in a sentence."""
    if not paths:
        return "The images have no file names."
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return f"Images: {', '.join(map(str, paths[:SHOWN]))}{more}."


def call_stage(
    stage: object, method: Callable[..., torch.Tensor], *arguments: object, shape: tuple[int, ...]
) -> torch.Tensor:
    """Call a method of a stage, and check shape and range of its result; while a graph is exported, its shape only.

    Raises:
        StageError: The stage raised an error, or returned another shape or type, infinities or NaN; a normalizer:
            scores outside [0, 1].
    """
    with errors_naming_stage(stage):
        result = method(*arguments)
    if not isinstance(result, torch.Tensor) or tuple(result.shape) != shape or not result.is_floating_point():
        given = f"{tuple(result.shape)}, {result.dtype}" if isinstance(result, torch.Tensor) else type(result).__name__
        message = f"{name_of(stage)} must return floats of shape {shape}, but returned {given}. Fix it."
        raise StageError(message)
    if not torch.compiler.is_exporting() and result.numel():
        _check_range(stage, *(float(limit) for limit in result.aminmax()))
    return result.float()  # stages may use any precision, but scores are counted, compared and written as float32


def untrained(workers: Workers, tiles: Iterable[Tile]) -> str:
    """Say which tiles workers have left untrained."""
    names = ", ".join(tile.name for tile in tiles)
    return f"{name_of(workers)} must finish every tile, but left out {names}. Fix it, or choose another stage."


def learned_number(stage: object, value: object, name: str = "threshold") -> float:
    """Convert a number that a stage learned to a plain number, as for a JSON file.

    Raises:
        StageError: It is no number, or not finite.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return value if isinstance(value, int) else float(value)
    message = f"{name_of(stage)} must learn finite numbers, but learned {name} = {value!r}. Fix it."
    raise StageError(message)


def learned_numbers(stage: object, learned: object) -> dict[str, float]:
    """Convert what a stage learned to plain numbers.

    Raises:
        StageError: The stage did not learn finite numbers by name.
    """
    if not isinstance(learned, Mapping) or not all(isinstance(name, str) for name in learned):
        message = f"{name_of(stage)} must learn numbers by name, but learned {learned!r}. Fix it."
        raise StageError(message)
    return {name: learned_number(stage, value, name) for name, value in learned.items()}


def _check_range(stage: object, lowest: float, highest: float) -> None:
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        message = f"{name_of(stage)} returned infinities or NaN. Fix it."
        raise StageError(message)
    if isinstance(stage, Normalizer) and (lowest < 0 or highest > 1):
        message = f"{name_of(stage)} must return scores in [0, 1], but returned {lowest:.6g} to {highest:.6g}. Fix it."
        raise StageError(message)
