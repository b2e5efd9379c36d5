"""Whether an image looks like those that were trained on, as far as its size tells."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.data.images import size_of
from anomalib_tiled.errors import DataError
from anomalib_tiled.system.files import is_file

if TYPE_CHECKING:
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import Size

SAME_SHAPE = 0.01
"""Difference of aspect ratios that is not worth a word, as a fraction."""


@dataclass(frozen=True)
class TrainedOn:
    """The sizes that a run knows.

    Args:
        resized: What images are resized to.
        usual: Size of the images that were trained on.
    """

    resized: Size
    usual: Size

    @classmethod
    def of(cls, split: Split, resized: Size) -> TrainedOn:
        """Look at an image that was trained on; where it is not to be seen, what it was resized to must do."""
        first = next((sample.image_path for sample in split.subset("train")), None)
        usual = resized
        if first is not None and is_file(first):
            with suppress(DataError):  # it is not needed any more, so what has become of it does not matter
                usual = size_of(first)
        return cls(resized, usual)

    def remark(self, image: object, size: Size) -> str | None:
        """Say of an image that it is smaller or of another shape; ``None`` if it is not.

        Args:
            image: Its name.
            size: Its size.
        """
        if size in {self.usual, self.resized} or not self._is_odd(size):
            return None
        trained = f"{self.resized}" if self.usual == self.resized else f"{self.resized} (made of {self.usual})"
        return (
            f"{image} has {size} pixels (height x width), but the tiles were trained on images of {trained}. "
            "It is resized, and so are all others like it; scores of what looks different are less reliable."
        )

    def _is_odd(self, size: Size) -> bool:
        smaller = size.height < self.resized.height or size.width < self.resized.width
        shapes = size.width * self.usual.height, self.usual.width * size.height
        return smaller or abs(shapes[0] - shapes[1]) > SAME_SHAPE * shapes[1]
