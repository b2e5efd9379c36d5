"""Decisions about named regions, image by image, and their columns in tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib_tiled.ensemble.named_regions import DecidedRegion
    from anomalib_tiled.stages.regions import RegionMap


@dataclass(frozen=True)
class RegionDecision:
    """What is decided about a named region of one image.

    Args:
        score: Higher is more anomalous; between 0 and 1 unless the run does not normalize.
        label: Whether the region is anomalous.
    """

    score: float
    label: bool


def decisions_of(decided: Mapping[str, DecidedRegion], images: int) -> list[dict[str, RegionDecision]]:
    """Give what is decided about the regions of each image of a batch, by their names.

    Args:
        decided: The regions of the batch.
        images: Number of images.
    """
    plain = {name: (each.scores.tolist(), each.labels.tolist()) for name, each in decided.items()}
    return [
        {name: RegionDecision(scores[number], labels[number]) for name, (scores, labels) in plain.items()}
        for number in range(images)
    ]


def named_regions(regions: RegionMap | None) -> list[str]:
    """Give the names of regions; none if there are no regions."""
    return [] if regions is None else [*regions.named]


def region_columns(names: Sequence[str]) -> list[str]:
    """Give the columns that tables of images have for named regions."""
    return [f"{column}_{name}" for name in names for column in ("pred_score", "pred_label")]
