"""Between normal and anomalous: images whose scores are near the threshold, which a person should look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.thresholding import reported_threshold

Verdict = Literal["normal", "uncertain", "anomalous"]
"""What is said of an image."""

FORMS = "{width: 0.1}, or {lower: 0.45, upper: 0.6}, or null"


@dataclass(frozen=True)
class Band:
    """Scores of uncertain images: above the lower limit, up to the upper one; in single precision, as scores are.

    Args:
        lower: Scores up to this one are normal.
        upper: Scores above this one are anomalous.
    """

    lower: float
    upper: float

    def holds(self, score: float) -> bool:
        """Whether an image with this score is uncertain."""
        return bool(np.float32(self.lower) < np.float32(score) <= np.float32(self.upper))


@dataclass(frozen=True)
class Uncertain:
    """Which images are uncertain: those with a score above a lower limit and up to an upper one.

    Give the width, or both limits; on the scale of reported scores.

    Args:
        width: From the lower to the upper limit, with the threshold in the middle.
        lower: Scores up to this one are normal; at most the threshold.
        upper: Scores above this one are anomalous; at least the threshold.

    Raises:
        ConfigurationError: It is neither a width nor two limits, or these are not in order.
    """

    width: float | None = None
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        are_numbers = all(isinstance(each, (int, float)) and math.isfinite(each) for each in given.values())
        if not are_numbers or not (
            (set(given) == {"width"} and given["width"] > 0)
            or (set(given) == {"lower", "upper"} and given["lower"] < given["upper"])
        ):
            message = (
                "thresholding.uncertain must be a width greater than 0, or a lower and a higher limit, such as "
                f"{FORMS}, but is {given}."
            )
            raise ConfigurationError(message)

    def around(self, threshold: float) -> Band:
        """Give the limits.

        Args:
            threshold: Images with a higher score are anomalous; on the scale of reported scores.

        Raises:
            ConfigurationError: The threshold is not between the limits.
        """
        if self.lower is None or self.upper is None:
            half = (self.width or 0) / 2
            return Band(threshold - half, threshold + half)
        if not np.float32(self.lower) <= np.float32(threshold) <= np.float32(self.upper):
            message = (
                f"The threshold must be within thresholding.uncertain, but is {threshold:.6g}, and the limits are "
                f"{self.lower:.6g} and {self.upper:.6g}: an image between them and the threshold would be normal by "
                "one and anomalous by the other. Give other limits or a width: in a run by `anomalib tiled fit "
                "--ckpt_dir RUN --thresholding.uncertain '{width: 0.1}'`, which trains nothing; in a prediction by "
                "--uncertain 0.1."
            )
            raise ConfigurationError(message)
        return Band(self.lower, self.upper)


def check_limits(uncertain: Uncertain, *, sensitivity: float, normalize_at: str, threshold_at: str) -> None:
    """Check what can be known of the limits before anything is learned.

    Args:
        uncertain: The limits.
        sensitivity: That of images.
        normalize_at: ``tile``, ``image`` or ``none``.
        threshold_at: ``tile`` or ``image``.

    Raises:
        ConfigurationError: Tiles are thresholded, or the threshold is not within the limits.
    """
    check_place(threshold_at)
    if normalize_at != "none":
        uncertain.around(reported_threshold(math.nan, sensitivity=sensitivity, normalize_at=normalize_at))


def check_place(threshold_at: str) -> None:
    """Check that images have one threshold that can be widened.

    Raises:
        ConfigurationError: Tiles are thresholded.
    """
    if threshold_at != "image":
        message = (
            "thresholding.uncertain needs thresholding.stage image, because scores of images are compared with it, but "
            f"the stage is {threshold_at}, where each tile has a threshold of its own. Set the stage to image, or "
            "thresholding.uncertain to null, and leave --uncertain out."
        )
        raise ConfigurationError(message)


def verdict_on(*, is_anomalous: bool, is_uncertain: bool | None) -> Verdict:
    """Give the verdict on an image.

    Args:
        is_anomalous: Whether its score is above the threshold.
        is_uncertain: Whether it is uncertain; ``None`` if no image is.
    """
    if is_uncertain:
        return "uncertain"
    return "anomalous" if is_anomalous else "normal"


def verdict_by(uncertain: Band | None, score: float | None, *, is_anomalous: bool) -> Verdict:
    """Give the verdict on an image by its score.

    Args:
        uncertain: Scores of uncertain images; ``None`` if no image is.
        score: That of the image; ``None`` if it has none, and is not uncertain.
        is_anomalous: Whether its score is above the threshold.
    """
    is_uncertain = uncertain is not None and score is not None and uncertain.holds(score)
    return verdict_on(is_anomalous=is_anomalous, is_uncertain=is_uncertain)
