from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.stages.bins import Bins

RANDOM = np.random.default_rng(0)
LIMITS = np.finfo(np.float32)
SPREAD = np.sort((RANDOM.normal(size=4000) * 10.0 ** RANDOM.integers(-40, 30, size=4000)).astype(np.float32))
RANGES = {
    "0 to 1": (0.0, 1.0),
    "around zero": (-3.0, 5.0),
    "far from zero": (1000.0, 1001.0),
    "negative": (-1.0, -1e-20),
    "one score": (7.0, 7.0),
    "tiny": (0.0, float(LIMITS.smallest_subnormal)),
    "all floats": (float(LIMITS.min), float(LIMITS.max)),
}
EACH = pytest.mark.parametrize(("minimum", "maximum"), RANGES.values(), ids=RANGES)


def between(minimum: float, maximum: float) -> np.ndarray:
    """Floats of a range in ascending order, near zero too."""
    near_zero = SPREAD[(minimum <= SPREAD) & (maximum >= SPREAD)]
    even = np.linspace(minimum, maximum, 5000).astype(np.float32)
    return np.sort(np.concatenate([near_zero, even, np.array([minimum, maximum], np.float32)]))


@EACH
def test_a_higher_score_never_lies_in_a_lower_bin(minimum: float, maximum: float) -> None:
    scores = between(minimum, maximum)
    assert (np.diff(Bins.for_range(minimum, maximum, 17).of(scores)) >= 0).all()


@EACH
def test_a_bin_begins_at_its_lowest_score(minimum: float, maximum: float) -> None:
    bins = Bins.for_range(minimum, maximum, 17)
    scores = between(minimum, maximum)
    numbers = bins.of(scores)
    assert (bins.lowest(numbers) <= scores).all()
    assert (bins.lowest(numbers + 1) > scores).all()
    np.testing.assert_array_equal(bins.of(bins.lowest(numbers)), numbers)


@EACH
@pytest.mark.parametrize("bits", [17, 19])
def test_bins_are_narrow_for_the_range_and_for_their_scores(minimum: float, maximum: float, bits: int) -> None:
    bins = Bins.for_range(minimum, maximum, bits)
    scores = between(minimum, maximum).astype(np.float64)
    numbers = bins.of(scores.astype(np.float32))
    lowest = bins.lowest(numbers).astype(np.float64)
    highest = np.nextafter(bins.lowest(numbers + 1), -np.inf, dtype=np.float32).astype(np.float64)
    assert (highest - lowest <= (maximum - minimum) / 2 ** (bits - 1)).all()
    of_the_scores = np.maximum(np.abs(lowest), np.abs(highest)) / 2**11
    assert (highest - lowest <= of_the_scores + 2.0**-137).all(), "the last term is for floats that are not normal"


@EACH
def test_there_are_not_more_bins_than_said(minimum: float, maximum: float) -> None:
    first, last = Bins.for_range(minimum, maximum, 17).of(np.array([minimum, maximum], np.float32)).tolist()
    powers_of_two_near_zero = 2 * 254
    assert last - first < 2**17 + powers_of_two_near_zero * 2**11


def test_when_the_range_grows_bins_are_unions_of_the_bins_before() -> None:
    scores = between(-2, 3)
    before = Bins.for_range(-2, 3, 17).of(scores)
    for maximum in (3.5, 7.9, 8.1, 1e10):
        after = Bins.for_range(-2, maximum, 17).of(scores)
        assert (np.diff(after)[np.diff(before) == 0] == 0).all()


def test_where_floats_themselves_are_coarse_each_has_a_bin() -> None:
    scores = np.arange(2**24, 2**24 + 200, 2, dtype=np.float32)
    assert np.diff(Bins.for_range(scores[0], scores[-1], 17).of(scores)).tolist() == [1] * 99


def test_zero_has_no_sign() -> None:
    bins = Bins.for_range(-1, 1, 17)
    assert bins.of(np.array([-0.0], np.float32)) == bins.of(np.array([0.0], np.float32))
