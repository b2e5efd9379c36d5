"""Turns the content of a report into one HTML file that needs nothing else."""

from __future__ import annotations

from anomalib_tiled.report.content import Content


def render(content: Content) -> str:
    """Give the page as HTML.

    Args:
        content: What it shows.
    """
    raise NotImplementedError
