"""Files of regions: YAML of this package, COCO's and LabelMe's JSON, and images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.region_shapes import Bitmap, Circle, Mask, Polygon, Shape
from anomalib_tiled.system.bounds import parse_json, parse_yaml, read_bytes

Plain = Any

WHITE = 128
"""Lowest grey that counts as white."""

FRACTIONS = Size(1, 1)
"""Size of an image whose regions are given as fractions."""

KEYS = ("image_size", "regions")
"""Keys of a file in YAML."""

CORNERS = 3
"""Fewest corners of a polygon."""


@dataclass(frozen=True)
class Drawing:
    """What a file holds.

    Args:
        size: Height and width of the image that was drawn on; `FRACTIONS` if there was none.
        shapes: Each shape with its label.
    """

    size: Size
    shapes: Sequence[tuple[str, Shape]]


@contextmanager
def errors_naming_regions(path: Path) -> Iterator[None]:
    """Name the file in errors.

    Raises:
        ConfigurationError: The file is missing, damaged, or of another form.
    """
    try:
        yield
    except FileNotFoundError as error:
        message = f"regions must name a file, but there is no {path}. Correct the path."
        raise ConfigurationError(message) from error
    except ConfigurationError as error:
        message = f"{path} cannot be used for regions: {error}"
        raise ConfigurationError(message) from error
    except KeyError as error:
        message = f"{path} cannot be used for regions: it lacks {error}. Export it again."
        raise ConfigurationError(message) from error
    except (OSError, ValueError, SyntaxError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        message = f"{path} cannot be read for regions: {str(error) or type(error).__name__}. Replace it."
        raise ConfigurationError(message) from error


def read_mask(path: Path) -> Mask:
    """Read an image: where is it white? Transparent pixels are black.

    Raises:
        ConfigurationError: The file is missing or no image, or nothing in it is white.
    """
    with errors_naming_regions(path), Image.open(path) as image:
        opaque: Image.Image = image
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            opaque = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer)
        grey = np.asarray(opaque.convert("L"))
        white: Mask = grey >= WHITE
        if not white.any():
            message = f"a pixel must be white, that is {WHITE} or more of 255, but the highest value is {grey.max()}."
            raise ConfigurationError(message)
        return white


def read_shapes(path: Path) -> Drawing:
    """Read a file of regions.

    Args:
        path: YAML of this package, or JSON of COCO or LabelMe; the ending tells.

    Raises:
        ConfigurationError: The file is missing or has another form.
    """
    with errors_naming_regions(path):
        content = read_bytes(path)
        if path.suffix.lower() in (".yaml", ".yml"):
            return _from_yaml(_mapping(parse_yaml(content.decode(), "it"), "the file"))
        if path.suffix.lower() != ".json":
            message = f"its name must end in .yaml, .yml or .json, but ends in {path.suffix!r}."
            raise ConfigurationError(message)
        found = _mapping(parse_json(content), "the file")
        for key, read in {"shapes": _from_labelme, "annotations": _from_coco}.items():
            if key in found:
                return read(found)
    message = f"{path} cannot be used for regions: it must have shapes, as LabelMe writes, or annotations, as in COCO."
    raise ConfigurationError(message)


def _from_yaml(content: Mapping[str, Plain]) -> Drawing:
    """Read ``rectangle: [left, top, width, height]`` and ``polygon: [[x, y], ...]`` by the names of regions."""
    for key in content:
        if key not in KEYS:
            message = f"there is no key {key!r}. {allowed_names(str(key), KEYS)}"
            raise ConfigurationError(message)
    size = FRACTIONS if content.get("image_size") is None else _size(*_numbers(content["image_size"], 2, "image_size"))
    shapes = []
    for name, drawn in _mapping(content.get("regions"), "regions").items():
        if not isinstance(drawn, list) or not drawn:
            message = f"region {name!r} must be a list of rectangles and polygons, but is {drawn!r}."
            raise ConfigurationError(message)
        shapes += [(name, _from_key(f"region {name!r}", each)) for each in drawn]
    return Drawing(size, shapes)


def _from_key(where: str, drawn: Plain) -> Shape:
    given = _mapping(drawn, f"a shape of {where}")
    kinds = {"rectangle": _rectangle, "polygon": _polygon}
    if len(given) != 1 or next(iter(given)) not in kinds:
        message = f"a shape of {where} must be a rectangle or a polygon, but has the keys {', '.join(map(str, given))}."
        raise ConfigurationError(message)
    ((kind, value),) = given.items()
    return kinds[kind](value, where)


def _from_labelme(content: Mapping[str, Plain]) -> Drawing:
    """Read LabelMe's form; the corners of a rectangle may be in any order, and a circle has its middle and a point."""
    size = _size(content.get("imageHeight"), content.get("imageWidth"))
    shapes: list[tuple[str, Shape]] = []
    for number, each in enumerate(content["shapes"], 1):
        label, where = each.get("label"), f"shape {number} ({each.get('label')!r})"
        kind = each.get("shape_type") or "polygon"  # as in files of early versions
        if kind == "polygon":
            shape: Shape = _polygon(each["points"], where)
        elif kind == "rectangle":
            shape = Polygon.rectangle(*Polygon(_points(each["points"], 2, where)).box)
        elif kind == "circle":
            (x, y), edge = _points(each["points"], 2, where)[:2].tolist()
            shape = Circle(x, y, math.dist((x, y), edge))
        else:
            message = f"{where} must be a polygon, a rectangle or a circle, but is a {kind}. Draw it as one of these."
            raise ConfigurationError(message)
        shapes.append((label, shape))
    return Drawing(size, shapes)


def _from_coco(content: Mapping[str, Plain]) -> Drawing:
    """Read COCO's form: polygons, run lengths, or a box alone."""
    annotations = content["annotations"]
    if len(used := {each["image_id"] for each in annotations}) != 1:
        message = f"its annotations must be of one image, but are of {len(used)}. Export one image alone."
        raise ConfigurationError(message)
    image = {each["id"]: each for each in content["images"]}[used.pop()]
    size, names = _size(image["height"], image["width"]), {each["id"]: each["name"] for each in content["categories"]}
    return Drawing(size, [pair for each in annotations for pair in _annotation(each, size, names)])


def _annotation(annotation: Mapping[str, Plain], size: Size, names: Mapping[int, str]) -> Iterator[tuple[str, Shape]]:
    where, label = f"annotation {annotation.get('id')}", names[annotation["category_id"]]
    drawn = annotation.get("segmentation")
    if isinstance(drawn, Mapping):
        yield label, _bitmap(drawn, size, where)
    elif drawn:
        for each in drawn:
            yield label, _polygon(np.reshape(each, (-1, 2)).tolist(), where)
    else:
        yield label, _rectangle(annotation["bbox"], where)


def _bitmap(runs: Mapping[str, Plain], size: Size, where: str) -> Bitmap:
    counts = runs["counts"]
    lengths = decompressed(counts) if isinstance(counts, str) else counts
    height, width = runs["size"]
    if Size(height, width) != size or sum(lengths) != height * width or min(lengths) < 0:
        message = (
            f"the run lengths of {where} must have the {size.height * size.width} pixels of its image of {size}, but "
            f"have {sum(lengths)}, of an image of {height} x {width}."
        )
        raise ConfigurationError(message)
    values = np.arange(len(lengths)) % 2 == 1
    return Bitmap(np.repeat(values, lengths).reshape(width, height).T)  # column by column


def decompressed(counts: str) -> list[int]:
    """Give the run lengths that COCO's tools have written as text.

    Each length from the fourth on is the difference to that two before it. Its digits to base 32, the lowest first, are
    characters from ``0`` on; the 32 says that more follow, and the 16 of the last that it is negative.
    """
    lengths: list[int] = []
    value = shift = 0
    for digit in (ord(character) - ord("0") for character in counts):
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (1 << shift) if digit & 16 else 0
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))  # noqa: PLR2004  # the fourth and later
            value = shift = 0
    return lengths


def _rectangle(value: Plain, where: str) -> Polygon:
    left, top, width, height = _numbers(value, 4, f"a rectangle of {where}: left, top, width, height")
    if min(width, height) < 0:
        message = (
            f"width and height of a rectangle of {where} must not be negative, but are {width:g} and {height:g}. "
            "It is left, top, width, height."
        )
        raise ConfigurationError(message)
    return Polygon.rectangle(left, top, left + width, top + height)


def _polygon(value: Plain, where: str) -> Polygon:
    return Polygon(_points(value, CORNERS, where))


def _points(value: Plain, least: int, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    if not isinstance(value, list) or len(value) < least:
        message = f"{where} must have {least} points [x, y] or more, but has {value!r}."
        raise ConfigurationError(message)
    return np.array([_numbers(point, 2, f"a point of {where}") for point in value])


def _numbers(value: Plain, number: int, where: str) -> list[float]:
    is_list = isinstance(value, (list, tuple)) and len(value) == number
    if not is_list or not all(type(each) in (int, float) and math.isfinite(each) for each in value):
        message = f"{where} must be {number} numbers, but is {value!r}."
        raise ConfigurationError(message)
    return [*value]


def _size(height: Plain, width: Plain) -> Size:
    if not all(isinstance(side, (int, float)) and side >= 1 and side == int(side) for side in (height, width)):
        message = f"the image that it was drawn on must have height and width in pixels, but has {height} x {width}."
        raise ConfigurationError(message)
    return Size(int(height), int(width))


def _mapping(value: Plain, where: str) -> Mapping[str, Plain]:
    if not isinstance(value, Mapping):
        message = f"{where} must hold values by names, but holds {value!r}."
        raise ConfigurationError(message)
    return value
