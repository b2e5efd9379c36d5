from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.drift.change import Change, Period, Quartiles
from anomalib_tiled.drift.predicted import Quantity
from anomalib_tiled.drift.words import in_words

USUAL = Quartiles(9, 10, 11)

PATHS = ["/in/a.png", "/in/b.png", "/in/c.png"]


def change(quantity: Quantity, new: Quartiles, known: Quartiles = USUAL) -> Change:
    return Change(quantity, known, new, 1.0, 0.0, Period(0, 3))


def test_quartiles_leave_out_what_is_missing() -> None:
    assert Quartiles.of(np.array([np.nan, 1, 2, 3, 4, 5])) == Quartiles(2, 3, 4)


@pytest.mark.parametrize(
    ("new", "direction"),
    [
        (Quartiles(10, 11, 12), 1),
        (Quartiles(9, 10, 14), 1),
        (Quartiles(8.9, 10.5, 14), 1),
        (Quartiles(7, 8, 10), -1),
        (Quartiles(7, 10.2, 13), 0),
        (Quartiles(9.9, 10, 10.1), 0),
    ],
)
def test_numbers_rise_fall_or_spread(new: Quartiles, direction: int) -> None:
    assert change(Quantity("score"), new).direction == direction


def test_a_change_matters_from_two_percent_or_half_a_pixel() -> None:
    for quantity in (Quantity("score"), Quantity("tile", "shift_x"), Quantity("appearance", "brightness")):
        assert not change(quantity, Quartiles(9, 10.19, 11)).matters
        assert change(quantity, Quartiles(9, 10.21, 11)).matters
    at_zero = Quartiles(-0.1, 0, 0.1)
    assert not change(Quantity("appearance", "shift_x"), Quartiles(0.3, 0.4, 0.5), at_zero).matters
    assert change(Quantity("appearance", "shift_y"), Quartiles(-0.8, -0.6, -0.4), at_zero).matters
    assert change(Quantity("appearance", "rotation"), Quartiles(0.1, 0.2, 0.3), at_zero).matters


def test_strength_is_measured_by_what_is_usual() -> None:
    assert change(Quantity("score"), Quartiles(12, 14, 15)).strength == 2
    assert change(Quantity("score"), Quartiles(2, 2, 2), Quartiles(1, 1, 1)).strength == 50, "2 % of 1 are usual"
    assert change(Quantity("score"), Quartiles(2, 2, 2), Quartiles(0, 0, 0)).strength == 2


SENTENCES = {
    (
        "appearance",
        "brightness",
    ): "Images are brighter than those that the run was calibrated with: median",
    (
        "appearance",
        "contrast",
    ): "Images have more contrast than those that the run was calibrated with: median",
    ("appearance", "sharpness"): "Images are sharper than those that the run was calibrated with: median sharpness",
    ("appearance", "shift_x"): "Parts lie farther to the right: median shift to the right 14 pixels, was 10.",
    ("appearance", "shift_y"): "Parts lie lower in the image: median shift downwards 14 pixels, was 10.",
    ("appearance", "rotation"): "Parts are turned clockwise: median rotation 14 degrees, was 10.",
    ("score", ""): "Scores rose: median score 14, was 10.",
    ("tile", "r00_c01"): "Scores at r00_c01 rose: median 14, was 10.",
    ("region", "screw"): "Scores at screw rose: median 14, was 10.",
}


@pytest.mark.parametrize(("kind", "name"), SENTENCES)
def test_each_quantity_has_its_words(kind: str, name: str) -> None:
    words = in_words(change(Quantity(kind, name), Quartiles(12, 14, 15)), PATHS)
    assert words.startswith(SENTENCES[kind, name])
    assert words.endswith(" It is so from the first image on.")
