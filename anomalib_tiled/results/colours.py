"""Colours of heat maps: safe for colour-blind readers, and transparent where scores are low."""

from __future__ import annotations


def heat_colours() -> list[tuple[int, int, int, int]]:
    """Give red, green, blue and opacity (0 to 255) for scores from 0 to 255."""
    raise NotImplementedError
