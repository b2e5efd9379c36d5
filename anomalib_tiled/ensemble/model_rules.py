"""What a model may need of tiles and settings, as rules that can be checked before the model is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.grid import Size


@dataclass(frozen=True)
class Asked:
    """What a model is asked to work with.

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
    """What must hold for a model.

    Args:
        text: What the model needs.
        broken: Says what is given instead, and what to do; ``None`` if the rule holds.
    """

    text: str
    broken: Callable[[Asked], str | None]

    def check(self, name: str, asked: Asked) -> None:
        """Check the rule.

        Args:
            name: The model.
            asked: What it is asked to work with.

        Raises:
            ConfigurationError: The rule does not hold.
        """
        if given := self.broken(asked):
            message = f"{name} needs {self.text}, but {given}"
            raise ConfigurationError(message)


def at_least(side: int) -> Rule:
    """Tiles that are not smaller than a square of so many pixels a side."""

    def broken(asked: Asked) -> str | None:
        return _other_tiles(asked, *(max(side, each) for each in asked.tile_size))

    return Rule(f"tiles of at least {side} x {side} pixels", broken)


def not_below(argument: str) -> Rule:
    """Tiles that are not smaller than an argument of the model says."""

    def broken(asked: Asked) -> str | None:
        side = int(asked.arguments[argument])
        other = _other_tiles(asked, *(max(side, each) for each in asked.tile_size))
        return other and f"that is {side} and {other} Or set model.init_args.{argument}."

    return Rule(f"tiles of at least `{argument}` pixels a side", broken)


def multiple_of(step: int) -> Rule:
    """Tiles whose sides are multiples of a number of pixels."""
    return Rule(f"tiles whose sides are multiples of {step} pixels", lambda asked: _not_multiple(asked, step))


def power_of_two() -> Rule:
    """Tiles whose sides are powers of two."""

    def broken(asked: Asked) -> str | None:
        return _other_tiles(asked, *(2 ** round(log2(each)) for each in asked.tile_size))

    return Rule("tiles whose sides are powers of two", broken)


def whole_patches(argument: str) -> Rule:
    """Tiles that an encoder can cut into its patches.

    Args:
        argument: The argument that names the encoder; the name tells the side of a patch, as ``patch14`` or ``_14``.
    """

    def broken(asked: Asked) -> str | None:
        side = patch_side(str(asked.arguments[argument]))
        other = None if side is None else _not_multiple(asked, side)
        return other and f"that is {side} and {other}"

    return Rule(f"tiles whose sides are multiples of the patch side of `{argument}`", broken)


def exactly(side: int, **arguments: Plain) -> Rule:
    """Square tiles of one size, while arguments of the model have these values.

    Args:
        side: Height and width of the tiles in pixels.
        arguments: The values.
    """

    def broken(asked: Asked) -> str | None:
        if any(asked.arguments.get(name) != value for name, value in arguments.items()):
            return None
        other = _other_tiles(asked, side, side)
        return other and f"{other} Or set another model.init_args.{next(iter(arguments))}."

    values = ", ".join(f"`{name}: {value}`" for name, value in arguments.items())
    return Rule(f"tiles of {side} x {side} pixels with {values}", broken)


def square() -> Rule:
    """Tiles as high as wide."""
    return Rule("square tiles", lambda asked: _other_tiles(asked, *[max(asked.tile_size)] * 2))


def batches_of(size: int) -> Rule:
    """Training batches of one size."""

    def broken(asked: Asked) -> str | None:
        given = asked.train_batch_size
        return None if given == size else f"it is {given}. Set data.init_args.train_batch_size."

    return Rule(f"`train_batch_size: {size}` of the data module", broken)


def more_images(argument: str) -> Rule:
    """More training images than an argument says."""

    def broken(asked: Asked) -> str | None:
        few = int(asked.arguments[argument])
        if asked.train_images is None or asked.train_images > few:
            return None
        return f"that is {few}, and there are {asked.train_images}. Set model.init_args.{argument}."

    return Rule(f"more than `{argument}` training images", broken)


def images(least: int) -> Rule:
    """So many training images, or more."""

    def broken(asked: Asked) -> str | None:
        if asked.train_images is None or asked.train_images >= least:
            return None
        return f"it gets {asked.train_images}. Give the data module more normal images."

    return Rule(f"at least {least} training images", broken)


def something_left(ratio: str, cell: Callable[[Mapping[str, Plain]], int | None]) -> Rule:
    """A share of the patches of all training tiles that is at least one patch, and not more than all.

    Args:
        ratio: The argument that says which share is kept.
        cell: Gives the side of a patch in pixels, by the arguments of the model; ``None`` if it is not known, or if all
            patches are kept.
    """

    def broken(asked: Asked) -> str | None:
        share = float(asked.arguments[ratio])
        if not 0 < share <= 1:
            return f"it is {share:g}. Change it."
        side = cell(asked.arguments)
        if side is None or asked.train_images is None:
            return None
        patches = asked.train_images * -(-asked.tile_size.height // side) * -(-asked.tile_size.width // side)
        if int(patches * share) > 0:
            return None
        least = min(1, 2 / patches)
        return f"{asked.train_images} tiles have {patches} patches, and it is {share:g}. Set at least {least:.1g}."

    return Rule(f"a `{ratio}` between 0 and 1 that leaves a patch", broken)


def first_layer(arguments: Mapping[str, Plain]) -> int | None:
    """Say how many pixels of a tile, in one direction, the first of `layers` makes one value of."""
    layer = str(next(iter(arguments["layers"]), ""))
    depth = re.fullmatch(r"layer(\d)", layer)
    return patch_side(str(arguments["backbone"])) if depth is None else 2 ** (int(depth[1]) + 1)


def encoder_if_subsampled(arguments: Mapping[str, Plain]) -> int | None:
    """Give the side of a patch of `encoder_name` in pixels; ``None`` where all patches are kept."""
    return patch_side(str(arguments["encoder_name"])) if arguments["coreset_subsampling"] else None


def enough_patches(encoder: str, argument: str) -> Rule:
    """At least as many patches in a tile as an argument says.

    Args:
        encoder: The argument that names the encoder, whose name tells the side of a patch.
        argument: The argument that says how many.
    """

    def broken(asked: Asked) -> str | None:
        side = patch_side(str(asked.arguments[encoder])) or 1
        patches = (asked.tile_size.height // side) * (asked.tile_size.width // side)
        if patches >= int(asked.arguments[argument]):
            return None
        return f"{_tiles(asked)}, which has {patches} of {side} x {side} pixels. Set larger ones."

    return Rule(f"tiles of at least `{argument}` patches", broken)


def enough_positions(layers: str, argument: str) -> Rule:
    """At least as many places in the feature maps of each training batch as an argument says.

    Args:
        layers: The argument that names the layers: ``layer1`` is a quarter of the tile's side, each further one a half
            of the one before it. Layers with other names are not checked.
        argument: The argument that says how many.
    """

    def broken(asked: Asked) -> str | None:
        depths = [int(name[-1]) for name in asked.arguments[layers] if re.fullmatch(r"layer\d", name)]
        step = 2 ** (max(depths, default=0) + 1)
        last = asked.train_batch_size
        if asked.train_images is not None:
            last = asked.train_images % last or min(last, asked.train_images)
        positions = last * -(-asked.tile_size.height // step) * -(-asked.tile_size.width // step)
        if not depths or positions >= int(asked.arguments[argument]):
            return None
        return (
            f"{_tiles(asked)}, and the smallest batch of {last} has {positions}. "
            f"Set larger tiles or a smaller model.init_args.{argument}."
        )

    return Rule(f"at least `{argument}` places in the deepest feature maps of every training batch", broken)


def patch_side(encoder: str) -> int | None:
    """Read the side of a patch in pixels from the name of an encoder; ``None`` if it does not tell."""
    found = re.search(r"patch(\d+)|_(\d+)$", encoder)
    return int(found[1] or found[2]) if found else None


def _not_multiple(asked: Asked, step: int) -> str | None:
    return _other_tiles(asked, *(max(step, round(each / step) * step) for each in asked.tile_size))


def _other_tiles(asked: Asked, height: int, width: int) -> str | None:
    """Say which tiles are given, and which ones would do; ``None`` if these are the ones given."""
    if (height, width) == tuple(asked.tile_size):
        return None
    return f"{_tiles(asked)}. Set it to {height} x {width}, for example."


def _tiles(asked: Asked) -> str:
    return f"tiling.tile_size is {asked.tile_size.height} x {asked.tile_size.width}"
