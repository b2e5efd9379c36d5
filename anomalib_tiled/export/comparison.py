"""Whether exported files predict what the ensemble predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level
from anomalib_tiled.ensemble.ensemble import EnsembleModel, Merging
from anomalib_tiled.export.modules import scaled
from anomalib_tiled.stages.thresholding import NEUTRAL

if TYPE_CHECKING:
    import torch
    from anomalib.data import InferenceBatch
    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.tile_model import TilePrediction

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
    equal if they lie between those with thresholds a tolerance lower, and a tolerance higher.

    Args:
        ensemble: The ensemble.
        images: Images, shape (batch, 3, height, width).
        found: Predictions of the exported files, by name.

    Returns:
        The largest difference of scores, and the outputs that differ by more than the tolerance.
    """
    expected, of_tiles = _predict_tiles_too(ensemble, scaled(images))
    arrays = _arrays(expected)
    if set(arrays) != set(found):
        return np.inf, [Difference(name, np.inf) for name in sorted(set(arrays) ^ set(found))]
    sizes = {name: distance(values, found[name]) for name, values in arrays.items() if name not in DECISIONS}
    wrong = [Difference(name, size) for name, size in sizes.items() if not size <= TOLERANCE]
    shaped = [name for name in DECISIONS if name in arrays and arrays[name].shape != found[name].shape]
    wrong += [Difference(name, np.inf) for name in shaped]
    decided = [name for name in DECISIONS if name in arrays and not np.array_equal(arrays[name], found[name])]
    if decided and not shaped:
        fewest, most = (_arrays(_with_moved_thresholds(ensemble, of_tiles, by)) for by in (TOLERANCE, -TOLERANCE))
        for name in decided:
            number = np.sum(np.greater(fewest[name], found[name])) + np.sum(np.greater(found[name], most[name]))
            wrong += [Difference(name, float(number))] if number else []
    return max(sizes.values(), default=0.0), wrong


def distance(expected: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Give the largest difference, as a fraction of the highest value if that is above 1; infinite for other shapes."""
    if expected.shape != found.shape:
        return float("inf")
    highest = max(1.0, float(np.abs(expected).max(initial=0)))
    return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(initial=0)) / highest


def _predict_tiles_too(ensemble: EnsembleModel, images: torch.Tensor) -> tuple[InferenceBatch, list[TilePrediction]]:
    """Predict, and keep the tile predictions."""
    of_tiles: list[TilePrediction] = []
    raw = ensemble.predict_raw(images, lambda _, prediction: of_tiles.append(prediction))
    return ensemble.decide(raw), of_tiles


def _with_moved_thresholds(ensemble: EnsembleModel, of_tiles: list[TilePrediction], by: float) -> InferenceBatch:
    """Predict from tile predictions again, with thresholds raised by a fraction of the highest score."""
    calibration, stages = ensemble.calibration, ensemble.stages
    highest = max(1.0, *(float(each.scores.abs().max()) for each in of_tiles))
    other = EnsembleModel(
        ensemble.grid,
        ensemble.tile_models,
        stages=replace(
            stages,
            image_sensitivity=_moved_sensitivity(stages.image_sensitivity, by),
            pixel_sensitivity=_moved_sensitivity(stages.pixel_sensitivity, by),
        ),
        calibration=None if calibration is None else _moved(calibration, by * highest),
        evaluator=False,
    )
    merging = Merging(other, of_tiles[0].scores.shape[0])
    for tile, prediction in zip(ensemble.grid.tiles, of_tiles, strict=True):
        merging.add(tile, prediction)
    return other.decide(merging.finish())


def _moved(calibration: Calibration, by: float) -> Calibration:
    return replace(
        calibration,
        image=None if calibration.image is None else _moved_level(calibration.image, by),
        tiles={name: _moved_level(level, by) for name, level in calibration.tiles.items()},
    )


def _moved_level(level: Level, by: float) -> Level:
    return Level(_moved_threshold(level.scores, by), _moved_threshold(level.maps, by))


def _moved_threshold(learned: Learned, by: float) -> Learned:
    return replace(learned, threshold=learned.threshold + by)


def _moved_sensitivity(sensitivity: float, by: float) -> float:
    return sensitivity if sensitivity == NEUTRAL else min(max(sensitivity - by, 0.0), 1.0)


def _arrays(prediction: InferenceBatch) -> Arrays:
    return {name: values.cpu().numpy() for name, values in prediction._asdict().items() if values is not None}
