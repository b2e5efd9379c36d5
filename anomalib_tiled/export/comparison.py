"""Whether exported files predict what the ensemble predicts."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.export.modules import scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anomalib.data import InferenceBatch
    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Size

    Array = NDArray[np.generic]
    Predict = Callable[[Mapping[str, Array]], dict[str, Array]]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest allowed difference; if the highest score is above 1, as a fraction of it."""

DECISIONS = ("pred_label", "pred_mask")

SEED = 0
RANDOM_BATCHES = (1, 2)
"""Sizes of the batches of random images that are compared."""

REAL_IMAGES = 2
"""Number of images of the run that are compared."""


def random_images(size: Size, dtype: torch.dtype) -> list[torch.Tensor]:
    """Make batches of random pixels.

    Args:
        size: Height and width of the images.
        dtype: ``float32`` for values in [0, 1], ``uint8`` for 0 to 255.
    """
    generator = torch.Generator().manual_seed(SEED)
    return [of_type(torch.rand(batch, 3, *size, generator=generator), dtype) for batch in RANDOM_BATCHES]


def real_images(run: Run, dtype: torch.dtype) -> list[torch.Tensor]:
    """Read a batch of the images of the calibration without augmentations; give no batch if they are missing.

    Args:
        run: The run.
        dtype: ``float32`` for values in [0, 1], ``uint8`` for 0 to 255.
    """
    try:
        batch = next(iter(replace(run.images("calibration"), augmentations=None)))
    except DataError as error:
        logger.warning("No image of the run could be compared: %s", error)
        return []
    return [of_type(cast("torch.Tensor", batch.image).as_subclass(torch.Tensor)[:REAL_IMAGES], dtype)]


def of_type(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Give images with values in [0, 1] as exported files take them: as they are, or as bytes."""
    return images if dtype == torch.float32 else (images * 255).round().to(dtype)


def compare(ensemble: EnsembleModel, predict: Predict, batches: Iterable[torch.Tensor]) -> float:
    """Compare predictions of exported files to those of the ensemble.

    Args:
        ensemble: The ensemble.
        predict: Runs the files on ``images``.
        batches: Images of the type and number that the files take, shape (batch, 3, height, width).

    Returns:
        The largest difference of scores and maps.

    Raises:
        ConfigurationError: The predictions differ.
    """
    largest = 0.0
    for images in batches:
        size, wrong = differences(ensemble, images, predict({"images": images.numpy()}))
        largest = max(largest, size)
        if wrong:
            found = ", ".join(f"{name} by {size:.3g}" for name, size in wrong.items())
            message = (
                f"The exported files must predict what the ensemble predicts, to {TOLERANCE:g}, but differ in {found}. "
                "The graph that PyTorch traces computes something else than the model or a stage, for example because "
                "of random numbers, or of numbers kept between calls. Choose another model, stage or --format, or "
                "predict with `anomalib tiled predict`. No files were kept."
            )
            raise ConfigurationError(message)
    return largest


def differences(
    ensemble: EnsembleModel, images: torch.Tensor, found: Mapping[str, Array]
) -> tuple[float, dict[str, float]]:
    """Find the outputs that differ from those of the ensemble.

    Graphs add numbers in another order, so a score at a threshold may fall on either side. Labels and masks count as
    equal if they lie between those of tile predictions that are a tolerance lower, and a tolerance higher.

    Args:
        ensemble: The ensemble.
        images: Images, shape (batch, 3, height, width).
        found: Predictions of the exported files, by name.

    Returns:
        The largest difference of scores and maps as a fraction of the highest score, and the outputs that differ, each
        with that fraction, or, for labels and masks, with the number of differences that rounding cannot explain.
    """
    images, tiles = scaled(images), dict[str, TilePrediction]()
    raw = ensemble.predict_raw(images, lambda tile, prediction: tiles.update({tile.name: prediction}))
    expected = _arrays(ensemble.decide(raw))
    if set(expected) != set(found):
        return np.inf, dict.fromkeys(sorted(set(expected) ^ set(found)), np.inf)
    sizes = {name: distance(values, found[name]) for name, values in expected.items() if name not in DECISIONS}
    wrong = {name: size for name, size in sizes.items() if not size <= TOLERANCE}
    for name in DECISIONS:
        if name in expected and not np.array_equal(expected[name], found[name]):
            fewest, most = (_arrays(_predict_shifted(ensemble, tiles, by))[name] for by in (-TOLERANCE, TOLERANCE))
            if number := _outside(found[name], fewest, most):
                wrong[name] = number
    return max(sizes.values(), default=0.0), wrong


def distance(expected: Array, found: Array) -> float:
    """Give the largest difference, as a fraction of the highest value if that is above 1; infinite for other shapes."""
    if expected.shape != found.shape:
        return float("inf")
    highest = max(1.0, float(np.abs(expected).max(initial=0)))
    return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max(initial=0)) / highest


def _outside(found: Array, fewest: Array, most: Array) -> float:
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


def _arrays(prediction: InferenceBatch) -> dict[str, Array]:
    return {name: values.cpu().numpy() for name, values in prediction._asdict().items() if values is not None}
