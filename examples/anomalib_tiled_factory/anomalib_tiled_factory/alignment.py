"""An aligner for parts that are brighter than what they lie on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled import Aligner, Alignment, Reference
from anomalib_tiled.errors import DataError, UnalignedError

Pixels = NDArray[np.uint8]

LEAST_QUALITY = 0.9


class Pose(NamedTuple):
    """Place of a silhouette: its centre and area in pixels, and the direction of its long axis in radians."""

    x: float
    y: float
    angle: float
    area: float


class Silhouette(Aligner):
    """Centre and long axis of the silhouette; for bright parts on a dark ground, turned by less than 90 degrees.

    Needs no structure on the part, unlike the built-in aligners, but fails where light changes its outline.

    Args:
        level: Grey level from which a pixel belongs to the part, between 0 and 255.
    """

    def __init__(self, level: int = 128) -> None:
        if not 0 < level < 255:  # noqa: PLR2004 (the brightest byte)
            message = f"Silhouette needs a level between 0 and 255, got {level}."
            raise ValueError(message)
        self.level = level

    def learn(self, images: Iterable[Pixels]) -> Reference:
        """Take the median of the places of all silhouettes."""
        poses, first = [], None
        for image in images:
            first = image if first is None else first
            try:
                poses.append(self._pose(image))
            except UnalignedError as error:
                message = f"Every training image must show the part, but one does not. {error} Remove it."
                raise DataError(message) from error
        if first is None:
            message = "There must be training images to learn where the part lies, but there are none."
            raise DataError(message)
        turns = [_turn(poses[0].angle, pose.angle) for pose in poses]
        x, y, _, area = np.median(poses, axis=0)
        numbers = {"x": float(x), "y": float(y), "angle": poses[0].angle + float(np.median(turns)), "area": float(area)}
        return Reference(np.asarray(first.mean(axis=2), np.uint8), numbers)

    def align(self, image: Pixels, reference: Reference) -> Alignment:
        """Turn and shift the silhouette; the quality compares areas."""
        pose, known = self._pose(image), Pose(**reference.numbers)
        quality = min(pose.area, known.area) / max(pose.area, known.area)
        if quality < LEAST_QUALITY:
            message = f"Its silhouette has {pose.area:.0f} pixels, the part has {known.area:.0f}."
            raise UnalignedError(message)
        turn = _turn(known.angle, pose.angle)
        cosine, sine = math.cos(turn), math.sin(turn)
        right = pose.x - cosine * known.x + sine * known.y
        down = pose.y - sine * known.x - cosine * known.y
        return Alignment((cosine, -sine, right, sine, cosine, down, 0.0, 0.0, 1.0), quality)

    def _pose(self, image: Pixels) -> Pose:
        rows, columns = np.nonzero(image.mean(axis=2) >= self.level)
        if len(rows) < 2:  # noqa: PLR2004 (a covariance needs two)
            message = f"No part is brighter than level {self.level}."
            raise UnalignedError(message)
        (across, both), (_, along) = np.cov(columns, rows)
        angle = 0.5 * math.atan2(2 * both, across - along)
        return Pose(float(columns.mean()), float(rows.mean()), angle, float(len(rows)))


def _turn(before: float, after: float) -> float:
    """Give the rotation from one axis to another, which have no front and back: at most 90 degrees."""
    return (after - before + math.pi / 2) % math.pi - math.pi / 2
