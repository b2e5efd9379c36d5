"""Registration: finds how the part in one small grey image lies relative to that in another.

A search over rotations by phase correlation, on very small images, is refined by maximizing the enhanced correlation
coefficient (ECC; Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation coefficient
maximization", IEEE TPAMI 30(10), 2008) on larger ones. There are no random numbers in it.

Matrices are of shape (3, 3). They lead from pixels of the reference, ``(x, y, 1)``, to pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.errors import UnalignedError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Details = NDArray[np.float32]
Shape = tuple[int, int]

SIDE = 512
"""Side of a small image, of as many pixels as a square of this side; larger images are shrunk to it."""

_SEARCH_SIDE = 128
_SEARCH_STEPS = 50
_REFINED_SIDES = {256: 20, SIDE: 1}  # and at most so many steps; more of the last change nothing
_NEAR_STEPS = 10  # three may stop a pixel short of the best place, where windows correlate already
_DEGREES = 1.5  # between rotations that are tried; a quarter of a pixel at the border of the part is enough for ECC
_CANDIDATES = 3
_LEAST_SIDE = 32
_WINDOWS = 8  # to a side
_FEWEST_WINDOWS = 4
_LEAST_CONTRAST = 1.0  # grey levels
_NO_CONVERGENCE = -7  # cv2.Error.StsNoConv; older builds for Python do not name it

_ECC_BLUR = 5  # pixels; the default of OpenCV

_BILINEAR = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


@dataclass(frozen=True)
class Motion:
    """How a part may move.

    Args:
        kind: As OpenCV numbers it: `cv2.MOTION_TRANSLATION`, `MOTION_EUCLIDEAN`, `MOTION_AFFINE` or
            `MOTION_HOMOGRAPHY`.
        shift: Farthest shift, as a fraction of the image side.
        degrees: Largest rotation to either side.
        bend: Farthest that a corner may move beyond shift and rotation, as a fraction of the image side.
    """

    kind: int
    shift: float
    degrees: float = 0.0
    bend: float = 0.0


class Placement(NamedTuple):
    """Where a part lies, relative to where the reference has it.

    Args:
        right: How far the middle of the image is shifted to the right, in pixels.
        down: How far it is shifted down, in pixels.
        degrees: How far it is turned, clockwise as seen on the screen.
    """

    right: float
    down: float
    degrees: float


@contextmanager
def one_thread() -> Iterator[None]:
    """Let OpenCV use one thread: the images are small, and each process may use few threads."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def shrink(image: Pixels, side: int = SIDE) -> Pixels:
    """Make a small grey image, which is never larger than the image.

    Args:
        image: Shape (height, width, 3), or grey and (height, width).
        side: The result has as many pixels as a square of this side.
    """
    height, width = image.shape[:2]
    scale = side / (height * width) ** 0.5
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)  # noqa: PLR2004 (a grey image has two dimensions)


def locate(image: Pixels, reference: Pixels, motion: Motion) -> tuple[Floats, float]:
    """Find where the part of a reference lies in an image.

    Args:
        image: Small and grey, shape (height, width).
        reference: Of the same shape.
        motion: How the part may have moved.

    Returns:
        The matrix from pixels of the reference to pixels of the image; and how well they fit then: the median
        correlation of windows in which the reference shows something, at most 1.

    Raises:
        UnalignedError: The image shows no structure, nothing fits, or only what the motion does not allow.
    """
    check_contrast(image)
    pair = _details(shrink(reference, _SEARCH_SIDE)), _details(shrink(image, _SEARCH_SIDE))
    matrix = _search(pair, motion)
    for side in _REFINED_SIDES:
        shape, small = pair[0].shape, shrink(image, side)
        if small.shape != shape or side < SIDE:
            pair = _details(shrink(reference, side)), _details(small)
            matrix = _refine(pair, between(matrix, shape, small.shape), motion.kind, _REFINED_SIDES[side])[0]
    _check_placement(matrix, image.shape, motion)
    return matrix, _agreement(pair, matrix, reference)


def locate_near(image: Pixels, reference: Pixels, motion: Motion) -> tuple[Floats, float]:
    """Find a part that lies nearly where the reference has it, without a search, which takes most of the time.

    Arguments, result and errors are those of `locate`. A part that has moved by more than a few pixels is not found, or
    fits badly.
    """
    check_contrast(image)
    pair = _details(reference), _details(image)
    matrix, _ = _refine(pair, np.eye(3), motion.kind, _NEAR_STEPS)
    _check_placement(matrix, image.shape, motion)
    return matrix, _agreement(pair, matrix, reference)


def check_contrast(image: Pixels) -> None:
    """Check that an image shows something.

    Raises:
        UnalignedError: It is tiny, or its fine structure varies by less than one grey level.
    """
    if min(image.shape) < _LEAST_SIDE:
        message = f"It must have at least {_LEAST_SIDE} pixels a side, but has {image.shape[0]} x {image.shape[1]}."
        raise UnalignedError(message)
    found = float(np.quantile(_contrasts(image), 0.95))
    if found < _LEAST_CONTRAST:
        message = f"It shows nothing: its structure varies by {found:.2g} grey levels, {_LEAST_CONTRAST:g} is needed."
        raise UnalignedError(message)


def between(matrix: Floats, shape: tuple[int, ...], other: tuple[int, ...]) -> Floats:
    """Give a matrix for images that were resized.

    Args:
        matrix: For images of the first shape.
        shape: Height and width.
        other: Height and width after resizing.
    """
    resized = resizing(shape, other)
    return np.asarray(resized @ matrix @ inverse(resized))


def resizing(shape: tuple[int, ...], other: tuple[int, ...]) -> Floats:
    """Give the matrix from pixels of an image to pixels of the same image in another size.

    Args:
        shape: Height and width.
        other: Height and width after resizing.
    """
    across, down = other[1] / shape[1], other[0] / shape[0]
    return np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])


def placement(matrix: Floats, shape: tuple[int, ...]) -> Placement:
    """Say where a part lies: shift and rotation of the matrix that fits best.

    Args:
        matrix: From pixels of the reference to pixels of the image.
        shape: Height and width of both.
    """
    before, after = corners(shape), moved(matrix, corners(shape))
    right, down = (after - before).mean(axis=0)
    return Placement(float(right), float(down), float(np.degrees(_angle(before, after))))


def enlargement(matrix: Floats, shape: tuple[int, ...]) -> float:
    """Give the size of a part as a fraction of its size in the reference; arguments are those of `placement`."""
    before, after = corners(shape), moved(matrix, corners(shape))
    return float(np.linalg.norm(after - after.mean(axis=0)) / np.linalg.norm(before - before.mean(axis=0)))


def rigid(place: Placement, shape: tuple[int, ...]) -> Floats:
    """Give the matrix of a shift and a rotation about the middle of the image."""
    angle, middle = np.radians(place.degrees), (np.array(shape[1::-1]) - 1) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = middle + np.array([place.right, place.down]) - turn @ middle
    return np.vstack([np.c_[turn, shift], [0, 0, 1]])


def through(after: Floats, kind: int, shape: tuple[int, ...]) -> Floats:
    """Give the affine motion or homography that moves the corners of an image to given points, by least squares.

    Args:
        after: The points, shape (4, 2), in the order of `corners`.
        kind: `cv2.MOTION_AFFINE` or `cv2.MOTION_HOMOGRAPHY`.
        shape: Height and width of the image.
    """
    before = corners(shape)
    if kind == cv2.MOTION_HOMOGRAPHY:
        return np.asarray(cv2.getPerspectiveTransform(before.astype(np.float32), after.astype(np.float32)), float)
    linear = np.linalg.lstsq(np.c_[before, np.ones(4)], after, rcond=None)[0].T
    return np.vstack([linear, [0, 0, 1]])


def corners(shape: tuple[int, ...]) -> Floats:
    """Give the middles of the corner pixels as (x, y), shape (4, 2)."""
    bottom, right = shape[0] - 1.0, shape[1] - 1.0
    return np.array([[0.0, 0.0], [right, 0.0], [0.0, bottom], [right, bottom]])


def moved(matrix: Floats, points: Floats) -> Floats:
    """Apply a matrix to points, shape (points, 2)."""
    result = np.c_[points, np.ones(len(points))] @ matrix.T
    return np.asarray(result[:, :2] / result[:, 2:])


def warp(image: Details, matrix: Floats) -> Details:
    """Move an image so that its part lies where the reference has it; zero where nothing is known.

    Args:
        image: Shape (height, width).
        matrix: From pixels of the reference to pixels of the image.
    """
    return np.asarray(cv2.warpPerspective(image, matrix, image.shape[::-1], flags=_BILINEAR), np.float32)


def inverse(matrix: Floats) -> Floats:
    """Give the matrix from pixels of the image to pixels of the reference."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def _search(pair: tuple[Details, Details], motion: Motion) -> Floats:
    """Try all rotations, and refine the best few; of these, take the one that fits best.

    Raises:
        UnalignedError: Nothing fits.
    """
    kind = min(motion.kind, cv2.MOTION_EUCLIDEAN)  # on so few pixels nothing more can be told apart
    found: list[tuple[float, Floats]] = []
    for place in _candidates(pair, motion):
        try:
            matrix, correlation = _refine(pair, rigid(place, pair[0].shape), kind, _SEARCH_STEPS)
        except UnalignedError:
            continue
        found.append((correlation, matrix))
    if not found:
        raise UnalignedError(_NOTHING_FITS)
    return max(found, key=lambda each: each[0])[1]


def _candidates(pair: tuple[Details, Details], motion: Motion) -> list[Placement]:
    """Correlate the image with the reference in each rotation; give the highest peaks, the highest first."""
    reference, image = pair
    height, width = reference.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F)
    spectrum = np.fft.rfft2(image * window)
    steps = int(np.ceil(motion.degrees / _DEGREES))
    peaks = []
    for degrees in np.linspace(-motion.degrees, motion.degrees, 2 * steps + 1):
        turned = warp(reference, inverse(rigid(Placement(0, 0, degrees), reference.shape)))
        peak, right, down = _peak(spectrum, np.fft.rfft2(turned * window), reference.shape, motion.shift)
        peaks.append((peak, Placement(right, down, float(degrees))))
    return [place for _, place in sorted(peaks, key=lambda each: each[0], reverse=True)[:_CANDIDATES]]


def _peak(
    image: NDArray[np.complexfloating], reference: NDArray[np.complexfloating], shape: Shape, farthest: float
) -> tuple[float, int, int]:
    """Give the height of the highest peak of the phase correlation of two spectra, and its shift right and down."""
    height, width = shape
    product = image * reference.conj()
    strength = np.abs(product)
    phases = product / (strength + 1e-6 * strength.max()) * _low_pass(shape)
    correlation = np.fft.fftshift(np.fft.irfft2(phases, shape))
    down, right = (int(np.ceil(farthest * side)) for side in shape)
    allowed = correlation[height // 2 - down : height // 2 + down + 1, width // 2 - right : width // 2 + right + 1]
    row, column = np.unravel_index(int(allowed.argmax()), allowed.shape)
    return float(allowed[row, column]), int(column) - right, int(row) - down


@cache
def _low_pass(shape: Shape) -> Floats:
    """Give the weights of frequencies, which smooth the peaks so that none is missed between two rotations."""
    frequency = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.rfftfreq(shape[1]) ** 2
    return np.exp(-frequency / (2 * 0.12**2))


def _refine(pair: tuple[Details, Details], matrix: Floats, kind: int, steps: int) -> tuple[Floats, float]:
    """Improve a matrix until the images correlate best; give it and the correlation.

    Raises:
        UnalignedError: The images do not correlate.
    """
    reference, image = pair
    whole = kind == cv2.MOTION_HOMOGRAPHY
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
    start = (matrix if whole else matrix[:2]).astype(np.float32)
    everywhere = np.ones(image.shape, np.uint8)
    try:
        correlation, found = cv2.findTransformECC(reference, image, start, kind, criteria, everywhere, _ECC_BLUR)
    except cv2.error as error:
        if error.code != _NO_CONVERGENCE:
            raise
        raise UnalignedError(_NOTHING_FITS) from error
    improved = found.astype(float) if whole else np.vstack([found, [0, 0, 1]])
    return improved / improved[2, 2], float(correlation)


def _check_placement(matrix: Floats, shape: Shape, motion: Motion) -> None:
    """Check that a part has moved no farther than it may.

    Raises:
        UnalignedError: It has.
    """
    place = placement(matrix, shape)
    bend = np.abs(moved(matrix, corners(shape)) - moved(rigid(place, shape), corners(shape))).max(axis=0)
    amounts = {
        "to the right": (place.right / shape[1], motion.shift),
        "down": (place.down / shape[0], motion.shift),
        "out of shape to the side": (bend[0] / shape[1], motion.bend),
        "out of shape vertically": (bend[1] / shape[0], motion.bend),
    }
    for name, (found, most) in amounts.items():
        if abs(found) > most + 0.01:
            message = f"What fits best lies {found:.1%} of the image side {name}, at most {most:.0%} is allowed."
            raise UnalignedError(message)
    if abs(place.degrees) > motion.degrees + _DEGREES:
        message = f"What fits best is turned by {place.degrees:.1f} degrees, at most {motion.degrees:g} are allowed."
        raise UnalignedError(message)


def _agreement(pair: tuple[Details, Details], matrix: Floats, shown: Pixels) -> float:
    """Give the median correlation of windows in which the reference shows something.

    A defect or a missing component spoils a few windows, not the median; a wrong matrix spoils most of them.

    Raises:
        UnalignedError: Too few such windows lie inside of the image.
    """
    reference, image = pair
    aligned, known = warp(image, matrix), warp(np.ones_like(image), matrix) > 0.99  # noqa: PLR2004 (all of a pixel)
    contrasts = _contrasts(shown)
    least = max(_LEAST_CONTRAST, 0.25 * float(np.quantile(contrasts, 0.9)))
    correlations = [
        _correlation(reference[area], aligned[area])
        for area, contrast in zip(_windows(reference.shape), contrasts, strict=True)
        if contrast >= least and known[area].mean() > 0.9  # noqa: PLR2004
    ]
    if len(correlations) < _FEWEST_WINDOWS:
        message = (
            f"Only {len(correlations)} of {_WINDOWS**2} windows show structure in the reference and lie inside of the "
            f"image, at least {_FEWEST_WINDOWS} are needed."
        )
        raise UnalignedError(message)
    return float(np.median(correlations))


def _correlation(one: Details, other: Details) -> float:
    one, other = one - one.mean(), other - other.mean()
    energy = float((one * one).sum()) * float((other * other).sum())
    return float((one * other).sum()) / energy**0.5 if energy > 0 else 0.0


def _windows(shape: Shape) -> list[tuple[slice, slice]]:
    """Cut an image into windows, row by row."""
    rows, columns = (np.linspace(0, side, _WINDOWS + 1).astype(int) for side in shape)
    return [
        (slice(top, bottom), slice(left, right)) for top, bottom in pairwise(rows) for left, right in pairwise(columns)
    ]


def _contrasts(image: Pixels) -> Floats:
    """Give the standard deviation of fine structure in each window, in grey levels."""
    fine = _fine(image)
    return np.array([fine[area].std() for area in _windows(image.shape)])


def _details(image: Pixels) -> Details:
    """Give fine structure as multiples of its strength nearby, so that light and strong edges count less."""
    fine = _fine(image)
    strength = np.sqrt(np.maximum(_blur(fine * fine), 0))  # running sums of OpenCV may end just below zero
    return np.asarray(fine / (strength + 0.25 * strength.mean() + 1))


def _fine(image: Pixels) -> Details:
    floats = image.astype(np.float32)
    return np.asarray(floats - _blur(floats))


def _blur(image: Details) -> Details:
    side = 2 * int(image.size**0.5 / 16) + 1
    return np.asarray(cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)


def _angle(before: Floats, after: Floats) -> float:
    """Give the rotation between two sets of points by least squares, in radians."""
    one, other = before - before.mean(axis=0), after - after.mean(axis=0)
    return float(np.arctan2((one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]).sum(), (one * other).sum()))


_NOTHING_FITS = "Nothing in it fits the reference."
