"""Notes every image file that is decoded. Python runs this first in each process that finds this folder on its path.

Each decode is noted at once, by a line with the file's path: a killed process could not do it later. It costs some 20
microseconds, where the decode takes milliseconds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ImageFile

if TYPE_CHECKING:
    from collections.abc import Callable

DECODES = os.environ.get("BENCHMARK_DECODES")


def _noting(load: Callable[[ImageFile.ImageFile], Any], log: Path) -> Callable[[ImageFile.ImageFile], Any]:
    """Wrap the method of Pillow that decodes a file, unless its pixels are there already."""

    def noted(image: ImageFile.ImageFile) -> Any:  # noqa: ANN401  # as in Pillow
        if image.tile:  # parts of the file that are still to be decoded
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{getattr(image, 'filename', '')}\n")
        return load(image)

    return noted


if DECODES is not None:
    ImageFile.ImageFile.load = _noting(ImageFile.ImageFile.load, Path(DECODES))  # type: ignore[method-assign, assignment]
