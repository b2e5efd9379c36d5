"""Opens image files, and says what is wrong with them; without PyTorch, which takes seconds to import."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError, features

from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.grid import Size
from anomalib_tiled.system.os_errors import ADVICE
from anomalib_tiled.system.out_of_memory import lack_of_memory

NEVER_DECODED = ("EPS", "MPEG")
"""Formats that Pillow opens but does not decode: EPS needs Ghostscript, and MPEG is a film."""

DAMAGE = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, ArithmeticError, struct.error),
    *(RuntimeError, AssertionError),
)
"""Errors that Pillow raises for damaged files, depending on format and damage."""

LIMIT = "ANOMALIB_TILED_MAX_IMAGE_PIXELS"
"""Environment variable for `PIL.Image.MAX_IMAGE_PIXELS`: Pillow reads no image of more than twice as many pixels."""


def set_limit(given: str | None) -> None:
    """Set how many pixels Pillow reads, for users of the command line.

    Args:
        given: The value of the environment variable; ``None`` for Pillow's own limit.

    Raises:
        ConfigurationError: The value is no number.
    """
    if not given:
        return
    if not given.isdecimal():
        message = f"{LIMIT} must be a number of pixels, such as {2**28}, but is {given!r}. Correct it, or unset it."
        raise ConfigurationError(message)
    Image.MAX_IMAGE_PIXELS = int(given)


set_limit(os.environ.get(LIMIT))  # here, because every process that reads images imports this


@cache
def image_endings() -> tuple[str, ...]:
    """Give the endings, in small letters, of all formats that the installed Pillow can read."""
    Image.init()
    formats = {name for name, (reader, _) in Image.OPEN.items() if _decodes(name, reader)}
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in formats))


def _decodes(name: str, reader: object) -> bool:
    if name == "JPEG2000":  # Pillow opens it without its codec, too
        return features.check_codec("jpg_2000")
    is_stub = isinstance(reader, type) and issubclass(reader, ImageFile.StubImageFile)  # read by another program
    return name not in NEVER_DECODED and not is_stub


@contextmanager
def errors_naming_file(path: Path) -> Iterator[None]:
    """Turn errors with a file into a message that names it.

    Raises:
        DataError: The file is missing, no image, or damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        message = f"{path} is missing. Restore it, or leave it out."
        raise DataError(message) from error
    except Image.DecompressionBombError as error:
        message = (
            f"{path} has more pixels than Pillow reads. {error} If you trust your files, set the environment variable "
            f"{LIMIT} to their number of pixels (in Python, PIL.Image.MAX_IMAGE_PIXELS)."
        )
        raise DataError(message) from error
    except DAMAGE as error:
        if lack_of_memory(error) is not None:
            raise
        advice = ADVICE.get(getattr(error, "errno", None), "Replace it, or leave it out.")
        message = f"{path} {_fault(path, error)}. {advice}"
        raise DataError(message) from error


def _fault(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EISDIR:  # of the system, not of Pillow
        return f"cannot be read ({error.strerror})"
    if os.path.isdir(path):  # noqa: PTH112  # it never fails
        return "is a folder, not an image"
    if isinstance(error, UnidentifiedImageError):
        with suppress(OSError):  # it may be missing by now
            return "is no image that can be read" if path.stat().st_size else "is empty"
        return "is no image that can be read"
    return f"is damaged ({str(error) or type(error).__name__})"


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image, and name it in errors; refuse a pipe, which would block."""
    with errors_naming_file(path):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            message = f"{path} is a pipe, a socket or a device, not an image. Replace it by a file, or leave it out."
            raise DataError(message)
        with Image.open(path) as image:
            yield image


def size_of(path: Path) -> Size:
    """Give height and width of an image from its header, without decoding it.

    Raises:
        DataError: The file is no image.
    """
    with opened(path) as image:
        return Size(image.height, image.width)


def shrunk(size: Size, longest_side: int) -> Size:
    """Give the size of a scaled image.

    Args:
        size: That of the image.
        longest_side: Most pixels of a side; a smaller image stays as it is.
    """
    factor = min(1.0, longest_side / max(size))
    return Size(*(max(1, round(side * factor)) for side in size))


def read_scaled(path: Path, longest_side: int) -> Image.Image:
    """Read an image scaled, in RGB; a JPEG is decoded no larger than needed.

    Args:
        path: The file.
        longest_side: Most pixels of a side.

    Raises:
        DataError: The file is missing, no image, or damaged.
    """
    with opened(path) as image:
        height, width = shrunk(Size(image.height, image.width), longest_side)
        image.draft("RGB", (width, height))
        return image.convert("RGB").resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
