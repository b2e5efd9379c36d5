"""Tile locations without spread: their normal scores do not vary, so the stages calibrate them on other scores.

At a location that is blank in every image, such as the white edge of a paper, a model gives one score, up to rounding.
With a threshold just above that score, the next grey level, a JPEG file, or the rounding of another batch size would
count as a defect. So such a location borrows the normal scores of a typical location: a score that is normal there is
normal here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from anomalib_tiled.ensemble.observed import Observed
from anomalib_tiled.stages.distribution import ROUNDING, ScoreDistribution

LEAST_SPREAD = 0.05
"""Least spread of normal scores, as a fraction of the median spread of all tiles; rounding alone has caused 0.015."""

SHOWN = 8
"""Tiles that a note names at most; ``status`` names all."""


class Spread(NamedTuple):
    """Where the scores of the normal images at a tile location lie.

    Args:
        lowest: The lowest score.
        highest: The highest one.
    """

    lowest: float
    highest: float

    @classmethod
    def of(cls, tile: Observed) -> Spread | None:
        """Give the spread of a tile; ``None`` if it is normal in no image."""
        peaks = tile.scores.peaks
        return cls(float(peaks.min()), float(peaks.max())) if peaks.size else None


def lenders_of(tiles: Mapping[str, Spread | None]) -> dict[str, str]:
    """Name the tiles without spread, each with the tile from which it borrows; empty if all scores vary, or none do.

    Args:
        tiles: The spread of each tile.
    """
    known = {name: spread for name, spread in tiles.items() if spread is not None}
    spreads = {name: spread.highest - spread.lowest for name, spread in known.items()}
    highest = {name: spread.highest for name, spread in known.items()}
    rounding = ROUNDING * max(map(abs, highest.values()), default=0.0)
    if not (varying := [spread for spread in spreads.values() if spread > rounding]):
        return {}
    least = max(LEAST_SPREAD * median(varying), rounding)
    usual = sorted((name for name in spreads if spreads[name] >= least), key=highest.__getitem__)
    return {name: usual[len(usual) // 2] for name, spread in spreads.items() if spread < least}


def lend(borrower: Observed, lender: Observed) -> Observed:
    """Join the anomalous scores and pixels of a tile without spread with the normal ones of another tile."""
    result = Observed(borrower.maps.bits)
    result.every_mask_known = borrower.every_mask_known
    result.scores = borrower.scores.with_normal_scores_of(lender.scores, _shift(borrower.scores, lender.scores))
    if not borrower.maps.empty:
        result.maps = borrower.maps.with_normal_scores_of(lender.maps, _shift(borrower.maps, lender.maps))
    return result


def notes_on_spread(lenders: Mapping[str, str]) -> Sequence[str]:
    """Write a note that names the tiles that `lenders_of` has found."""
    if not lenders:
        return ()
    more = f" and {len(lenders) - SHOWN} more (`anomalib tiled status` names them)" if len(lenders) > SHOWN else ""
    note = (
        f"Normal scores hardly vary at {', '.join(list(lenders)[:SHOWN])}{more}, as where images are blank: "
        f"thresholds and scales of these tiles are learned from the normal scores of {next(iter(lenders.values()))}."
    )
    return (note,)


def _shift(borrower: ScoreDistribution, lender: ScoreDistribution) -> float:
    """Compute by how much to raise borrowed scores so that they are not below the scores of the tile itself."""
    return max(0.0, borrower.maximum_normal - lender.minimum)
