"""Index, test and correction: by hand, and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from anomalib_tiled.drift.statistics import holm, p_values, stability_index

TEN = np.arange(10.0)


def test_the_stability_index_by_hand() -> None:
    new = np.array([0.0, 1, 5, 6, 7, 8])
    expected, found = np.array([5.5, 5.5]) / 11, np.array([2.5, 4.5]) / 7
    by_hand = sum((found - expected) * np.log(found / expected))
    assert stability_index(TEN, new) == pytest.approx(by_hand), "two bins: five numbers up to 4, and five above"
    assert stability_index(TEN, TEN) == 0


def test_the_bins_are_tenths_of_a_large_reference() -> None:
    reference = np.arange(1000.0)
    shares = (np.array([200, *[100] * 8, 0]) + 0.5) / 1005
    by_hand = sum((shares - 0.1) * np.log(shares / 0.1))
    new = np.concatenate([reference[:100], reference[:900]])
    assert stability_index(reference, new) == pytest.approx(by_hand)


@pytest.mark.parametrize("moved", [-1.0, 1.0])
def test_numbers_that_are_all_equal_are_told_from_lower_and_from_higher_ones(moved: float) -> None:
    reference = np.full(50, 3.0)
    assert stability_index(reference, reference[:20]) == pytest.approx(0, abs=0.05)
    assert stability_index(reference, reference[:20] + moved) > 2


def test_three_in_a_hundred_outliers_hardly_move_the_index() -> None:
    reference = np.arange(200.0)
    assert stability_index(reference, np.r_[reference[:194], [1e6] * 6]) < 0.02


@pytest.mark.parametrize(("images", "new_images"), [(10, 5), (20, 50), (37, 53), (50, 50), (200, 50), (1200, 1300)])
def test_probabilities_are_those_of_scipy_with_and_without_equal_numbers(images: int, new_images: int) -> None:
    random = np.random.default_rng(0)
    for values in (2, 7, 10**6):
        reference = random.integers(0, values, (images, 4)).astype(float)
        new = random.integers(0, values, (new_images, 4)) + np.array([0, 0.1, 0.3, 2]) * values
        method = "exact" if images * new_images <= 10**6 else "asymp"
        expected = [ks_2samp(*each, method=method).pvalue for each in zip(reference.T, new.T, strict=True)]
        assert p_values(reference, new) == pytest.approx(expected, rel=1e-9)


def test_the_least_probability_of_small_samples_is_exact() -> None:
    assert p_values(TEN[:, None], TEN[:5, None] + 100)[0] == pytest.approx(2 / 3003), "of 15 over 5 orders"


def test_images_without_a_number_do_not_count() -> None:
    reference, new = np.c_[TEN, TEN, TEN], np.c_[TEN, TEN + 5, TEN]
    reference[0, 1] = new[3:5, 1] = new[:, 2] = np.nan
    expected = ks_2samp(TEN[1:], np.delete(TEN + 5, [3, 4]), method="exact").pvalue
    assert p_values(reference, new) == pytest.approx([1, expected, 1])


def test_holm_by_hand() -> None:
    values = np.array([[0.01, 0.04], [0.03, 0.5]])
    assert holm(values) == pytest.approx(np.array([[0.04, 0.09], [0.09, 0.5]])), "4 times, 3 times, never decreasing"
