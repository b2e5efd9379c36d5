from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.data.scope import BESIDE, outside_of
from anomalib_tiled.data.warping import IDENTITY
from anomalib_tiled.grid import Size

SIZE = Size(40, 60)
MOVED = (1, 0, 5, 0, 1, 0, 0, 0, 1)
"""The last five columns come from outside the image."""


def test_pixels_beside_the_outside_do_not_count() -> None:
    hidden = outside_of(MOVED, SIZE, slice(0, 40), slice(0, 60))
    assert not hidden[:, : 55 - BESIDE].any()
    assert hidden[:, 55 - BESIDE :].all()


@pytest.mark.parametrize("columns", [slice(0, 20), slice(40, 50), slice(48, 54), slice(55, 60)])
def test_a_rectangle_knows_what_lies_beside_it(columns: slice) -> None:
    turned = (0.99, -0.05, 3.5, 0.05, 0.99, -2.5, 0, 0, 1)
    for matrix in (MOVED, turned):
        whole = outside_of(matrix, SIZE, slice(0, 40), slice(0, 60))
        assert np.array_equal(outside_of(matrix, SIZE, slice(10, 30), columns), whole[10:30, columns])


def test_the_edge_of_an_image_that_is_not_moved_counts() -> None:
    assert not outside_of(IDENTITY, SIZE, slice(0, 40), slice(0, 60)).any()
