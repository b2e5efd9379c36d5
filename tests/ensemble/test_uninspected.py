"""What is said and counted of pixels that no model sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_tiled.ensemble.uninspected import HiddenDefects, hidden_defects, left_out_note, uninspected_pixels
from anomalib_tiled.grid import Size, TileGrid

APART = TileGrid(Size(4, 12), Size(4, 4), Size(4, 4))
OVERLAPPING = TileGrid(Size(4, 8), Size(4, 4), Size(4, 2))


def test_all_pixels_are_inspected_where_every_location_has_a_model(grid: TileGrid) -> None:
    assert uninspected_pixels(grid) is None


def test_only_pixels_that_no_other_tile_covers_are_not_inspected(grid: TileGrid) -> None:
    lacking = grid.without([grid.locations[0].name])
    pixels = uninspected_pixels(lacking)
    covered = np.zeros(grid.image_size, dtype=bool)
    for tile in lacking.tiles:
        covered[tile.rows, tile.columns] = True
    assert np.array_equal(pixels, ~covered)


def test_neighbours_may_cover_all_pixels_of_a_location() -> None:
    assert uninspected_pixels(OVERLAPPING.without(["r00_c01"])) is None


def masks(*columns: tuple[int, ...]) -> np.ndarray:
    """Give a mask for each image, with a defect in these columns."""
    found = np.zeros((len(columns), 4, 12), dtype=bool)
    for mask, where in zip(found, columns, strict=True):
        mask[1, list(where)] = True
    return found


def test_a_defect_is_hidden_if_no_model_sees_any_of_it() -> None:
    found = hidden_defects(masks((0,), (0, 11), (11,), ()), uninspected_pixels(APART.without(["r00_c00"])))
    assert found.tolist() == [True, False, False, False]
    assert hidden_defects(masks((0,)), None).tolist() == [False]


@pytest.mark.parametrize(
    ("left_out", "note"),
    [
        ([], None),
        (["r00_c02"], None),
        (
            ["r00_c00"],
            (
                "2 test images have defects where no model sees them, 1 of them nowhere else. Image metrics count "
                "them; pixel metrics leave out pixels that are not inspected."
            ),
        ),
    ],
)
def test_test_images_with_defects_that_no_model_sees_are_counted(left_out: list[str], note: str | None) -> None:
    hidden = HiddenDefects(APART.without(left_out))
    for columns in ([(0,), (4,)], [(0, 4), ()]):
        hidden.update(ImageBatch(image=torch.zeros(2, 3, 4, 12), gt_mask=torch.from_numpy(masks(*columns))))
    hidden.update(ImageBatch(image=torch.zeros(2, 3, 4, 12)))
    assert hidden.note() == note


def test_locations_are_named_by_reason_with_the_part_of_an_image_that_is_not_inspected() -> None:
    assert left_out_note(APART, {}) is None
    reasons = {"r00_c00": "singular", "r00_c01": "NaN", "r00_c02": "singular"}
    assert left_out_note(APART.without(reasons), reasons) == (
        "3 of 3 tiles are left out: r00_c00, r00_c02 (singular); r00_c01 (NaN). 48 pixels of an image (100 %) are not "
        "inspected: no defect is found there."
    )
    assert left_out_note(OVERLAPPING.without(["r00_c01"]), {"r00_c01": "singular"}) == (
        "1 of 3 tiles are left out: r00_c01 (singular). Other tiles cover all of their pixels."
    )
    many = TileGrid(Size(4, 80), Size(4, 4), Size(4, 4))
    reasons = {tile.name: "singular" for tile in many.tiles[:10]}
    assert "r00_c07 and 2 more (singular). 160 pixels" in left_out_note(many.without(reasons), reasons)
