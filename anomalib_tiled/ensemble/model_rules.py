"""Requirements of models on tiles and settings, as rules that are checked before the model is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log2

from anomalib_tiled.config.settings import Plain
from anomalib_tiled.grid import Size


@dataclass(frozen=True)
class TrainingSetup:
    """Tiles, arguments and images that a model is trained with.

    Args:
        tile_size: Height and width of the tiles in pixels.
        arguments: Arguments of the model, defaults included.
        train_batch_size: Tiles in a training batch.
        train_images: Number of training images; ``None`` while it is not known.
    """

    tile_size: Size
    arguments: Mapping[str, Plain]
    train_batch_size: int
    train_images: int | None = None


@dataclass(frozen=True)
class Rule:
    """A requirement of a model.

    Args:
        text: The requirement, as the object of "needs".
        violation: Returns what is given instead, and what to do; ``None`` if the rule holds.
    """

    text: str
    violation: Callable[[TrainingSetup], str | None]


def at_least(side: int) -> Rule:
    """Tiles that are at least this number of pixels high and wide."""
    return _of_sides(f"tiles of at least {side} x {side} pixels", lambda given: max(side, given))


def multiple_of(step: int) -> Rule:
    """Tiles whose sides are multiples of a number of pixels."""
    return _of_sides(f"tiles whose sides are multiples of {step} pixels", lambda given: _nearest_multiple(given, step))


def power_of_two() -> Rule:
    """Tiles whose sides are powers of two."""
    return _of_sides("tiles whose sides are powers of two", lambda given: 2 ** round(log2(given)))


def square() -> Rule:
    """Tiles as high as wide."""
    return Rule("square tiles", lambda setup: _other_tiles(setup, *[max(setup.tile_size)] * 2))


def not_below(argument: str) -> Rule:
    """Tiles that are at least as high and wide as an argument of the model."""

    def violation(setup: TrainingSetup) -> str | None:
        side = int(setup.arguments[argument])
        other = _other_tiles(setup, *(max(side, each) for each in setup.tile_size))
        return other and f"that is {side} and {other} Or set model.init_args.{argument}."

    return Rule(f"tiles of at least `{argument}` pixels a side", violation)


def whole_patches(argument: str) -> Rule:
    """Tiles that an encoder can cut into whole patches.

    Args:
        argument: The argument that names the encoder; the name contains the patch side, as ``patch14`` or ``_14``.
    """

    def violation(setup: TrainingSetup) -> str | None:
        side = patch_side(str(setup.arguments[argument]))
        other = side and _other_tiles(setup, *(_nearest_multiple(each, side) for each in setup.tile_size))
        return f"that is {side} and {other}" if other else None

    return Rule(f"tiles whose sides are multiples of the patch side of `{argument}`", violation)


def exactly(side: int, **arguments: Plain) -> Rule:
    """Square tiles of one size, if arguments of the model have these values.

    Args:
        side: Height and width of the tiles in pixels.
        arguments: The values.
    """

    def violation(setup: TrainingSetup) -> str | None:
        if any(setup.arguments.get(name) != value for name, value in arguments.items()):
            return None
        other = _other_tiles(setup, side, side)
        return other and f"{other} Or set another model.init_args.{next(iter(arguments))}."

    values = ", ".join(f"`{name}: {value}`" for name, value in arguments.items())
    return Rule(f"tiles of {side} x {side} pixels with {values}", violation)


def batches_of(size: int) -> Rule:
    """Training batches of one size."""

    def violation(setup: TrainingSetup) -> str | None:
        given = setup.train_batch_size
        return None if given == size else f"it is {given}. Set data.init_args.train_batch_size."

    return Rule(f"`train_batch_size: {size}` of the data module", violation)


def more_images(argument: str) -> Rule:
    """More training images than an argument says."""

    def violation(setup: TrainingSetup) -> str | None:
        few = int(setup.arguments[argument])
        if setup.train_images is None or setup.train_images > few:
            return None
        return f"that is {few}, and there are {setup.train_images}. Set model.init_args.{argument}."

    return Rule(f"more than `{argument}` training images", violation)


def images(least: int) -> Rule:
    """At least this number of training images."""

    def violation(setup: TrainingSetup) -> str | None:
        if setup.train_images is None or setup.train_images >= least:
            return None
        return f"it gets {setup.train_images}. Give the data module more normal images."

    return Rule(f"at least {least} training images", violation)


def share(argument: str) -> Rule:
    """An argument that is a share, greater than 0 and at most 1."""

    def violation(setup: TrainingSetup) -> str | None:
        given = float(setup.arguments[argument])
        return None if 0 < given <= 1 else f"it is {given:g}. Change it."

    return Rule(f"a `{argument}` between 0 and 1", violation)


def enough_positions(layers: str, argument: str) -> Rule:
    """At least as many positions in the feature maps of each training batch as an argument requires.

    Args:
        layers: The argument that names the layers: ``layer1`` has a quarter of the tile's side, each further layer half
            the side of the one before. Layers with other names are not checked.
        argument: The argument with the number of positions.
    """

    def violation(setup: TrainingSetup) -> str | None:
        depths = [int(name[-1]) for name in setup.arguments[layers] if re.fullmatch(r"layer\d", name)]
        step = 2 ** (max(depths, default=0) + 1)
        last = setup.train_batch_size
        if setup.train_images is not None:
            last = setup.train_images % last or min(last, setup.train_images)
        positions = last * -(-setup.tile_size.height // step) * -(-setup.tile_size.width // step)
        if not depths or positions >= int(setup.arguments[argument]):
            return None
        return (
            f"{_tiles(setup)}, and the smallest batch of {last} has {positions}. "
            f"Set larger tiles or a smaller model.init_args.{argument}."
        )

    return Rule(f"at least `{argument}` positions in the deepest feature maps of every training batch", violation)


def patch_side(encoder: str) -> int | None:
    """Read the side of a patch in pixels from the name of an encoder; ``None`` if the name does not contain it."""
    found = re.search(r"patch(\d+)|_(\d+)$", encoder)
    return int(found[1] or found[2]) if found else None


def _nearest_multiple(given: int, step: int) -> int:
    return max(step, round(given / step) * step)


def _of_sides(text: str, nearest: Callable[[int], int]) -> Rule:
    """A requirement of each side of a tile; ``nearest`` gives the allowed side that is nearest to a given one."""
    return Rule(text, lambda setup: _other_tiles(setup, *map(nearest, setup.tile_size)))


def _other_tiles(setup: TrainingSetup, height: int, width: int) -> str | None:
    """Say which tiles are given, and which would be allowed; ``None`` if the given tiles are allowed."""
    if (height, width) == tuple(setup.tile_size):
        return None
    return f"{_tiles(setup)}. Set it to {height} x {width}, for example."


def _tiles(setup: TrainingSetup) -> str:
    return f"tiling.tile_size is {setup.tile_size.height} x {setup.tile_size.width}"
