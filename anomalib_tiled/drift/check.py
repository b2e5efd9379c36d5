"""The check of predictions: from files of a run and of its predictions to what has drifted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.drift.comparison import FEWEST, Comparison, windows_of
from anomalib_tiled.drift.findings import Drift, Finding, Window
from anomalib_tiled.drift.predicted import APPEARANCE, SCORE, PredictedNumbers, quantities_of
from anomalib_tiled.drift.words import in_words, notes, nothing_moved, sentences
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.results.own_predictions import own_predictions
from anomalib_tiled.runs.drift_reference import DriftReference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomalib_tiled.drift.change import Change
    from anomalib_tiled.runs.run_folder import RunFolder


def check_predictions(folder: RunFolder, predictions: Path, window: int | None = None) -> Drift:
    """Compare predicted images with the normal images that their run was calibrated with.

    Predictions that are still written can be checked: complete lines count.

    Args:
        folder: The run folder.
        predictions: Folder of the predictions.
        window: Images of a window; ``None`` to choose.

    Raises:
        ConfigurationError: Another run or an earlier version has made the predictions, there are too few, or the
            window is too small.
        RunFolderError: The run does not know its normal images, or too few, or a file was changed.
    """
    if window is not None and window < FEWEST:
        message = f"--window must be at least {FEWEST} images, but is {window}. Raise it, or leave it out."
        raise ConfigurationError(message)
    predicted = own_predictions(folder, predictions)
    reference = DriftReference.read(folder)
    if len(reference.scores) < FEWEST:
        message = (
            f"New images are compared with at least {FEWEST} normal validation images, but {folder.path} was "
            f"calibrated with {len(reference.scores)}. Give its data more of them, and fit a new run."
        )
        raise RunFolderError(message)
    images = PredictedNumbers.read(predicted, [*quantities_of(reference)])
    if len(images.paths) < FEWEST:
        number = len(images.paths)
        message = f"A check needs at least {FEWEST} predicted images, but {predictions} has {number}. Predict more."
        raise ConfigurationError(message)
    return drift_of(Comparison(reference, images, windows_of(len(images.paths), window)))


def drift_of(comparison: Comparison) -> Drift:
    """Say what has moved."""
    changes, reference, images = comparison.changes(), comparison.reference, comparison.images
    numbers = len(reference.scores), len(images.paths)
    moved = sentences(changes, images.paths)
    said = moved or [nothing_moved(*numbers, scores=reference.subset == "val")]
    ordered = sorted(changes, key=lambda each: (each.period is None, -each.strength if each.period else 0.0))
    return Drift(
        images=numbers[1],
        reference_images=numbers[0],
        has_drifted=bool(moved),
        sentences=[*said, *notes(reference.subset, *numbers, images.unaligned)],
        findings=[_finding(each, images) for each in ordered],
        windows=[*_windows(comparison)],
    )


def _finding(change: Change, images: PredictedNumbers) -> Finding:
    return Finding(
        quantity=change.quantity.name if change.quantity.kind == APPEARANCE else change.quantity.kind,
        place="" if change.quantity.kind == APPEARANCE else change.quantity.name,
        reference_median=change.reference.median,
        median=change.new.median,
        stability_index=change.stability_index,
        p_value=change.p_value,
        has_moved=change.period is not None,
        words=in_words(change, images.paths),
    )


def _windows(comparison: Comparison) -> Iterator[Window]:
    quantities, paths = comparison.quantities, comparison.images.paths
    whole = [place for place, each in enumerate(quantities) if each.kind in {SCORE, APPEARANCE}]
    for number, span in enumerate(comparison.windows):
        numbers = {str(quantities[place]): comparison.new[span, place] for place in whole}
        yield Window(
            first=paths[span.start],
            last=paths[span.stop - 1],
            images=span.stop - span.start,
            medians={name: float(np.nanmedian(each)) for name, each in numbers.items() if not np.isnan(each).all()},
            moved=[str(quantities[place]) for place in np.flatnonzero(comparison.moved[:, number])],
        )
