"""The steps of fit, test and predict, each with a run that its caller has opened."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from shutil import rmtree
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING

from lightning.pytorch import seed_everything

from anomalib_tiled.config.tiling import models_named
from anomalib_tiled.data.find_images import find_images
from anomalib_tiled.data.watching import Watch, folders_to_watch
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.half_precision import remark_on
from anomalib_tiled.ensemble.place_check import download
from anomalib_tiled.ensemble.prediction_engine import PredictionEngine, check_engine
from anomalib_tiled.ensemble.run import AUTO, conditions_of
from anomalib_tiled.errors import DataError
from anomalib_tiled.plugins.observers import PlaceObservers
from anomalib_tiled.report.writing import write_report
from anomalib_tiled.results.collecting import Collection
from anomalib_tiled.results.composition import BESIDE, Style
from anomalib_tiled.results.image_job import ImageJob
from anomalib_tiled.results.measured import (
    Measured,
    RunMeasurements,
    score_rows,
    scores_file,
    unaligned_rows,
    unaligned_samples,
)
from anomalib_tiled.results.measuring import MeasureImages, MeasureTiles, measure
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.results.precision_changes import predicting_in
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import items_of
from anomalib_tiled.results.prediction_writer import arithmetic_of
from anomalib_tiled.results.predictor import LESS_MEMORY as LESS_TO_PREDICT
from anomalib_tiled.results.predictor import Predictor
from anomalib_tiled.results.recording import Recording
from anomalib_tiled.results.region_decisions import named_regions
from anomalib_tiled.results.regions_picture import draw_regions
from anomalib_tiled.results.rethreshold import rethreshold as rethreshold_predictions
from anomalib_tiled.results.shards import shards_of
from anomalib_tiled.results.sources import ListedImages, WatchedImages
from anomalib_tiled.results.tested_facts import facts_of_test
from anomalib_tiled.results.tested_folder import TestedFolder
from anomalib_tiled.results.tested_writer import TestWriter, written_meanwhile
from anomalib_tiled.results.thresholds import final_thresholds
from anomalib_tiled.results.thumbnails import Thumbnails
from anomalib_tiled.runs.claims import claim_tile
from anomalib_tiled.system.allocation import long_lived_kept_apart
from anomalib_tiled.system.files import absolute, refresh
from anomalib_tiled.system.locks import PREDICTION, locked
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.memory import SHARE_ALONE
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.system.progress import progress_bar, track
from anomalib_tiled.system.temporary import temporary_name
from anomalib_tiled.training.attempts import Attempts
from anomalib_tiled.training.calibrate import calibrate, keep_calibration
from anomalib_tiled.training.in_order import LESS_MEMORY, values_in_order
from anomalib_tiled.training.monitors import check_monitored
from anomalib_tiled.training.stored_predictions import is_tile_by_tile, lazy_predictions, stored_images
from anomalib_tiled.training.train_tile import TrainAndPredict
from anomalib_tiled.training.training_images import record_images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from anomalib.data import AnomalibDataModule
    from rich.progress import Progress, TaskID

    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.plugins.observers import Observers
    from anomalib_tiled.results.measuring import MeasuredImages
    from anomalib_tiled.results.request import Predicted, PredictionRequest, PredictionSettings
    from anomalib_tiled.results.sources import Source
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.stages.workers import Conditions
    from anomalib_tiled.system.locks import Lease


def fit(run: Run, observers: Observers, again: Sequence[str] = (), *, keep_going: bool = False) -> Calibration:
    """Train every tile that is not trained yet, and let the stages learn from the validation images.

    Args:
        run: The run.
        observers: Notified of each trained tile, and of the calibration.
        again: Names of tiles whose models are to be trained again, such as ``r00_c03``; each model stays until the new
            one is trained.
        keep_going: Whether to try all tiles, even after two failed for the same reason.

    Raises:
        TrainingError: Tiles failed; another fit of the same folder resumes.
        ConfigurationError: The model's predictions cannot be used on any tile, or the threshold is not within the
            limits of ``thresholding.uncertain``: then all is kept, and other limits need no training.
    """
    folder, named = run.folder, models_named(run.grid, again)
    with locked(folder.path) as lease, log_to(folder.log_file), long_lived_kept_apart():
        folder.to_train(run.grid, run.settings, named)  # refuses a changed configuration before images are decoded
        run.scheduler.start(conditions_of(run.settings, folder.exchange, folder.threads(run.grid)))
        run = run.without_left_out().with_cache()
        _draw_regions(run)
        with run.scheduler.checking(lease.check), _without_half_done_files(folder, lease):
            image_note = _train_missing(run, named, observers, keep_going=keep_going)
            if (run := run.without_left_out()).grid.left_out:
                _draw_regions(run)
            with advising_on_memory(LESS_MEMORY):
                calibration = calibrate(run)
        of_images = (run.ignored_note(), run.left_out_note(), run.unaligned_note(), image_note)
        notes = filter(None, of_images)
        calibration = replace(calibration, notes=(*notes, *calibration.notes))
        lease.check()
        keep_calibration(run, calibration)
        observers.notify("run_calibrated", run_folder=folder.path, calibration=calibration)
    run.image_decisions(calibration)  # an error about them comes last, when everything is kept
    return calibration


def _draw_regions(run: Run) -> None:
    """Draw the regions over the first training image."""
    if (regions := run.regions) is not None:
        image = run.source.image(run.split.subset("train")[0], *run.grid.whole)
        draw_regions(run.folder.regions_picture, image, run.grid, regions)


@contextmanager
def _without_half_done_files(folder: RunFolder, lease: Lease) -> Iterator[None]:
    """Remove the half-done files of fits that were killed, and in the end what places have left that were ended."""
    folder.clean_up()
    try:
        yield
    finally:
        if lease.is_held:
            folder.clean_up(everywhere=True)


def _train_missing(run: Run, again: Sequence[Tile], observers: Observers, *, keep_going: bool) -> str | None:
    """Train the tiles that are missing or named; give a note if training images have changed."""
    missing = run.folder.to_train(run.grid, run.settings, again)
    next_ones = {tile.name for tile in missing}
    run.check_checkpoints(tile for tile in run.grid.models if tile.name not in next_ones)
    note = record_images(run, missing)
    run.folder.mark_for_training(again)
    if missing:
        if not run.scheduler.workers.elsewhere:
            download(run.job)
        check_monitored(run.job)
    attempts, claim = Attempts(run, keep_going=keep_going), partial(claim_tile, run.folder)
    with closing(run.on_places(TrainAndPredict(run.job), missing, claim)) as outcomes, attempts.advising():
        for outcome in track(outcomes, "Training tiles", len(missing), run.scheduler.describe_places):
            if outcome.error is None:
                record = attempts.succeed(outcome.item)
                facts = {"tile": outcome.item, "seconds": record.seconds, "epochs": record.epochs}
                observers.notify("tile_trained", run_folder=run.folder.path, **facts)
            else:
                attempts.fail(outcome.item, outcome.error)
            if attempts.should_stop:
                break
    refresh(run.folder.tiles)  # index and calibration list what places have written
    run.folder.write_index(run.grid)
    attempts.finish()
    return note


def test(
    run: Run, observers: Observers, *, data: AnomalibDataModule | None, output: Path | None, report: bool
) -> Measured:
    """Predict test images, measure, and write metrics, scores, tiles and pictures.

    Args:
        run: A complete run.
        observers: Notified of each predicted image, and of the metrics.
        data: Data module with other test images; ``None`` for those of the run.
        output: Folder for the results; ``None`` for the run folder.
        report: Whether to write the page, too.

    Raises:
        RunFolderError: The run is not complete, or a file was changed.
        DataError: There are no test images, or one cannot be read.
    """
    output = run.folder.path if output is None else absolute(output)  # places may have another working folder
    with log_to(output / "logs" / "run.log"):
        run.check_checkpoints(run.grid.models)  # tiles with stored predictions are not loaded
        seed_everything(run.settings.seed_everything, workers=True, verbose=False)
        run = run if data is None else run.with_images_of(data)
        with advising_on_memory(LESS_MEMORY):
            measured = _measure(run, observers, output, report=report)
        return measured if data is None else measured.with_notes_on(run.split.subset("test"))


def _measure(run: Run, observers: Observers, output: Path, *, report: bool) -> Measured:
    started = monotonic()
    samples = _test_samples(run)
    run.check_tiles()
    writer = _test_writer(run, calibration := run.calibration(), samples, output)
    folder, uncertain = writer.folder, writer.uncertain
    measurements = RunMeasurements(run.settings, run.grid, uncertain)
    alone = observers.others_listen_to("image_predicted") or not measurements.can_be_merged
    form = {"is_aligned": run.is_aligned, "has_verdicts": uncertain is not None}
    scores = scores_file(output / "scores.csv", named_regions(run.regions), **form)
    with scores as write_scores, folder.lines() as write_lines:
        if alone or not is_tile_by_tile(run, "test"):
            ensemble = run.ensemble(calibration)
            images = lazy_predictions(run, ensemble, "test", output / "raw", "Measuring")
            with written_meanwhile(writer, 0, write_lines) as write:
                for batch, regions in measure(images, ensemble, measurements, write, tiles=True):
                    write_scores(score_rows(items_of(batch), regions, is_aligned=run.is_aligned, uncertain=uncertain))
                    for item in batch:  # a copy, which listeners may change
                        observers.notify("image_predicted", run_folder=run.folder.path, prediction=item)
        else:
            for shard in _measured_on_places(run, calibration, measurements, writer):
                write_scores(shard.rows)
                write_lines(shard.tested)
        write_scores(unaligned_rows(run, has_verdicts=uncertain is not None))
        write_lines(writer.write_unaligned(unaligned_samples(run), len(samples)))
    measured = measurements.results(run, calibration)
    measured.write(output)
    folder.write_facts(facts_of_test(run, measured.notes, monotonic() - started))
    if report:
        write_report(run.folder, results=output)
    metrics = MappingProxyType(measured.metrics)
    observers.notify("run_tested", run_folder=run.folder.path, output=output, metrics=metrics)
    return measured


def _test_samples(run: Run) -> Sequence[Sample]:
    """Give the test images.

    Raises:
        DataError: There are none, or the part is found in none of them.
    """
    if samples := run.split.subset("test"):
        return samples
    message = "There must be test images, but there are none. Set the data module's test_split_mode, or use --data."
    if unaligned := run.split.unaligned("test"):
        message = f"The part must be found in a test image, but is found in none of {len(unaligned)}. Use others."
    raise DataError(message)


def _test_writer(run: Run, calibration: Calibration, samples: Sequence[Sample], output: Path) -> TestWriter:
    """Make what writes pictures and lines of the test images."""
    settings, thumbnails = run.settings, Thumbnails.of(run.settings)
    uncertain = run.image_decisions(calibration).uncertain
    style = Style(stretch=thumbnails.stretch, beside=settings.visualize == BESIDE)
    pictures = Pictures.into(output / "images", [sample.image_path for sample in samples], style)
    pictures = pictures.deciding(final_thresholds(Stages.build(settings), calibration), uncertain)
    return TestWriter(TestedFolder(output), pictures if settings.visualize else None, thumbnails, run.split, uncertain)


def _measured_on_places(
    run: Run, calibration: Calibration, measurements: RunMeasurements, writer: TestWriter
) -> Iterator[MeasuredImages]:
    """Let places measure tiles, and shards of the images; merge that in order, and yield what each shard gave."""
    output = writer.folder.path
    log = output / "logs" / "run.log"
    for stored in stored_images(run, "test", output / "raw"):
        for group in values_in_order(run, MeasureTiles(stored), stored.shards_of_tiles(), "Measuring tiles", log):
            measurements.add_tiles(group)
        work = MeasureImages(stored, calibration, writer.folder, writer.pictures, writer.uncertain)
        for shard in values_in_order(run, work, stored.shards(), "Measuring", log):
            measurements.merge(shard.measurements)
            yield shard


def predict(run: Run, observers: Observers, request: PredictionRequest, report: Callable[[str], None]) -> Predicted:
    """Predict new images, and write the predictions batch by batch.

    Args:
        run: A complete run; with the workers that predict, if the request asks for that.
        observers: Notified of each image that this process predicts.
        request: What to predict.
        report: Takes a line about each image that cannot be read, and notes for the reader of the results.

    Raises:
        DataError: The request names an image that does not exist.
        ConfigurationError: The output folder is in use, a threshold, a device or a precision is invalid, or predictions
            change too much.
        RunFolderError: The run is not complete, or a file was changed.
        NoPlaceError: No place of the workers is left, and none can come.
    """
    predictions = PredictionFolder(request.output)
    predictions.check_free(request.settings, resume=request.skip_existing)  # before a log appears among other files
    conditions = conditions_of(run.settings, predictions.parts / temporary_name("workers"))
    workers = run.scheduler.prepared_workers(conditions) if request.on_places else None
    own_pictures = predictions.picture_folders(request.settings)
    source = _source(request, own_pictures, report)
    if workers is None:
        _check_here(run, request, report)
    with (
        log_to(predictions.log_file),
        locked(predictions.path, PREDICTION) as lease,
        advising_on_memory(LESS_TO_PREDICT),
    ):
        seed_everything(run.settings.seed_everything, workers=True, verbose=False)
        if (remark := run.memory_remark()) and not (workers and workers.elsewhere):
            report(f"warning: {remark}")
        run = _in_precision(run, request, report)
        if workers is None:
            return _predict_here(run, observers, request, source, report)
        with _working(run, conditions, request, lease):
            return _predict_on_places(run, conditions, request, source.images, report)


def _check_here(run: Run, request: PredictionRequest, report: Callable[[str], None]) -> None:
    """Refuse an engine or a precision that this process lacks; warn if the precision is slow on the device."""
    precision, device = request.precision or run.settings.precision, run.device(request.device)
    if remark := remark_on(precision, device):
        report(f"warning: {remark}")
    check_engine(request.engine, device, precision)


def _in_precision(run: Run, request: PredictionRequest, report: Callable[[str], None]) -> Run:
    """Give a run that predicts in the precision of a request, which is that of the folder, if it holds results."""
    precision = request.precision or run.settings.precision
    if (folder := PredictionFolder(request.output)).holds_results():  # before changes are measured
        folder.check_same(**arithmetic_of(run.in_precision(precision), request))
    device, allow = (AUTO if request.on_places else request.device), request.allow_changes
    return predicting_in(run, precision, device, report, engine=request.engine, allow_changes=allow)


def _source(request: PredictionRequest, own_pictures: Sequence[Path], report: Callable[[str], None]) -> Source:
    """Find the images to predict, or the folders in which they appear."""
    if request.watch:
        watch = Watch(folders_to_watch(request.data), apart_from=own_pictures, report=report)
        return WatchedImages(watch, report)
    return ListedImages(find_images(request.data, request.listed, apart_from=own_pictures))


def _predict_here(
    run: Run, observers: Observers, request: PredictionRequest, source: Source, report: Callable[[str], None]
) -> Predicted:
    """Predict in this process."""
    ensemble = run.calibrated_ensemble(request.device, share=SHARE_ALONE)
    tiles = inf if request.watch else len(source.images) * len(run.grid.predicted)
    ensemble.tile_models.engine = PredictionEngine.named(
        request.engine, ensemble.device, run.job.predicts_in, report, tiles
    )
    job = ImageJob.begin(run, request, source.places, report)
    predictor, started = Predictor(ensemble, job.thresholds, job.writer), monotonic()
    recording = Recording(job.writer.folder, source.images, report, request.show)
    new_images, batches = job.new_images(recording.note), source.batches(recording, job.batch_size)
    with closing(batches), progress_bar(shown=not request.watch) as bar:
        task = bar.add_task("Predicting", total=recording.waiting)
        for paths in batches:
            for batch in new_images.batches(paths, partial(source.fail, recording)):
                advance = partial(_advance, bar, task, len(batch.sizes) / len(run.grid.predicted))
                for item in predictor.predict(batch, recording, advance):
                    observers.notify("image_predicted", run_folder=run.folder.path, prediction=item)
                bar.update(task, completed=recording.tried)
    return recording.finish(coco=request.settings.coco, seconds=monotonic() - started - source.waited)


def _advance(bar: Progress, task: TaskID, images: float, *_: object) -> None:
    """Advance the bar after each tile, by its share of the images: with many tiles, a batch may take minutes."""
    bar.advance(task, images)


@contextmanager
def _working(run: Run, conditions: Conditions, request: PredictionRequest, lease: Lease) -> Iterator[None]:
    """Start the workers; in the end, end their places and remove what they have exchanged or left half done."""
    try:
        run.scheduler.start(conditions)
        with run.scheduler.checking(lease.check):
            yield
    finally:
        run.scheduler.close()
        if conditions.folder is not None:
            rmtree(conditions.folder, ignore_errors=True)
        if lease.is_held:
            PredictionFolder(request.output).clean_up(request.settings)


def _predict_on_places(
    run: Run, conditions: Conditions, request: PredictionRequest, images: Sequence[Path], report: Callable[[str], None]
) -> Predicted:
    """Let the workers predict, shard by shard; this process loads no model."""
    run.check_calibrated()
    job, started = ImageJob.begin(run, request, images, report), monotonic()
    recording = Recording(job.writer.folder, images, report)
    cut = partial(shards_of, batch_size=job.batch_size, size=run.grid.image_size)
    shards = [shard for group in recording.groups(job.batch_size) for shard in cut(group)]
    collection = Collection(run.scheduler, conditions, job, shards, recording)
    with progress_bar() as bar:
        task = bar.add_task("Predicting", total=recording.waiting, where=run.scheduler.describe_places)
        for _ in collection.predict(PlaceObservers(run.folder.path)):
            bar.update(task, completed=collection.images)
    return recording.finish(coco=request.settings.coco, seconds=monotonic() - started)


def rethreshold(run: Run, output: Path, settings: PredictionSettings, report: Callable[[str], None]) -> Predicted:
    """Apply other thresholds to images that were predicted before, without predicting them anew.

    Args:
        run: The run that predicted them.
        output: Folder with the predictions; their labels, masks and regions are replaced.
        settings: The thresholds; for ``None``, the earlier decisions stay.
        report: Takes notes for the reader of the results, a line each.

    Raises:
        ConfigurationError: There are no predictions, another run made them, or the maps were not kept.
        RunFolderError: The run is not complete, or lacks the scores that a threshold is looked up in.
    """
    predictions = PredictionFolder(output)
    predictions.facts()  # before a log appears in a folder without predictions
    with log_to(predictions.log_file), locked(predictions.path, PREDICTION), advising_on_memory(LESS_TO_PREDICT):
        return rethreshold_predictions(run, predictions, settings, report)
