"""Errors, time and refusals of the built-in aligners, on photographs and drawn parts; what moving images takes.

Every picture is photographed four times to learn from, and then moved by up to 8 % of the image side and turned by up
to 3 degrees, with painted defects, other light and noise. Errors are those of the middle of the image, of the rotation,
and of the worst corner; in brackets the quantile 0.95. Then each
aligner gets images that do not show its part: other pictures, textures, upside down, black, and noise; a wrong success
is one that comes back without an error. Last comes what alignment takes for an image of the largest size: moving it,
moving its map back, moving a mask with a few pixels back. Time is that of the processor, one thread.

    python -m benchmarks.alignment --sizes 512 2048 --images 10
    python -m benchmarks.alignment --aligners --sizes 2048  # the last table alone
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from anomalib_tiled.data.boards import BoardSettings, Shot, draw_board, draw_shot
from anomalib_tiled.data.warping import unwarped, warped
from anomalib_tiled.errors import UnalignedError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.aligners import Affine, Homography, Rigid, Translation
from anomalib_tiled.stages.alignment import Aligner, Matrix, Pixels
from anomalib_tiled.stages.registration import Placement, corners, inverse, moved, placement, rigid

Floats = NDArray[np.float64]
Random = np.random.Generator

PHOTOGRAPHS = ("astronaut", "camera", "coffee", "cat", "rocket", "coins", "page", "text", "moon", "retina")
TEXTURES = ("brick", "grass", "gravel")
ALIGNERS: dict[str, type[Aligner]] = {each.__name__: each for each in (Translation, Rigid, Affine, Homography)}
SHIFT, TURN = 0.08, 3.0
TIMES = 15
SEEN = 0.8
"""Fraction of a picture that an image shows, so that the picture goes on outside."""


@dataclass
class Measured:
    """What was measured of an aligner: errors in pixels, degrees, pixels; milliseconds; images not found."""

    middle: list[float] = field(default_factory=list)
    degrees: list[float] = field(default_factory=list)
    corner: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    not_found: int = 0


def main() -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    options = _options()
    pictures = {name: _photograph(name) for name in PHOTOGRAPHS} | {"plate": _plate(1), "board": _board()}
    print("| aligner | side | middle, pixels | rotation, degrees | corner, pixels | lowest quality | not found | ms |")
    print("|---|---|---|---|---|---|---|---|")
    for size in options.sizes:
        for name in options.aligners:
            print(_row(name, size, _errors(ALIGNERS[name], pictures, size, options.images)), flush=True)
    print("\n| aligner | images without the part | wrong successes | highest quality |\n|---|---|---|---|")
    for name in options.aligners:
        tried, wrong, highest = _refusals(ALIGNERS[name], pictures, options.refusals)
        print(f"| `{name}` | {tried} | {wrong} | {highest:.2f} |", flush=True)
    print(f"\n| image of {max(options.sizes)} x {max(options.sizes)} pixels | ms |\n|---|---|")
    for name, milliseconds in _moving(pictures["astronaut"], max(options.sizes)).items():
        print(f"| {name} | {milliseconds:.0f} |", flush=True)


def _errors(kind: type[Aligner], pictures: dict[str, Pixels], size: int, images: int) -> Measured:
    """Align images of every picture, and compare with how they were moved."""
    measured, turn = Measured(), 0.0 if kind is Translation else TURN
    for number, picture in enumerate(pictures.values()):
        random, aligner = np.random.default_rng(number), kind()
        reference = aligner.learn([_seen(picture, np.eye(3), size, random) for _ in range(4)])
        for _ in range(images):
            shift = random.uniform(-SHIFT, SHIFT, 2) * size
            true = rigid(Placement(shift[0], shift[1], random.uniform(-turn, turn)), (size, size))
            image = _spoiled(_seen(picture, true, size, random), random)
            started = time.process_time()
            try:
                found = aligner.align(image, reference)
            except UnalignedError:
                measured.not_found += 1
                continue
            measured.milliseconds.append(1000 * (time.process_time() - started))
            measured.quality.append(found.quality)
            _compare(np.array(found.matrix).reshape(3, 3), true, size, measured)
    return measured


def _compare(found: Floats, true: Floats, size: int, measured: Measured) -> None:
    shape = (size, size)
    middle = np.array([[(size - 1) / 2, (size - 1) / 2]])
    measured.middle.append(float(np.hypot(*(moved(found, middle) - moved(true, middle))[0])))
    measured.degrees.append(abs(placement(found, shape).degrees - placement(true, shape).degrees))
    distances = np.hypot(*(moved(found, corners(shape)) - moved(true, corners(shape))).T)
    measured.corner.append(float(distances.max()))


def _refusals(kind: type[Aligner], pictures: dict[str, Pixels], most: int) -> tuple[int, int, float]:
    """Give images without the part to an aligner; give their number, that of successes, and the highest quality."""
    size, tried, wrong, highest = 512, 0, 0, 0.0
    aligner, loose = kind(), kind(least_quality=0.001)  # type: ignore[call-arg]  # of each built-in one
    for number, (name, picture) in enumerate(pictures.items()):
        random = np.random.default_rng(number)
        reference = aligner.learn([_seen(picture, np.eye(3), size, random) for _ in range(2)])
        for image in _others(name, pictures, size, random, most):
            tried += 1
            try:
                quality = loose.align(image, reference).quality
            except UnalignedError:
                continue
            highest = max(highest, quality)
            try:
                aligner.align(image, reference)
            except UnalignedError:
                continue
            wrong += 1
    return tried, wrong, highest


def _others(name: str, pictures: dict[str, Pixels], size: int, random: Random, most: int) -> Iterator[Pixels]:
    """Give images that do not show a picture as it lies."""
    yield np.ascontiguousarray(_seen(pictures[name], np.eye(3), size, random)[::-1, ::-1])
    yield np.zeros((size, size, 3), np.uint8)
    yield random.integers(0, 255, (size, size, 3), np.uint8)
    others = [picture for other, picture in pictures.items() if other != name]
    others += [_photograph(texture) for texture in TEXTURES]
    for other in random.permutation(len(others))[:most]:
        yield _seen(others[other], np.eye(3), size, random)


def _moving(picture: Pixels, side: int) -> dict[str, float]:
    """Time what is done with the matrix of an image, whichever aligner found it; in milliseconds."""
    random, size = np.random.default_rng(0), Size(side, side)
    matrix: Matrix = tuple(float(value) for value in rigid(Placement(0.02 * side, -0.02 * side, 2), size).ravel())  # type: ignore[assignment]  # nine of them
    image, scores = _seen(picture, np.eye(3), side, random), random.random(size, dtype=np.float32)
    mask = (scores > 1 - 1e-4).astype(np.float32)
    return {
        "moving the image": _milliseconds(partial(warped, image, size, matrix)),
        "moving a map back": _milliseconds(partial(unwarped, scores, size, matrix)),
        "moving a mask back": _milliseconds(partial(unwarped, mask, size, matrix, is_mask=True)),
    }


def _milliseconds(work: Callable[[], object]) -> float:
    """Give the median processor time of some work, after it was done once."""
    work()
    taken = []
    for _ in range(TIMES):
        started = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - started))
    return float(np.median(taken))


def _seen(picture: Pixels, motion: Floats, size: int, random: Random) -> Pixels:
    """Photograph the middle of a picture, moved, in other light, with noise."""
    scale, (height, width) = SEEN * min(picture.shape[:2]) / size, picture.shape[:2]
    corner = [(side - 1) / 2 - scale * (size - 1) / 2 for side in (width, height)]
    view = np.array([[scale, 0, corner[0]], [0, scale, corner[1]], [0, 0, 1]])
    if scale > 1:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.4 * scale), np.uint8)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    matrix = view @ inverse(motion)
    image = cv2.warpPerspective(picture, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
    across, down, light = *random.uniform(-0.15, 0.15, 2), random.uniform(0.85, 1.15)
    ramp = np.linspace(-0.5, 0.5, size)
    gain = (light + across * ramp[None, :, None] + down * ramp[:, None, None]).astype(np.float32)
    noise = random.uniform(-10, 10) + 4 * random.standard_normal(image.shape, np.float32)
    return np.asarray((image * gain + noise).clip(0, 255), np.uint8)


def _spoiled(image: Pixels, random: Random) -> Pixels:
    """Paint one to three scratches and spots."""
    size, image = len(image), image.copy()
    for _ in range(random.integers(1, 4)):
        colour = [int(value) for value in random.integers(0, 255, 3)]
        start = random.uniform(0.1, 0.9, 2) * size
        end = start + random.uniform(-0.12, 0.12, 2) * size
        if random.random() < 0.5:  # noqa: PLR2004
            cv2.line(image, _point(start), _point(end), colour, max(2, size // 80))
        else:
            cv2.ellipse(image, _point(start), _point(abs(end - start) / 2 + size / 50), 0, 0, 360, colour, -1)
    return image


def _point(values: Floats) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _photograph(name: str) -> Pixels:
    read: Callable[[], Pixels] = getattr(data, name)
    picture = read()
    return picture if picture.ndim > 2 else picture[..., None].repeat(3, axis=2)  # noqa: PLR2004 (grey)


def _plate(seed: int) -> Pixels:
    """Draw a plate with a hundred components."""
    random, side = np.random.default_rng(seed), 1024
    picture = np.full((side, side, 3), 100, np.uint8)
    cv2.rectangle(picture, (160, 160), (864, 864), (40, 110, 60), -1)
    for _ in range(100):
        x, y, width, height = *random.integers(180, 820, 2), *random.integers(10, 40, 2)
        colour = [int(value) for value in random.integers(20, 235, 3)]
        cv2.rectangle(picture, (int(x), int(y)), (int(x + width), int(y + height)), colour, -1)
    return picture


def _board() -> Pixels:
    settings = BoardSettings(Size(1280, 1280), 1, 0, 1, drawing_seed=3)
    return draw_shot(draw_board(settings), Shot("train", "good", 0), seed=3)[0]


def _row(name: str, size: int, measured: Measured) -> str:
    cells = [_middle_and_tail(values, 3) for values in (measured.middle, measured.degrees, measured.corner)]
    images = len(measured.middle) + measured.not_found
    cells += [f"{min(measured.quality):.2f}", f"{measured.not_found} of {images}"]
    return f"| `{name}` | {size} | {' | '.join(cells)} | {_middle_and_tail(measured.milliseconds, 0)} |"


def _middle_and_tail(values: list[float], digits: int) -> str:
    """Give the median, and the quantile 0.95 in brackets."""
    return f"{np.median(values):.{digits}f} ({np.quantile(values, 0.95):.{digits}f})"


def _options() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 2048], help="sides of the images, in pixels")
    parser.add_argument("--images", type=int, default=10, help="number of images of each picture")
    parser.add_argument("--refusals", type=int, default=10, help="number of other pictures for each picture")
    parser.add_argument("--aligners", nargs="*", choices=ALIGNERS, default=[*ALIGNERS], help="names of the aligners")
    return parser.parse_args()


if __name__ == "__main__":
    main()
