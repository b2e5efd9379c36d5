"""The whole story: fit, test, predict, status."""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TYPE_CHECKING

from anomalib.data import AnomalibDataModule
from lightning.pytorch import seed_everything

from anomalib_tiled.calibration import Calibration, Stages
from anomalib_tiled.config import as_size
from anomalib_tiled.contracts import images_noted, noting
from anomalib_tiled.data.cache import open_source
from anomalib_tiled.data.found_images import find_images
from anomalib_tiled.data.images import common_size
from anomalib_tiled.data.split import Split, keep_generated, split_once
from anomalib_tiled.errors import DataError, TrainingError
from anomalib_tiled.evaluation import Measurements, Results
from anomalib_tiled.files import write_json
from anomalib_tiled.plugins.provenance import origins_of
from anomalib_tiled.progress import progress_bar, track
from anomalib_tiled.results.deciding import decide_again as redecide
from anomalib_tiled.results.logs import log_to
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.results.prediction import Prediction
from anomalib_tiled.results.predictions import PredictionFolder
from anomalib_tiled.results.report import scores_file, write_metrics
from anomalib_tiled.run import Run, grid_of
from anomalib_tiled.run_folder import RunFolder
from anomalib_tiled.tile_model import build_tile_model
from anomalib_tiled.training.calibrate import calibrate
from anomalib_tiled.training.rehearsal import rehearse
from anomalib_tiled.training.tile import check_trainer, train_tile
from anomalib_tiled.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib_tiled.config import Settings
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.plugins.observers import Observers
    from anomalib_tiled.results.prediction import PredictionRequest
    from anomalib_tiled.results.predictions import Predicted, PredictionSettings


def prepare(settings: Settings) -> RunFolder:
    """Check everything that can be wrong before training, and make the run folder.

    Raises:
        TiledError: Something that the user has to change; nothing is left behind.
    """
    with TemporaryDirectory() as temporary:
        log = Path(temporary) / "run.log"
        with log_to(log):
            folder = _prepare(settings)
        folder.log_file.parent.mkdir()
        shutil.copyfile(log, folder.log_file)
    return folder


def _prepare(settings: Settings) -> RunFolder:
    _try_out(settings)
    seed_everything(settings.seed_everything, workers=True, verbose=False)
    datamodule = settings.data.build(AnomalibDataModule)
    split = split_once(datamodule)
    settings = _with_folders(_with_image_size(settings, split))
    build_tile_model(settings.model, grid_of(settings.tiling).tile_size)
    root = Path(settings.default_root_dir) / settings.model.name / datamodule.name / (datamodule.category or "")
    folder = RunFolder.create(root, settings)
    with folder.removed_on_failure():
        write_json(folder.origins_file, origins_of(settings))
        keep_generated(split, datamodule, folder.path / "synthetic").write(folder.split_file)
        open_source(Split.read(folder.split_file), grid_of(settings.tiling), settings.cache_directory)
    return folder


def fit(folder: RunFolder, observers: Observers) -> Calibration:
    """Train every tile that is not trained yet, and let the stages learn from the validation images.

    Args:
        folder: The run.
        observers: Told of each trained tile, and of the calibration.

    Raises:
        TrainingError: Tiles failed; the others are trained, and fitting the same folder again goes on.
    """
    with log_to(folder.log_file):
        run = Run.open(folder, build_cache=True)
        _train_missing(run, observers)
        calibration = calibrate(run)
        stages = {"grid": run.grid.to_json(), "configuration": run.settings.calibration_hash}
        write_json(folder.calibration_file, {**stages, **calibration.to_json()})
        observers.tell("run_calibrated", run_folder=folder.path, calibration=calibration)
    gc.collect()  # Lightning's modules and trainers hold each other; what follows needs their memory
    return calibration


def _train_missing(run: Run, observers: Observers) -> None:
    missing = run.folder.missing(run.grid)
    if missing:  # what the stages learned from other tiles must not outlive them
        run.folder.calibration_file.unlink(missing_ok=True)
    workers = run.settings.workers.build(Workers)
    failed: dict[str, list[Tile]] = {}
    for outcome in track(workers.train(missing, partial(train_tile, run)), "Training tiles", len(missing)):
        if outcome.error is None:
            record = run.folder.record(outcome.tile)
            facts = {"tile": outcome.tile, "seconds": record.seconds, "epochs": record.epochs}
            observers.tell("tile_trained", run_folder=run.folder.path, **facts)
        else:
            reason = f"{type(outcome.error).__name__}: {outcome.error}"
            run.folder.write_failure(outcome.tile, reason)
            failed.setdefault(reason, []).append(outcome.tile)
    if failed:
        raise TrainingError(_failures(run.folder, failed))


def test(folder: RunFolder, observers: Observers, *, data: AnomalibDataModule | None, output: Path | None) -> Results:
    """Predict test images, measure, and write metrics, scores and pictures.

    Args:
        folder: A complete run.
        observers: Told of each predicted image, and of the metrics.
        data: Data module with other test images; ``None`` for those of the run.
        output: Folder for the results; ``None`` for the run folder.

    Returns:
        Metrics by name; ``None`` where one is not defined.
    """
    with log_to(folder.log_file if output is None else output / "logs" / "run.log"):
        run = Run.open(folder)
        seed_everything(run.settings.seed_everything, workers=True, verbose=False)
        run = run if data is None else run.with_images_of(data)
        return _test(run, observers, output or folder.path)


def _test(run: Run, observers: Observers, output: Path) -> Results:
    if not (samples := run.split.subset("test")):
        message = "There must be test images, but there are none. Set the data module's test_split_mode, or use --data."
        raise DataError(message)
    ensemble, measurements = run.calibrated_ensemble(), Measurements(run.settings.metrics)
    stretch = run.settings.normalization.stage == "none"
    pictures = Pictures.into(output / "images", [sample.image_path for sample in samples], stretch=stretch)
    with scores_file(output / "scores.csv") as write_scores:
        for batch in track(run.images("test"), "Predicting"):
            with noting(images_noted(batch.image_path)):
                prediction = ensemble(batch.image)._asdict()
            batch.update(**{name: None if value is None else value.cpu() for name, value in prediction.items()})
            measurements.update(batch)
            write_scores(batch)
            if run.settings.visualize:
                pictures.draw(batch)
            for item in batch:
                observers.tell("image_predicted", run_folder=run.folder.path, prediction=item)
    write_metrics(output / "metrics.json", metrics := measurements.compute())
    observers.tell("run_tested", run_folder=run.folder.path, output=output, metrics=metrics)
    return metrics


def predict(
    folder: RunFolder, observers: Observers, request: PredictionRequest, report: Callable[[str], None]
) -> Predicted:
    """Predict new images, and write what is found as it comes.

    Args:
        folder: A complete run.
        observers: Told of each predicted image.
        request: What to predict.
        report: Told in a line of an image that cannot be read, and of what a reader of the results should know.
    """
    images = find_images(request.data, request.listed, apart_from=request.output)
    if not request.skip_existing:
        PredictionFolder(request.output).check_new()
    with log_to(PredictionFolder(request.output).log_file):
        run = Run.open(folder)
        seed_everything(run.settings.seed_everything, workers=True, verbose=False)
        prediction = Prediction.begin(run, request, images, report)
        started = monotonic()
        with progress_bar("images") as bar:
            task = bar.add_task("Predicting", total=len(prediction.missing))
            for batch in run.new_images(report).batches(prediction.missing, prediction.fail):
                for item in prediction.predict(batch):
                    observers.tell("image_predicted", run_folder=folder.path, prediction=item)
                bar.update(task, completed=prediction.tried)
        return prediction.finish(seconds=monotonic() - started)


def decide_again(
    folder: RunFolder, output: Path, settings: PredictionSettings, report: Callable[[str], None]
) -> Predicted:
    """Decide about images that were predicted before by other thresholds, without predicting anew.

    Args:
        folder: The run that they were predicted with.
        output: Folder with the predictions; what was decided before is replaced.
        settings: The thresholds; where one is ``None``, what was decided stays.
        report: Told in a line what a reader of the results should know.
    """
    predictions = PredictionFolder(output)
    predictions.facts()  # before there is a log in a folder that holds no predictions
    with log_to(predictions.log_file):
        return redecide(Run.open(folder), predictions, settings, report)


@dataclass(frozen=True)
class TileStatus:
    """How far a tile is.

    Args:
        tile: The tile.
        state: ``done``, ``failed`` or ``missing``.
        detail: Why it failed, if it did.
    """

    tile: Tile
    state: str
    detail: str


def status(folder: RunFolder) -> list[TileStatus]:
    """Say of each tile whether it is done, missing or failed."""
    settings = folder.settings()
    return [_status_of(folder, tile, settings.training_hash) for tile in grid_of(settings.tiling).tiles]


def _status_of(folder: RunFolder, tile: Tile, configuration: str) -> TileStatus:
    if folder.is_done(tile, configuration):
        return TileStatus(tile, "done", "")
    failure = folder.failure(tile)
    return TileStatus(tile, "missing" if failure is None else "failed", failure or "")


def _with_image_size(settings: Settings, split: Split) -> Settings:
    """Put the images' own size into the settings if they name none, and check that all files can be used."""
    given = settings.tiling.image_size
    height, width = common_size(split, None if given is None else as_size(given))
    return replace(settings, tiling=replace(settings.tiling, image_size=(height, width)))


def _with_folders(settings: Settings) -> Settings:
    """Make folders absolute, so that a run can be gone on with from anywhere."""
    cache = settings.cache
    if cache is not None and cache.directory is not None:
        cache = replace(cache, directory=str(Path(cache.directory).absolute()))
    return replace(settings, default_root_dir=str(Path(settings.default_root_dir).absolute()), cache=cache)


def _try_out(settings: Settings) -> None:
    """Make everything once that needs no images, so that what cannot be made fails before any is looked for."""
    rehearse(Stages.build(settings))
    Measurements(settings.metrics)
    settings.workers.build(Workers)
    check_trainer(settings.trainer)


def _failures(folder: RunFolder, failed: dict[str, list[Tile]]) -> str:
    """Say which tiles failed for which reason."""
    causes = [
        f"{', '.join(tile.name for tile in tiles)}: {reason} (log: {folder.tile_log(tiles[0])})"
        for reason, tiles in failed.items()
    ]
    return "\n".join(
        [
            f"{sum(map(len, failed.values()))} tiles could not be trained; all others are done.",
            *causes,
            f"Mend the cause, then go on with `anomalib tiled fit --ckpt_dir {folder.path}`.",
        ]
    )
