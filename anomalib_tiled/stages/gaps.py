"""Gaps between scores: all thresholds in one decide alike, so which gap is best, and where in it a threshold lies."""

from __future__ import annotations

import math

import numpy as np

from anomalib_tiled.stages.distribution import Integers, ScoreCounts

LEAST_SPREAD = 0.05
"""Least range of normal scores, as a fraction of the gap above them."""

WIDE_GAP = 0.1
"""Smallest gap between scores that a note mentions, as a fraction of the range of scores."""

MARGIN = 1e-5
"""Distance from the threshold to the lowest score above it, as a fraction of the range of scores."""


def widest_gap(counts: ScoreCounts, best: Integers) -> int:
    """Choose the widest of several gaps, and the lowest of these.

    Args:
        counts: The scores.
        best: Gaps, each by the index of the bin above it, ascending; the number of bins for that above all scores.
            Those below and above all scores have no width.
    """
    widths = np.concatenate([[0.0], counts.lower[1:] - counts.upper[:-1], [0.0]])
    return int(best[np.argmax(widths[best])])


def between(counts: ScoreCounts, index: int) -> float:
    """Give the middle between a bin and the one below, as ``F1AdaptiveThreshold`` says; just below the lowest bin."""
    if not index:
        return just_below(counts, 0)
    below, lowest = counts.upper[index - 1], counts.lower[index]
    normal = np.flatnonzero(counts.normal)
    spread = max(counts.upper[normal[-1]] - counts.lower[normal[0]], LEAST_SPREAD * (lowest - below))
    return _below_as_float(lowest, below + spread * math.sinh(math.asinh((lowest - below) / spread) / 2))


def just_below(counts: ScoreCounts, index: int) -> float:
    """Give a threshold between a bin and the bin below, so close to the bin that it practically equals its score."""
    lowest = counts.lower[index]
    below = counts.upper[index - 1] if index else -np.inf
    scale = counts.upper[-1] - counts.lower[0] or abs(lowest) or 1.0
    return _below_as_float(lowest, lowest - min(MARGIN * scale, (lowest - below) / 2))


def note_on_gap(counts: ScoreCounts, index: int, measure: str) -> tuple[str, ...]:
    """Name the gap that a threshold lies in, if it is a wide one.

    Args:
        counts: The scores.
        index: Index of the bin above the gap.
        measure: What all thresholds in the gap have in common, such as ``F1 score``.
    """
    if not 0 < index < len(counts.lower):
        return ()
    below, above = float(counts.upper[index - 1]), float(counts.lower[index])
    if above - below < WIDE_GAP * (counts.upper[-1] - counts.lower[0]):
        return ()
    note = (
        f"No validation image has a score between {below:.4g} and {above:.4g}: every threshold there has the same "
        f"{measure}. The middle is taken, measured in ranges of the normal scores."
    )
    return (note,)


def _below_as_float(lowest: float, threshold: float) -> float:
    """Keep a threshold below a score in single precision, in which scores are compared."""
    return float(min(threshold, np.nextafter(np.float32(lowest), np.float32(-np.inf))))
