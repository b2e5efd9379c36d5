"""Where a matrix says that a part lies."""

from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.stages.registration import enlargement, placement

SHAPE = (101, 201)


def described(matrix: np.ndarray) -> tuple[float, ...]:
    return (*placement(matrix, SHAPE), enlargement(matrix, SHAPE))


def test_a_shift_is_read_in_pixels() -> None:
    assert described(np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])) == pytest.approx((3, -2, 0, 1), abs=1e-9)


@pytest.mark.parametrize("factor", [1, 5], ids=["as it is", "as multiples, as a homography may be"])
def test_a_rotation_is_read_at_the_middle_of_the_image(factor: int) -> None:
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    middle = [[2 * c, -2 * s, 100 - 200 * c + 100 * s], [2 * s, 2 * c, 50 - 200 * s - 100 * c], [0, 0, 1]]
    assert described(factor * np.array(middle)) == pytest.approx((0, 0, 30, 2), abs=1e-9)
