"""Areas and optima of curves, from counts of scores.

Every function takes the counts in ascending order of score and gives a number between 0 and 1, or ``None`` where it
is not defined because one of the two classes is empty. Scores in one bin are tied: a curve crosses them in one step.
"""

from __future__ import annotations

import numpy as np

from anomalib_tiled.stages.distribution import Floats, ScoreCounts

AUPRO_LIMIT = 0.3
"""False-positive rate up to which the per-region overlap is integrated, as in MVTec's and anomalib's definition."""


def auroc(counts: ScoreCounts) -> float | None:
    """Area under true-positive rate over false-positive rate."""
    if not counts.normal.sum() or not counts.anomalous.sum():
        return None
    return float(np.trapezoid(_rate(counts.anomalous), _rate(counts.normal)))


def aupr(counts: ScoreCounts) -> float | None:
    """Area under precision over recall as a step function: the average precision, as in anomalib."""
    if not counts.anomalous.sum():
        return None
    found = np.cumsum(counts.anomalous[::-1])
    called = found + np.cumsum(counts.normal[::-1])
    return float(np.sum(np.diff(found, prepend=0.0) / found[-1] * found / called))


def f1_max(counts: ScoreCounts) -> float | None:
    """Highest F1 score over all thresholds."""
    if not counts.anomalous.sum():
        return None
    return float(f1_scores(counts).max())


def f1_scores(counts: ScoreCounts) -> Floats:
    """F1 score if all scores from a bin upwards count as anomalous, shape (bins,)."""
    found = np.cumsum(counts.anomalous[::-1])[::-1]
    called = found + np.cumsum(counts.normal[::-1])[::-1]
    scores: Floats = 2 * found / (called + counts.anomalous.sum())
    return scores


def aupro(counts: ScoreCounts, limit: float = AUPRO_LIMIT) -> float | None:
    """Area under mean overlap with a region over false-positive rate, up to a limit, divided by the limit."""
    if not counts.normal.sum() or not counts.regions.sum():
        return None
    overlap, false_positives = _rate(counts.regions), _rate(counts.normal)
    at_limit = np.interp(limit, false_positives, overlap)
    below = false_positives < limit
    rates = np.append(false_positives[below], limit)
    return float(np.trapezoid(np.append(overlap[below], at_limit), rates) / limit)


def _rate(counts: Floats) -> Floats:
    """Share of the counts at or above each threshold, thresholds descending, from 0 to 1."""
    return np.concatenate([[0.0], np.cumsum(counts[::-1]) / counts.sum()])
