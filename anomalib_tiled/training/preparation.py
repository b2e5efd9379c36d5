"""Before a run: check everything that can be wrong, and make the run folder."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from anomalib.data import AnomalibDataModule
from lightning.pytorch import seed_everything

from anomalib_tiled.config.settings import FLOAT32, as_size
from anomalib_tiled.config.tiling import grid_of_run
from anomalib_tiled.data.cache import DecodedFiles, open_source
from anomalib_tiled.data.datamodule import check_numbers, folders_of, keep_generated, split_once
from anomalib_tiled.data.image_files import size_of
from anomalib_tiled.data.images import common_size, depth_notes
from anomalib_tiled.data.scope import scope_of
from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.devices import device_of
from anomalib_tiled.ensemble.half_precision import remark_on
from anomalib_tiled.ensemble.run import Run, conditions_of
from anomalib_tiled.ensemble.supported_models import check_model
from anomalib_tiled.errors import ConfigurationError, DataError
from anomalib_tiled.results.metrics import Measurements
from anomalib_tiled.results.trackers import check_loggers
from anomalib_tiled.runs.package_versions import origins_of
from anomalib_tiled.runs.result_files import remove_results
from anomalib_tiled.runs.run_folder import RunFolder, settings_of
from anomalib_tiled.runs.run_grid import has_groups
from anomalib_tiled.runs.run_regions import without_ignored, write_regions
from anomalib_tiled.runs.run_split import write_split
from anomalib_tiled.runs.versions import new_version
from anomalib_tiled.stages.alignment import Aligner
from anomalib_tiled.stages.assignment import Assignment
from anomalib_tiled.stages.regions import Regions
from anomalib_tiled.system.files import write_json, write_text
from anomalib_tiled.system.locks import locked
from anomalib_tiled.system.logs import log_to
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.training.aligning import align_images
from anomalib_tiled.training.assigning import assign
from anomalib_tiled.training.first_look import check_augmentations, check_fresh_model
from anomalib_tiled.training.monitors import check_monitored
from anomalib_tiled.training.placement import record_placement
from anomalib_tiled.training.stage_check import check_stages
from anomalib_tiled.training.trainer import check_trainer
from anomalib_tiled.workers.scheduler import scheduler_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import Size, TileGrid
    from anomalib_tiled.stages.regions import RegionMap
    from anomalib_tiled.workers.scheduler import Scheduler

logger = logging.getLogger(__name__)

GENERATED = "synthetic"
"""Folder of a run for images that anomalib draws."""


def prepare(settings: Settings, report: Callable[[str], None] = logger.warning, *, tested: bool = False) -> Run:
    """Check everything that can be wrong before training, and make the run folder.

    Args:
        settings: The configuration.
        report: Receives warnings, a line each, before the training starts.
        tested: Whether the run will be measured on its test images, so that there must be some.

    Returns:
        The new run, open.

    Raises:
        TiledError: The user has to change something; no files are left.
    """
    scheduler = scheduler_of(settings, report)
    with TemporaryDirectory() as temporary, log_to(log := Path(temporary) / "run.log"):
        try:
            return _prepare(settings, report, log, scheduler, tested=tested)
        except BaseException:
            scheduler.close()
            raise


def check_test_images(split: Split) -> None:
    """Check that there are test images to measure a run with.

    Raises:
        DataError: There are no test images.
    """
    if not split.subset("test"):
        message = (
            "`train` fits a run and then measures it on test images, but there are none. Give the data module some, "
            "or set its test_split_mode; `fit` needs none."
        )
        raise DataError(message)


def change_settings(run: Run, settings: Settings, report: Callable[[str], None] = logger.warning) -> Run:
    """Give a run another configuration, after the same checks as for a new run.

    Args:
        run: The run. Test results of another configuration are removed.
        settings: The configuration; it differs from that of the run only in settings that need no training.
        report: Receives a line about each place that cannot work.

    Raises:
        TiledError: A setting cannot be used, or another process works in the run.
    """
    folder = run.folder
    with locked(folder.path), log_to(folder.log_file):
        _check_settings(settings, scheduler := scheduler_of(settings, report))
        deciding = [(each.calibration_hash, each.thresholding, each.metrics) for each in (run.settings, settings)]
        if deciding[0] != deciding[1]:
            remove_results(folder.path)
        known, now = folder.origins(), origins_of(settings)
        same = [name for name in known.keys() & now.keys() if known[name]["class_path"] == now[name]["class_path"]]
        write_json(folder.origins_file, {**now, **{name: known[name] for name in same}})  # the versions of its training
        write_text(folder.config_file, settings.to_yaml())
    return replace(run, settings=settings, scheduler=scheduler)


def _prepare(
    settings: Settings, report: Callable[[str], None], log: Path, scheduler: Scheduler, *, tested: bool
) -> Run:
    _check_settings(settings, scheduler)
    _warn_of_precision(settings, scheduler, report)
    seed_everything(settings.seed_everything, workers=True, verbose=False)
    datamodule = settings.data.build(AnomalibDataModule)
    root = Path(settings.default_root_dir, settings.model.name, *folders_of(datamodule)).absolute()
    check_numbers(datamodule)
    checked = partial(_check_models, settings)
    checked(train_batch_size=datamodule.train_batch_size)
    split = split_once(datamodule)
    if tested:
        check_test_images(split)
    enough = partial(checked, train_batch_size=datamodule.train_batch_size)
    settings = _with_folders(_with_image_size(settings, split))
    regions = _regions(settings, split)
    grid = without_ignored(grid_of_run(settings), regions)
    _check_fresh_models(settings, grid)
    check_augmentations(datamodule, split, grid)
    split, alignment = align_images(settings, split, grid.image_size)
    images = len(split.subset("train"))
    if not has_groups(settings):  # a group has more tiles, see below
        enough(train_images=images)
    for note in depth_notes(sample.image_path for sample in split.samples):
        report(f"warning: {note}")
    with new_version(root) as new:
        folder = RunFolder(new.path)
        write_text(folder.config_file, text := settings.in_order().to_yaml())
        write_json(folder.origins_file, origins_of(settings))
        split = keep_generated(split, datamodule, new.path / GENERATED, new.final / GENERATED)
        write_split(folder, split)
        if alignment is not None:
            alignment.write(folder, split)
        if regions is not None:
            write_regions(folder, regions)
        new.publish()
        with locked(new.final):
            source = open_source(split, grid, settings.cache_directory, scope=scope_of(regions))
            if isinstance(source, DecodedFiles):  # a cache has already read every file
                source.check(split)
            grid = assign(RunFolder(new.final), settings, grid, split, source)
            most = settings.stages["assignment"].build(Assignment).tiles_per_image
            for members in {len(grid.members(model)) for model in grid.models if model != grid.whole_image}:
                enough(train_images=images, members=min(members, most or members))
            run = Run(RunFolder(new.final), settings_of(text), grid, split, source, datamodule, scheduler)
            if settings.trainer.get("callbacks"):
                check_monitored(run.job)
            if spread := record_placement(run):
                report(f"warning: {spread}")
            _keep_log(run.folder, log)
    return run


@contextmanager
def _global_model(settings: Settings) -> Iterator[Size | None]:
    """Give the size of the image as the global model sees it, if there is one; errors name that model."""
    size = settings.whole_size
    try:
        yield size
    except ConfigurationError as error:
        message = f"The model of the whole image (global_model), on images shrunk to {size} pixels: {error}"
        raise type(error)(message) from error


def _check_models(
    settings: Settings, *, train_batch_size: int, train_images: int | None = None, members: int = 1
) -> None:
    """Check the model of the tiles, and the global one, as `check_model` does.

    Args:
        settings: The configuration.
        train_batch_size: Tiles in a training batch.
        train_images: Training images; ``None`` if they are not known yet.
        members: Tiles of each image that a model learns from.
    """
    check = partial(check_model, train_batch_size=train_batch_size)
    tiles = None if train_images is None else train_images * members
    check(settings.model, as_size(settings.tiling.tile_size), train_images=tiles)
    with _global_model(settings) as size:
        if size is not None:
            check(settings.whole_model, size, train_images=train_images)


def _check_fresh_models(settings: Settings, grid: TileGrid) -> None:
    """Make a model of a tile, and the global one, and let them predict."""
    check_fresh_model(settings.model, grid.tile_size)
    with _global_model(settings) as size:
        if size is not None:
            check_fresh_model(settings.whole_model, size)


def _keep_log(folder: RunFolder, log: Path) -> None:
    """Copy the log of the preparation into the run.

    Raises:
        StorageError: The disk is full.
    """
    with storage_errors(folder.log_file):
        folder.log_file.parent.mkdir(exist_ok=True)  # another command may already have opened the run
        with folder.log_file.open("ab") as file:
            file.write(log.read_bytes())


def _warn_of_precision(settings: Settings, scheduler: Scheduler, report: Callable[[str], None]) -> None:
    """Warn if the precision is slow on the device; places on other machines check it themselves.

    Raises:
        ConfigurationError: It is of no use there.
    """
    if settings.precision == FLOAT32 or scheduler.workers.elsewhere:
        return
    if remark := remark_on(settings.precision, device_of(settings.trainer)):
        report(f"warning: {remark}")


def _with_image_size(settings: Settings, split: Split) -> Settings:
    """Fill in the images' own size if the settings name none, and check that all files can be used."""
    given = settings.tiling.image_size
    height, width = common_size(split, None if given is None else as_size(given))
    return replace(settings, tiling=replace(settings.tiling, image_size=(height, width)))


def _regions(settings: Settings, split: Split) -> RegionMap | None:
    """Read the regions; they may have been drawn on an image that is resized with other proportions."""
    if (spec := settings.stages.get("regions")) is None or (size := settings.tiling.image_size) is None:
        return None
    return spec.build(Regions).read(as_size(size), size_of(split.subset("train")[0].image_path))


def _with_folders(settings: Settings) -> Settings:
    """Make folders absolute, so that a run can be resumed from any folder."""
    cache = settings.cache
    if cache is not None and cache.directory is not None:
        cache = replace(cache, directory=str(Path(cache.directory).absolute()))
    return replace(settings, default_root_dir=str(Path(settings.default_root_dir).absolute()), cache=cache)


def _check_folders(settings: Settings) -> None:
    """Refuse empty folder names, which would mean the current folder."""
    cache = None if settings.cache is None else settings.cache.directory
    for name, folder in {"default_root_dir": settings.default_root_dir, "cache.directory": cache}.items():
        if folder == "":
            message = f"{name} must name a folder, but the name is empty. Is a variable of the shell not set?"
            raise ConfigurationError(message)


def _check_settings(settings: Settings, scheduler: Scheduler) -> None:
    """Make everything once that needs no images, so that errors appear before images are searched and read."""
    if settings.tiling.image_size is not None:
        grid_of_run(settings)
    _check_folders(settings)
    check_stages(*(Stages.build(settings) for _ in range(3)))
    if (alignment := settings.stages.get("alignment")) is not None:
        alignment.build(Aligner)
    settings.stages["assignment"].build(Assignment)
    Measurements.of(settings)
    check_loggers(settings)
    if settings.memory_bytes:
        logger.info("Models and images may use %d bytes of memory.", settings.memory_bytes)
    check_trainer(settings.trainer, device_is_here=not scheduler.workers.elsewhere)
    scheduler.start(conditions_of(settings))  # takes seconds, during which this process searches and reads images
