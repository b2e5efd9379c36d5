from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.ensemble.false_alarms import FalseAlarms


def of(called: int, images: int) -> FalseAlarms:
    return FalseAlarms.of(np.arange(images) < called)


@pytest.mark.parametrize(
    ("called", "images", "low", "high"),
    [(0, 20, 0.0, 0.1684), (20, 20, 0.8316, 1.0), (1, 30, 0.0008, 0.1722), (29, 30, 0.8278, 0.9992)],
)
def test_the_interval_is_that_of_clopper_and_pearson(called: int, images: int, low: float, high: float) -> None:
    found = of(called, images)
    assert (found.rate, found.images) == (called / images, images)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_a_line_for_everybody() -> None:
    assert str(of(1, 30)) == (
        "False alarms to expect: 3 % of new normal images, between 0 and 17 % (from 1 of 30 normal validation images)."
    )


@pytest.mark.parametrize(("called", "images"), [(0, 30), (1, 5), (6, 30), (3, 8), (25, 200)])
def test_no_warning_where_false_alarms_are_few_or_may_be(called: int, images: int) -> None:
    assert of(called, images).note() is None


def test_a_warning_where_there_will_be_many() -> None:
    assert of(9, 30).note() == (
        "Of 30 normal validation images, 9 are called anomalous by a threshold that was learned without them: expect "
        "15 to 49 % of new normal images to be called anomalous."
    )
    assert of(29, 30).note(on_test=True) == (
        "Of 30 normal validation images (they are test images), 29 are called anomalous by a threshold that was "
        "learned without them: expect 83 to 100 % of new normal images to be called anomalous. The threshold does not "
        "separate normal from anomalous images."
    )
