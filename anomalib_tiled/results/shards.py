"""Images to predict, cut into batches and shards: by their list alone, never by who predicts them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anomalib_tiled.grid import Size

IMAGES_OF_A_SHARD = 32
PIXELS_OF_A_SHARD = 2**26
"""Most images and pixels of a shard, unless a batch has more: seconds to minutes of work, lost if its place ends."""


@dataclass(frozen=True)
class ImageShard:
    """Images that one place predicts.

    Args:
        batches: Images that are predicted together, as far as they can be read.
        alone: Whether no other place works meanwhile.
    """

    batches: tuple[tuple[Path, ...], ...]
    alone: bool = False

    @property
    def images(self) -> list[Path]:
        """All images, in order."""
        return [image for batch in self.batches for image in batch]

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"the shard of {len(self.images)} images from {self.batches[0][0]} on"

    def file_in(self, folder: Path) -> Path:
        """Give the file of the results, whose name depends on the images.

        Args:
            folder: Folder of such files.
        """
        paths = b"\0".join(b"\0".join(map(os.fsencode, batch)) + b"\0" for batch in self.batches)
        return folder / f"{blake2b(paths, digest_size=16).hexdigest()}.jsonl"


def batches_of(images: Sequence[Path], size: int) -> Iterator[tuple[Path, ...]]:
    """Cut images into batches. An image that cannot be read leaves its batch smaller, and the others as they are.

    Args:
        images: The images.
        size: Images of a batch.
    """
    return (tuple(images[first : first + size]) for first in range(0, len(images), size))


def shards_of(images: Sequence[Path], batch_size: int, size: Size) -> Iterator[ImageShard]:
    """Cut images into shards of whole batches.

    Args:
        images: The images.
        batch_size: Images of a batch.
        size: Size that they are predicted in.
    """
    most = min(IMAGES_OF_A_SHARD, PIXELS_OF_A_SHARD // (size.height * size.width))
    length = batch_size * max(1, most // batch_size)
    return (
        ImageShard(tuple(batches_of(images[first : first + length], batch_size)))
        for first in range(0, len(images), length)
    )
