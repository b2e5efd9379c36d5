"""Sensitivities: how far from the threshold a normalized score counts as anomalous."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

NEUTRAL = 0.5
"""The sensitivity that leaves decisions at the threshold."""


def decided(raw: torch.Tensor, normalized: torch.Tensor, *, threshold: float, sensitivity: float) -> torch.Tensor:
    """Decide what is anomalous: normalized scores greater than 1 - sensitivity, as in anomalib.

    Args:
        raw: Scores or maps of any shape, on the scale of the threshold.
        normalized: The same scores, normalized; the raw scores again if there is no normalization.
        threshold: Scores above it are anomalous.
        sensitivity: Between 0 and 1; a higher sensitivity finds more.

    Returns:
        True where anomalous, of the same shape.
    """
    if sensitivity == NEUTRAL:  # greater than the threshold, which rounding in normalization may blur
        return raw > threshold
    return normalized > 1 - sensitivity


def check_sensitivity(name: str, given: object, *, normalize_at: str, threshold_at: str) -> None:
    """Check that a sensitivity has a meaning.

    Args:
        name: ``image_sensitivity`` or ``pixel_sensitivity``.
        given: Its value.
        normalize_at: ``tile``, ``image`` or ``none``.
        threshold_at: ``tile`` or ``image``.

    Raises:
        ConfigurationError: It is not between 0 and 1, or would be applied to scores that are not normalized.
    """
    if not isinstance(given, (int, float)) or not 0 <= given <= 1:
        message = f"thresholding.{name} must be a number between 0 and 1, but is {given!r}. Higher finds more."
        raise ConfigurationError(message)
    if given != NEUTRAL and normalize_at not in {"tile", threshold_at}:
        message = (
            f"thresholding.{name} is {given}, but a sensitivity needs normalized scores, and with normalization.stage "
            f"{normalize_at} and thresholding.stage {threshold_at} thresholds apply to raw scores. Set both "
            "stages to image or both to tile, or leave the sensitivity out and give a threshold by ManualThreshold."
        )
        raise ConfigurationError(message)
