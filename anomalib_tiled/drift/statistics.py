"""How a sample differs from a reference: a two-sample test, an index of the size of the difference, a correction.

Both compare distributions as a whole, and a few images with any score at all move both only a little: anomalous images
among many normal ones are no drift.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import ks_2samp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MOST_BINS = 10
"""Bins of the stability index, as is usual."""

IN_A_BIN = 5
"""Fewest numbers of the reference in a bin: with fewer, their share is mostly chance."""

SMOOTHING = 0.5
"""Added to the count of each bin, so that an empty one has a logarithm (Jeffreys' prior of a share)."""

MOST_PAIRS = 10**6
"""Product of the sizes of two samples, up to which the test is exact."""


def stability_index(reference: Numbers, new: Numbers) -> float:
    """Compute the population stability index: the sum over bins of (new - reference) * ln(new / reference).

    The bins are quantiles of the reference; new and reference are the shares of their numbers in a bin. Below 0.1
    distributions are called alike, above 0.25 different (Siddiqi, "Credit Risk Scorecards", Wiley, 2006, chapter 8).
    Chance alone gives about (bins - 1) * (1 / images of the reference + 1 / new images) (Yurdakul and Naranjo,
    "Statistical properties of the population stability index", Journal of Risk Model Validation 14(4), 2020).

    Args:
        reference: Numbers of the reference, shape (images,).
        new: New numbers, shape (new images,).
    """
    edges = _edges(reference)
    expected, found = (_shares(edges, numbers) for numbers in (reference, new))
    return float(np.sum((found - expected) * np.log(found / expected)))


def _edges(reference: Numbers) -> Numbers:
    """Give the upper edges of all bins but the last; numbers that are equal are in one bin."""
    bins = int(np.clip(len(reference) // IN_A_BIN, 2, MOST_BINS))
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins, method="inverted_cdf"))
    lowest = float(reference.min())
    # Where many numbers are the lowest one, lower ones get a bin of their own.
    return np.r_[np.nextafter(lowest, -np.inf), edges] if edges[0] == lowest else edges


def _shares(edges: Numbers, numbers: Numbers) -> Numbers:
    counts = np.bincount(np.searchsorted(edges, numbers), minlength=len(edges) + 1) + SMOOTHING
    return np.asarray(counts / counts.sum(), np.float64)


def p_values(reference: Numbers, new: Numbers) -> Numbers:
    """Test each quantity by the test of Kolmogorov and Smirnov for two samples, two-sided.

    It sees any change of a distribution, not of its mean alone. For small samples it is exact, also for the tiny
    probabilities that a correction for many tests asks for; equal numbers make it stricter only. A share of outliers
    moves its distance by no more than this share.

    Args:
        reference: Shape (images, quantities); NaN where an image has no such number.
        new: Shape (new images, quantities).

    Returns:
        Shape (quantities,); 1 where either sample is empty.
    """
    known = ~(np.isnan(reference).any(axis=0) | np.isnan(new).any(axis=0))
    values = np.ones(reference.shape[1])
    values[known] = _tested(reference[:, known], new[:, known])
    for number in np.flatnonzero(~known):
        samples = (each[~np.isnan(each[:, number]), number, None] for each in (reference, new))
        values[number] = _tested(*samples)[0]
    return values


def _tested(reference: Numbers, new: Numbers) -> Numbers:
    """Test quantities that all images have."""
    images, new_images = len(reference), len(new)
    if not (images and new_images and reference.shape[1]):
        return np.ones(reference.shape[1])
    both = np.concatenate([reference, new])
    order = np.argsort(both, axis=0, kind="stable")
    ordered = np.take_along_axis(both, order, axis=0)
    apart = np.cumsum(np.where(order < images, new_images, -images), axis=0)  # times both numbers of images
    is_last = np.concatenate([ordered[1:] != ordered[:-1], np.ones((1, both.shape[1]), np.bool_)])
    distances = np.abs(np.where(is_last, apart, 0)).max(axis=0)
    return np.array([_p_value(images, new_images, int(distance)) for distance in distances])


@cache
def _p_value(images: int, new_images: int, distance: int) -> float:
    """Give the probability of a distance that is at least as large.

    Args:
        images: Size of the reference.
        new_images: Size of the sample.
        distance: Largest difference of both distribution functions, times both sizes.
    """
    lower = ((below, divmod(below * new_images - distance, images)) for below in range(images + 1))
    below, new_below = next((below, each) for below, (each, rest) in lower if rest == 0 and 0 <= each <= new_images)
    # Samples of zeros and ones with that distance: the probability depends on nothing else.
    reference, new = (np.arange(size) >= zeros for size, zeros in ((images, below), (new_images, new_below)))
    method = "exact" if images * new_images <= MOST_PAIRS else "asymp"
    return float(ks_2samp(reference.astype(float), new.astype(float), method=method).pvalue)


def holm(values: Numbers) -> Numbers:
    """Correct p-values so that the chance of a single false alarm among all of them stays what each says.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2), 1979: it
    holds however the quantities depend on each other.

    Args:
        values: Any shape.
    """
    flat = values.ravel()
    order = np.argsort(flat)
    steps = np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1))
    corrected = np.empty_like(flat)
    corrected[order] = steps.clip(max=1)
    return corrected.reshape(values.shape)
