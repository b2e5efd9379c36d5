"""Predicting in another precision than that of the run: how predictions change is measured once, and kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.ensemble.prediction_engine import PredictionEngine
from anomalib_tiled.errors import DataError, RunFolderError, StorageError
from anomalib_tiled.results.changes import TOLERANCE, Changes, changes_of
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.validation import validated

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

MEASURE_AGAIN = "Delete it: it is measured again."

ALLOW = "--allow_changes (allow_changes=True) accepts it."


def predicting_in(  # noqa: PLR0913  # each is an option of the command `predict`
    run: Run,
    precision: str,
    device: str,
    report: Callable[[str], None],
    *,
    engine: str = TORCH,
    allow_changes: bool = False,
) -> Run:
    """Give a run that predicts new images in a precision, once it is known how its predictions change.

    Args:
        run: A complete run.
        precision: The precision.
        device: Name of the device to measure on.
        report: Takes a line about the changes.
        engine: Name of the engine that computes backbones; in half precision, each engine rounds in its own way.
        allow_changes: Whether predictions may change by more than the tolerance, or by what cannot be measured.

    Raises:
        ConfigurationError: Predictions change too much.
        DataError: A validation image is missing, so that changes cannot be measured.
        RunFolderError: The run is not complete, or a file was changed.
    """
    own = run.settings.precision
    engine = TORCH if precision == FLOAT32 else engine  # in single precision, engines agree
    if precision == own and engine == TORCH:
        return run
    run.check_calibrated()
    other, name = run.in_precision(precision), precision if engine == TORCH else f"{precision} by {engine}"
    try:
        changes = _changes(run, other, device, engine, name)
    except DataError as error:
        unknown = f"how predictions in {name} differ from those in {own}, as in the run, is unknown"
        if not allow_changes:
            message = f"{error} Until then, {unknown}. {ALLOW}"
            raise DataError(message) from error
        report(f"warning: {unknown}: {error}")
        return other
    report(f"Precision: {name} instead of {own}. On {changes.images} validation images, {changes}.")
    if not allow_changes:
        TOLERANCE.check(changes, name, f"Predict in {own}. {ALLOW}")
    return other


def _changes(run: Run, other: Run, device: str, engine: str, name: str) -> Changes:
    """Read how predictions change, or measure it; errors are those of `changes_of`."""
    path, calibration = run.folder.precision_changes_file, run.folder.calibration_fingerprint(run.settings)
    known = _known(run.folder, calibration)
    if name not in known:
        ensemble = other.calibrated_ensemble(device)
        precision = other.job.predicts_in
        ensemble.tile_models.engine = PredictionEngine.named(engine, ensemble.device, precision, logger.info)
        changes = changes_of(run, run.calibrated_ensemble(device), ensemble)
        known = {**_known(run.folder, calibration), name: changes.to_json()}  # another command may have measured, too
        try:
            write_json(path, {"calibration": calibration, "changes": known})
        except StorageError as error:  # as in a run that others may only read
            logger.warning("How predictions change is measured anew each time: %s", error)
        return changes
    try:
        return validated(Changes, known[name])
    except ValueError as error:
        message = f"{path} must hold how predictions change, but {error}. {MEASURE_AGAIN}"
        raise RunFolderError(message) from error


def _known(folder: RunFolder, calibration: str) -> dict[str, Any]:
    """Read what was measured with a calibration, by precision; nothing if there is another one by now."""
    path = folder.precision_changes_file
    content: dict[str, Plain] = read_json(path, MEASURE_AGAIN) if path.is_file() else {}
    changes = content.get("changes") if content.get("calibration") == calibration else None
    return changes if isinstance(changes, dict) else {}
