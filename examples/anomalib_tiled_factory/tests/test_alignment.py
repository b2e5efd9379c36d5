"""The aligner."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from anomalib_tiled.errors import DataError, UnalignedError
from anomalib_tiled_factory.alignment import Silhouette


def bar(x: float = 60, y: float = 40, degrees: float = 0, length: float = 60) -> NDArray[np.uint8]:
    """Draw a bright bar, 20 pixels wide, on a dark ground."""
    rows, columns = np.mgrid[:80, :120]
    angle = math.radians(degrees)
    along = math.cos(angle) * (columns - x) + math.sin(angle) * (rows - y)
    across = math.cos(angle) * (rows - y) - math.sin(angle) * (columns - x)
    inside = (abs(along) <= length / 2) & (abs(across) <= 10)
    return np.where(inside[..., None], 220, 30).repeat(3, axis=2).astype(np.uint8)


def test_the_middle_of_the_bar_is_found_where_it_lies() -> None:
    aligner = Silhouette()
    reference = aligner.learn([bar(), bar(62, 41, 1), bar(58, 39, -1)])
    found = aligner.align(bar(70, 35, 12), reference)
    matrix = np.array(found.matrix).reshape(3, 3)
    assert matrix @ [60, 40, 1] == pytest.approx([70, 35, 1], abs=0.2)
    assert math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])) == pytest.approx(12, abs=0.5)
    assert found.quality > 0.95


def test_an_upright_bar_is_the_same_axis_in_both_directions() -> None:
    aligner = Silhouette()
    reference = aligner.learn([bar(degrees=89), bar(degrees=91), bar(degrees=90)])
    matrix = np.array(aligner.align(bar(degrees=93), reference).matrix).reshape(3, 3)
    assert math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])) == pytest.approx(3, abs=1.5)  # pixels have edges


def test_what_is_not_the_part_is_refused() -> None:
    aligner = Silhouette(level=100)
    reference = aligner.learn([bar()])
    with pytest.raises(UnalignedError, match=r"Its silhouette has \d+ pixels, the part has \d+\."):
        aligner.align(bar(length=40), reference)
    with pytest.raises(UnalignedError, match=r"No part is brighter than level 100\."):
        aligner.align(np.zeros((80, 120, 3), np.uint8), reference)


def test_training_images_without_the_part_are_refused() -> None:
    with pytest.raises(DataError, match=r"Every training image must show the part, but one does not\. No part is"):
        Silhouette().learn([bar(), np.zeros((80, 120, 3), np.uint8)])
    with pytest.raises(DataError, match=r"There must be training images"):
        Silhouette().learn([])


def test_a_level_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"level between 0 and 255, got 0\."):
        Silhouette(level=0)
