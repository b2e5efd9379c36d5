"""What a check has found: one finding for each quantity, some windows in time, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

DRIFT = "drift.json"
"""File of a `Drift` in the folder of the predictions, where `check` writes it and `report` reads it."""


@dataclass(frozen=True)
class Finding:
    """How one quantity of new images compares with that of the reference: the normal validation images.

    Args:
        quantity: ``score``, ``tile`` (its score), ``region`` (score of a named one), or a field of `Appearance`.
        place: Name of the tile or region; empty for the image as a whole.
        reference_median: Median of the reference.
        median: Median of the new images; if it has moved, of those from where that began to where it ended.
        stability_index: Population stability index of the same images; 0 for equal distributions.
        p_value: Of a two-sample test with the same images, before it is corrected for the number of tests.
        has_moved: Whether the check calls this a drift.
        words: The finding in a sentence.
    """

    quantity: str
    place: str
    reference_median: float
    median: float
    stability_index: float
    p_value: float
    has_moved: bool
    words: str


@dataclass(frozen=True)
class Window:
    """Images that follow each other, in the order in which they were predicted.

    Args:
        first: Path of the first image.
        last: Path of the last image.
        images: Number of images.
        medians: Median of each quantity of whole images, by its name.
        moved: The quantities and places that have moved in this window, such as ``brightness`` or ``tile r00_c01``.
    """

    first: str
    last: str
    images: int
    medians: Mapping[str, float]
    moved: Sequence[str]


@dataclass(frozen=True)
class Drift:
    """The result of a check.

    Args:
        images: Number of new images.
        reference_images: Number of images that they are compared with.
        has_drifted: Whether anything has moved.
        sentences: What moved and where, in words; that nothing moved, if so.
        findings: One for each quantity and place; those that moved first, the strongest first of all.
        windows: In order of time.
    """

    images: int
    reference_images: int
    has_drifted: bool
    sentences: Sequence[str]
    findings: Sequence[Finding]
    windows: Sequence[Window]

    def to_json(self) -> dict[str, Any]:
        """Give the content of ``drift.json``."""
        return asdict(self)
