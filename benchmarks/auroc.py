"""The exact area under the ROC curve, by code that none of the measured programs uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def auroc(scores: NDArray[np.floating], anomalous: NDArray[np.bool_]) -> float:
    """Give the probability that an anomalous score is higher than a normal one; equal ones count half.

    Args:
        scores: Scores, higher is more anomalous, of any shape.
        anomalous: Which of them should be high, of the same shape; some, but not all.
    """
    normal, high = np.sort(scores[~anomalous]), scores[anomalous]
    below, not_above = (np.searchsorted(normal, high, side=side).mean() for side in ("left", "right"))
    return float((below + not_above) / 2 / len(normal))
