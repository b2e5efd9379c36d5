"""Cross-validation of thresholds: what a threshold calls normal images that it was not learned from."""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_tiled.ensemble.calibration import Learned, Stages
from anomalib_tiled.ensemble.observed import Observed
from anomalib_tiled.ensemble.raw_prediction import final_scores
from anomalib_tiled.errors import ConfigurationError, StageError
from anomalib_tiled.stages.thresholding import NEUTRAL, Thresholder, decided

logger = logging.getLogger(__name__)

ROUNDS = 30
"""Up to so many normal images are left out one by one; more are dealt to so many groups, which are left out in turn."""

FEWEST_ROUNDS = 5
"""With fewer rounds, less than four fifths of the images would stay to learn from."""

ROUNDS_OF_ALL_TILES = 20_000
"""With more than a thousand tiles, each has fewer rounds, so that all of them together take a few seconds."""


def rounds_for(tiles: int) -> int:
    """Give the number of rounds for each tile, if so many tiles have thresholds."""
    return max(FEWEST_ROUNDS, min(ROUNDS, ROUNDS_OF_ALL_TILES // max(1, tiles)))


def called_without_learning(
    stages: Stages, rule: Thresholder, observed: Observed, *, normalize: bool, rounds: int
) -> NDArray[np.bool_] | None:
    """Find the normal images that a threshold calls anomalous if it is learned without them, shape (normal images,).

    Args:
        stages: The stages.
        rule: Learns the threshold.
        observed: Scores of validation images, or of one tile of them. Scores of anomalous images are never left out.
        normalize: Whether the normalizer learns from these scores.
        rounds: Number of groups of images that are left out in turn; at most one for each image.

    Returns:
        Which images; ``None`` if there are fewer than five, or the stages cannot learn without some.
    """
    if (images := observed.normal_images) < FEWEST_ROUNDS:
        return None
    normalize &= stages.image_sensitivity != NEUTRAL  # else the threshold alone decides
    numbers, called = observed.numbers, np.zeros(images, dtype=np.bool_)
    for group in range(min(rounds, images)):
        left_out = (numbers >= 0) & (numbers % min(rounds, images) == group)
        if not left_out.any():
            continue
        try:
            learned = observed.learn_scores(stages, rule, ~left_out, normalize=normalize)
        except (StageError, ConfigurationError) as error:  # such as that of a rule that needs more images
            logger.info("How many false alarms to expect is unknown, for thresholds of fewer images fail: %s", error)
            return None
        called[numbers[left_out]] = _called(stages, observed.scores.values[left_out], learned)
    return called


def called_anomalous(stages: Stages, observed: Observed, learned: Learned) -> NDArray[np.bool_]:
    """Find the normal images that are called anomalous, shape (normal images,).

    Args:
        stages: The stages.
        observed: Scores of images, or of one tile of them.
        learned: Threshold and normalization.
    """
    numbers, called = observed.numbers, np.zeros(observed.normal_images, dtype=np.bool_)
    called[numbers[numbers >= 0]] = _called(stages, observed.scores.values[numbers >= 0], learned)
    return called


def _called(stages: Stages, scores: NDArray[np.float32], learned: Learned) -> NDArray[np.bool_]:
    raw = torch.from_numpy(scores)
    final = final_scores(stages, raw, learned)
    found = decided(raw, final, threshold=learned.threshold, sensitivity=stages.image_sensitivity)
    return np.asarray(found.numpy(), dtype=np.bool_)
