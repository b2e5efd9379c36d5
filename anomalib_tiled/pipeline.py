"""The whole story: fit, test, predict, status."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from anomalib.data import AnomalibDataModule
from lightning.pytorch import seed_everything

from anomalib_tiled.config.tiling import grid_of, tiles_named
from anomalib_tiled.data.find_images import find_images
from anomalib_tiled.data.images import depth_notes, grey_mask_notes
from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.uninspected import HiddenDefects
from anomalib_tiled.errors import (
    ConfigurationError,
    DataError,
    StageError,
    TiledError,
    TrainingError,
    UnfitLocationError,
)
from anomalib_tiled.results.contradictions import contradiction, count_of
from anomalib_tiled.results.metrics import Images, Measurements, Results
from anomalib_tiled.results.output_check import check_free, picture_folders
from anomalib_tiled.results.pictures import Pictures, drawn_meanwhile
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.predictor import LESS_MEMORY as LESS_TO_PREDICT
from anomalib_tiled.results.predictor import Prediction
from anomalib_tiled.results.rethreshold import decide_again as redecide
from anomalib_tiled.results.tables import scores_file, write_metrics, write_tiles
from anomalib_tiled.results.tile_metrics import TileMeasurements, TileResult
from anomalib_tiled.runs.checkpoints import check_finished
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.contracts import checked_outcomes, image_context, untrained, with_context
from anomalib_tiled.system.allocation import give_back_freed_memory, long_lived_kept_apart
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.locks import PREDICTION, locked
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.progress import progress_bar, track
from anomalib_tiled.training.calibrate import calibrate, keep_calibration
from anomalib_tiled.training.downloads import download
from anomalib_tiled.training.failures import Failures, advice
from anomalib_tiled.training.stored_predictions import LESS_MEMORY, lazy_predictions
from anomalib_tiled.training.train_tile import check_monitored, train_tile
from anomalib_tiled.training.training_images import record_images
from anomalib_tiled.training.unfit import why_not_left_out
from anomalib_tiled.training.workers import workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.progress import Progress, TaskID

    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.plugins.observers import Observers
    from anomalib_tiled.results.prediction_folder import Predicted
    from anomalib_tiled.results.request import PredictionRequest, PredictionSettings
    from anomalib_tiled.stages.workers import Workers


def fit(folder: RunFolder, observers: Observers, again: Sequence[str] = (), *, keep_going: bool = False) -> Calibration:
    """Train every tile that is not trained yet, and let the stages learn from the validation images.

    Args:
        folder: The run.
        observers: Told of each trained tile, and of the calibration.
        again: Names of tiles that are trained again, such as ``r00_c03``; what they are stays until that is done.
        keep_going: Whether all tiles are tried, although two of them fail alike.

    Raises:
        TrainingError: Tiles failed; fitting the same folder again goes on.
        ConfigurationError: The model's predictions cannot be used, whatever the tile.
    """
    named = tiles_named(grid_of(folder.settings().tiling), again)
    with locked(folder.path), log_to(folder.log_file), long_lived_kept_apart():
        settings = folder.settings()
        grid = grid_of(settings.tiling)
        folder.to_train(grid, named)  # refuses a configuration that was altered, before images are decoded for it
        workers = workers_of(settings, threads=folder.threads(grid))
        workers.start()
        run = Run.open(folder, build_cache=True)
        with _leftovers_removed(folder):
            notes = _train_missing(run, named, workers, observers, Failures(keep_going))
            run = run.without_left_out()
            with advising_on_memory(LESS_MEMORY):
                calibration = calibrate(run)
        notes = [note for note in (run.left_out_note(), *notes) if note is not None]
        calibration = replace(calibration, notes=(*notes, *calibration.notes))
        keep_calibration(run, calibration)
        observers.tell("run_calibrated", run_folder=folder.path, calibration=calibration)
    return calibration


@contextmanager
def _leftovers_removed(folder: RunFolder) -> Iterator[None]:
    """Remove what fits that were killed have left half done, and what workers leave that are stopped by an error."""
    folder.remove_leftovers()
    try:
        yield
    except TiledError:
        folder.remove_leftovers()
        raise


def _train_missing(
    run: Run, again: Sequence[Tile], workers: Workers, observers: Observers, failures: Failures
) -> list[str]:
    """Train what is to be trained; give what a reader of the results should know."""
    missing = run.folder.to_train(run.grid, again)
    check_finished(run.folder, (tile for tile in run.grid.tiles if tile not in missing))
    note = record_images(run, missing)
    run.folder.train_again(again)
    if missing:
        download(run)
        check_monitored(run)
    unfit: list[tuple[Tile, UnfitLocationError]] = []
    with closing(checked_outcomes(workers, missing, partial(train_tile, run))) as outcomes:
        for outcome in track(outcomes, "Training tiles", len(missing)):
            if outcome.error is None and run.folder.is_to_train(outcome.tile, run.settings.training_hash):
                raise StageError(untrained(workers, [outcome.tile]))
            if outcome.error is None:
                record = run.folder.record(outcome.tile)
                facts = {"tile": outcome.tile, "seconds": record.seconds, "epochs": record.epochs}
                observers.tell("tile_trained", run_folder=run.folder.path, **facts)
                continue
            if isinstance(outcome.error, UnfitLocationError) and not run.folder.has_record(outcome.tile):
                unfit.append((outcome.tile, outcome.error))
            fitted = any(map(run.folder.has_record, run.grid.locations))
            run.folder.write_failure(outcome.tile, failures.add(outcome.tile, outcome.error, others_fitted=fitted))
            if isinstance(outcome.error, ConfigurationError):  # it is the same for all tiles
                message = "\n".join([str(outcome.error), *advice(run.folder, run.grid.tiles)])
                raise ConfigurationError(message) from outcome.error
            if failures.are_alike:
                break
    refusal = why_not_left_out(run, [error for _, error in unfit]) if unfit else None
    if refusal is not None or len(unfit) < len(failures):
        left = len(run.folder.to_train(run.grid))
        raise TrainingError(failures.message(run.folder, run.grid.tiles, left, refusal))
    for tile, error in unfit:
        run.folder.leave_out(tile, str(error))
    return [] if note is None else [note]


@dataclass(frozen=True)
class Measured:
    """What a test finds.

    Args:
        metrics: Metrics by name; ``None`` where one is not defined.
        images: How many images the metrics of ``image`` and of ``pixel`` come from.
        tiles: How well each tile location does.
        notes: What a reader of the results should know.
    """

    metrics: Results
    images: dict[str, Images]
    tiles: list[TileResult]
    notes: tuple[str, ...]


def test(folder: RunFolder, observers: Observers, *, data: AnomalibDataModule | None, output: Path | None) -> Measured:
    """Predict test images, measure, and write metrics, scores, tiles and pictures.

    Args:
        folder: A complete run.
        observers: Told of each predicted image, and of the metrics.
        data: Data module with other test images; ``None`` for those of the run.
        output: Folder for the results; ``None`` for the run folder.

    Raises:
        RunFolderError: The run is not complete, or was altered, and that is not allowed.
        DataError: There are no test images, or one cannot be read.
    """
    with log_to(folder.log_file if output is None else output / "logs" / "run.log"):
        run = Run.open(folder)
        check_finished(folder, run.grid.tiles)  # tiles whose predictions are kept are not loaded
        seed_everything(run.settings.seed_everything, workers=True, verbose=False)
        run = run if data is None else run.with_images_of(data)
        with advising_on_memory(LESS_MEMORY):
            measured = _test(run, observers, output or folder.path)
            if data is None:  # fit has said it of the run's own images
                return measured
        samples = run.split.subset("test")
        of_images = (*depth_notes(sample.image_path for sample in samples), *grey_mask_notes(samples))
        return replace(measured, notes=(*of_images, *measured.notes))


def _test(run: Run, observers: Observers, output: Path) -> Measured:
    if not (samples := run.split.subset("test")):
        message = "There must be test images, but there are none. Set the data module's test_split_mode, or use --data."
        raise DataError(message)
    ensemble = run.calibrated_ensemble()
    measurements, tiles = Measurements.of(run.settings, run.grid), TileMeasurements(run.grid)
    hidden = HiddenDefects(run.grid)
    stretch = run.settings.normalization.stage == "none"
    contradictions: list[str] = []
    pictures = Pictures.into(output / "images", [sample.image_path for sample in samples], stretch=stretch)
    with scores_file(output / "scores.csv") as write_scores, drawn_meanwhile(pictures) as draw:
        for batch, predicted in lazy_predictions(run, ensemble, run.images("test"), output / "raw", "Measuring"):
            with with_context(image_context(batch.image_path)):
                raw = predicted(tiles.watch(batch))
                decided = ensemble.decide(raw)._asdict()
            fields: dict[str, Any] = {name: None if each is None else each.cpu() for name, each in decided.items()}
            batch.update(**fields)
            measurements.update(batch)
            tiles.update(batch)
            hidden.update(batch)
            write_scores(batch)
            if run.settings.visualize:
                draw(batch)
            give_back_freed_memory()  # two threads draw and measure: what one frees is of little use to the other
            for item in batch:
                contradictions.append(contradiction(item.pred_label, item.pred_mask))
                observers.tell("image_predicted", run_folder=run.folder.path, prediction=item)
    metrics = measurements.compute()
    contradicted = count_of(contradictions)
    told = f"{contradicted} See the column contradiction of scores.csv." if contradicted else ""
    found = [note for note in (run.left_out_note(), hidden.note(), told) if note]
    notes = (*found, *_unmeasured(samples, measurements.images), *measurements.lacks)
    measured = Measured(metrics, measurements.images, tiles.results(), notes)
    write_metrics(output / "metrics.json", measured.metrics)
    write_tiles(output / "tiles.csv", measured.tiles)
    observers.tell("run_tested", run_folder=run.folder.path, output=output, metrics=MappingProxyType(measured.metrics))
    return measured


def _unmeasured(samples: Sequence[Sample], measured: Mapping[str, Images]) -> list[str]:
    """Say which test images are not among those that numbers come from."""
    notes = []
    if unlabelled := sum(sample.label is None for sample in samples):
        notes.append(f"{unlabelled} of {len(samples)} test images have no label: they are predicted, but not measured.")
    pixels, images = measured["pixel"], measured["image"]
    known, labelled = pixels.normal + pixels.anomalous, images.normal + images.anomalous
    if 0 < known < labelled:
        notes.append(f"Metrics of pixels come from {known} of {labelled} test images: the others have no mask.")
    return notes


def predict(
    folder: RunFolder, observers: Observers, request: PredictionRequest, report: Callable[[str], None]
) -> Predicted:
    """Predict new images, and write what is found as it comes.

    Args:
        folder: A complete run.
        observers: Told of each predicted image.
        request: What to predict.
        report: Told in a line of an image that cannot be read, and of what a reader of the results should know.

    Raises:
        DataError: There is no image where one is said to be.
        ConfigurationError: The folder of the results is taken, or a threshold or device is none.
        RunFolderError: The run is not complete, or was altered, and that is not allowed.
    """
    predictions = PredictionFolder(request.output)
    check_free(predictions, request.settings, go_on=request.skip_existing)  # before there is a log among other files
    own_pictures = picture_folders(predictions, request.settings)
    images = find_images(request.data, request.listed, apart_from=own_pictures)
    with log_to(predictions.log_file), locked(predictions.path, PREDICTION), advising_on_memory(LESS_TO_PREDICT):
        run = Run.open(folder)
        seed_everything(run.settings.seed_everything, workers=True, verbose=False)
        prediction = Prediction.begin(run, request, images, report)
        started = monotonic()
        with progress_bar("images") as bar:
            task = bar.add_task("Predicting", total=len(prediction.missing))
            for batch in run.new_images(report).batches(prediction.missing, prediction.fail):
                advance = partial(_advance, bar, task, len(batch.sizes) / len(run.grid.tiles))
                for item in prediction.predict(batch, advance):
                    observers.tell("image_predicted", run_folder=folder.path, prediction=item)
                bar.update(task, completed=prediction.tried)
        return prediction.finish(seconds=monotonic() - started)


def _advance(bar: Progress, task: TaskID, images: float, *_: object) -> None:
    """Move a bar on as a tile has predicted its share of the images: a batch may take minutes with many tiles."""
    bar.advance(task, images)


def decide_again(
    folder: RunFolder, output: Path, settings: PredictionSettings, report: Callable[[str], None]
) -> Predicted:
    """Decide about images that were predicted before by other thresholds, without predicting anew.

    Args:
        folder: The run that they were predicted with.
        output: Folder with the predictions; what was decided before is replaced.
        settings: The thresholds; where one is ``None``, what was decided stays.
        report: Told in a line what a reader of the results should know.

    Raises:
        ConfigurationError: There are no predictions, another run made them, or what is needed was not kept.
        RunFolderError: The run is not complete, or lacks what a threshold is looked up in.
    """
    predictions = PredictionFolder(output)
    predictions.facts()  # before there is a log in a folder that holds no predictions
    with log_to(predictions.log_file), locked(predictions.path, PREDICTION), advising_on_memory(LESS_TO_PREDICT):
        return redecide(Run.open(folder), predictions, settings, report)


@dataclass(frozen=True)
class TileStatus:
    """How far a tile is.

    Args:
        tile: The tile.
        state: ``done``, ``left out``, ``failed`` or ``missing``.
        detail: Why it failed or is left out, if it did or is; or that it is to be trained again, or that its normal
            scores do not vary.
    """

    tile: Tile
    state: str
    detail: str


def status(folder: RunFolder) -> list[TileStatus]:
    """Say of each tile whether it is done, left out, missing or failed.

    Raises:
        RunFolderError: The configuration, the calibration or what is noted of a tile was altered.
    """
    settings, path = folder.settings(), folder.calibration_file
    borrowed = cast("dict[str, str]", read_json(path).get("borrowed", {}) if path.is_file() else {})
    grid = grid_of(settings.tiling)
    left_out = folder.left_out(grid)
    return [
        _left_out(folder, tile, left_out[tile.name])
        if tile.name in left_out and not folder.is_done(tile, settings.training_hash)
        else _status_of(folder, tile, settings.training_hash, borrowed.get(tile.name))
        for tile in grid.tiles
    ]


def _left_out(folder: RunFolder, tile: Tile, reason: str) -> TileStatus:
    return TileStatus(tile, "left out", "; ".join([*_to_train_again(folder, tile), reason]))


def _to_train_again(folder: RunFolder, tile: Tile) -> list[str]:
    return ["to be trained again"] if folder.again_file(tile).is_file() else []


def _status_of(folder: RunFolder, tile: Tile, configuration: str, lender: str | None) -> TileStatus:
    failure = folder.failure(tile)
    if folder.is_done(tile, configuration):
        again = _to_train_again(folder, tile)
        blank = [] if lender is None else [f"normal scores hardly vary: thresholds and scales from those of {lender}"]
        detail = "; ".join([*again, *([f"failed: {failure}"] if failure and again else []), *blank])
        return TileStatus(tile, "done", detail)
    return TileStatus(tile, "missing" if failure is None else "failed", failure or "")
