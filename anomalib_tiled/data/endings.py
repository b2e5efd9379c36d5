"""File name endings of images."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageFile, features

NEVER_DECODED = ("EPS", "MPEG")
"""Formats that Pillow opens but does not decode: EPS needs Ghostscript, and MPEG is a film."""


@cache
def image_endings() -> tuple[str, ...]:
    """Give the endings, in small letters, of all formats that the installed Pillow can read."""
    Image.init()
    formats = {name for name, (reader, _) in Image.OPEN.items() if _decodes(name, reader)}
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in formats))


def _decodes(name: str, reader: object) -> bool:
    if isinstance(reader, type) and issubclass(
        reader, ImageFile.StubImageFile
    ):  # another program would have to read it
        return False
    if name == "JPEG2000":  # Pillow opens it without its codec, too
        return features.check_codec("jpg_2000")
    return name not in NEVER_DECODED
