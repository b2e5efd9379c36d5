"""How long alignment takes for an image: finding the part, moving the image, moving maps back.

python -m benchmarks.aligning
"""

from __future__ import annotations

from functools import partial
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import skimage.data
from cv2 import getRotationMatrix2D, resize, setNumThreads, warpAffine

from anomalib_tiled.data.part_finder import PartFinder
from anomalib_tiled.data.warping import unwarped, warped
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.aligners import Affine, Homography, Rigid, Translation

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = Size(2048, 2048)
TIMES = 15


def milliseconds(work: Callable[[], object]) -> float:
    """Give the median processor time of some work, after it was done once."""
    work()
    taken = []
    for _ in range(TIMES):
        started = process_time()
        work()
        taken.append(1000 * (process_time() - started))
    return median(taken)


def main() -> None:
    """Print a row for each step."""
    setNumThreads(1)
    part = np.asarray(resize(skimage.data.astronaut(), tuple(SIZE)), np.uint8)  # type: ignore[no-untyped-call]
    how = getRotationMatrix2D((SIZE.width / 2, SIZE.height / 2), 2, 1)
    how[:, 2] += 40, -40
    image = np.asarray(warpAffine(part, how, tuple(SIZE)), np.uint8)
    steps: dict[str, Callable[[], object]] = {}
    for kind in (Translation, Rigid, Affine, Homography):
        aligner = kind()
        finder = PartFinder(aligner, aligner.learn([part] * 4), SIZE)
        moved = part if kind is Translation else image
        steps[f"finding the part, `{kind.__name__}`"] = partial(finder.find, moved)
        matrix = finder.find(moved).matrix
    scores = np.random.default_rng(0).random(SIZE, dtype=np.float32)
    steps["moving the image"] = lambda: warped(image, SIZE, matrix)
    steps["moving a map back"] = lambda: unwarped(scores, SIZE, matrix)
    mask = (scores > 1 - 1e-4).astype(np.float32)
    steps["moving a mask back"] = lambda: unwarped(mask, SIZE, matrix, is_mask=True)
    print("| step | milliseconds of one core |\n| --- | --- |")
    for name, work in steps.items():
        print(f"| {name} | {milliseconds(work):.0f} |")


if __name__ == "__main__":
    main()
