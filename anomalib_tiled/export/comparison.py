"""Whether exported files predict what the ensemble predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.export.modules import scaled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from anomalib.data import InferenceBatch
    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.ensemble import EnsembleModel

    Arrays = dict[str, NDArray[np.generic]]

TOLERANCE = 1e-4
"""Largest allowed difference; if the highest score is above 1, as a fraction of it."""

DECISIONS = ("pred_label", "pred_mask")


@dataclass(frozen=True)
class Difference:
    """An output that differs.

    Args:
        name: Name of the output.
        size: Largest difference, as a fraction of the highest score; for labels and masks, the number of differences
            that rounding cannot explain.
    """

    name: str
    size: float


def differences(ensemble: EnsembleModel, images: torch.Tensor, found: Arrays) -> tuple[float, list[Difference]]:
    """Compare predictions to those of the ensemble.

    Graphs add numbers in another order, so a score at a threshold may fall on either side. Labels and masks count as
    equal if they lie between those of tile predictions that are a tolerance lower, and a tolerance higher.

    Args:
        ensemble: The ensemble.
        images: Images, shape (batch, 3, height, width).
        found: Predictions of the exported files, by name.

    Returns:
        The largest difference of scores, and the outputs that differ by more than the tolerance.
    """
    images, tiles = scaled(images), dict[str, TilePrediction]()
    raw = ensemble.predict_raw(images, lambda tile, prediction: tiles.update({tile.name: prediction}))
    arrays = _arrays(ensemble.decide(raw))
    if set(arrays) != set(found):
        return np.inf, [Difference(name, np.inf) for name in sorted(set(arrays) ^ set(found))]
    sizes = {name: distance(values, found[name]) for name, values in arrays.items() if name not in DECISIONS}
    wrong = [Difference(name, size) for name, size in sizes.items() if not size <= TOLERANCE]
    for name in DECISIONS:
        if name in arrays and not np.array_equal(arrays[name], found[name]):
            fewest, most = (_arrays(_predict_shifted(ensemble, tiles, by))[name] for by in (-TOLERANCE, TOLERANCE))
            number = _outside(found[name], fewest, most)
            wrong += [Difference(name, number)] if number else []
    return max(sizes.values(), default=0.0), wrong


def distance(expected: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Give the largest difference, as a fraction of the highest value if that is above 1; infinite for other shapes."""
    if expected.shape != found.shape:
        return float("inf")
    highest = max(1.0, float(np.abs(expected).max(initial=0)))
    return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(initial=0)) / highest


def _outside(found: NDArray[np.generic], fewest: NDArray[np.generic], most: NDArray[np.generic]) -> float:
    """Count decisions that no rounding explains; infinite for another shape."""
    if found.shape != most.shape:
        return np.inf
    return float(np.sum(np.greater(fewest, found)) + np.sum(np.greater(found, most)))


def _predict_shifted(ensemble: EnsembleModel, tiles: Mapping[str, TilePrediction], by: float) -> InferenceBatch:
    """Predict again from tile predictions that are raised by a fraction of the highest score."""
    shift = by * max(1.0, *(float(each.scores.abs().max()) for each in tiles.values()))
    shifted = {
        name: TilePrediction(each.scores + shift, None if each.maps is None else each.maps + shift)
        for name, each in tiles.items()
    }
    batch = len(next(iter(shifted.values())).scores)
    return ensemble.decide(ensemble.join(batch, lambda tile: shifted[tile.name]))


def _arrays(prediction: InferenceBatch) -> Arrays:
    return {name: values.cpu().numpy() for name, values in prediction._asdict().items() if values is not None}
