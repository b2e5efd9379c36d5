"""A run: its folder, and all that commands read from it, once."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.data.cache import open_source
from anomalib_tiled.data.datamodule import check_numbers, split_once
from anomalib_tiled.data.images import common_size
from anomalib_tiled.data.part_finder import reasons_of
from anomalib_tiled.data.scope import scope_of
from anomalib_tiled.data.tile_dataset import Images
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.devices import device_named
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.half_precision import PRECISIONS
from anomalib_tiled.ensemble.place_check import PlaceCheck
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.ensemble.uninspected import left_out_note
from anomalib_tiled.ensemble.validation_scores import ValidationScores
from anomalib_tiled.errors import ConfigurationError, RunFolderError, allowed_names
from anomalib_tiled.runs.image_decisions import ImageDecisions
from anomalib_tiled.runs.package_versions import changed_origins
from anomalib_tiled.runs.run_alignment import read_reasons
from anomalib_tiled.runs.run_grid import read_grid
from anomalib_tiled.runs.run_regions import read_regions
from anomalib_tiled.stages.workers import Conditions
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.limits import available_memory
from anomalib_tiled.system.memory import SHARE, SHARE_ALONE, pixels_within, too_large
from anomalib_tiled.workers.proof import Proof, Token, versions
from anomalib_tiled.workers.scheduler import Item, Terms, scheduler_of
from anomalib_tiled.workers.task import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from anomalib.data import AnomalibDataModule

    from anomalib_tiled.config.settings import ClassSpec, Settings
    from anomalib_tiled.data.cache import PixelSource
    from anomalib_tiled.data.split import Split, Subset
    from anomalib_tiled.ensemble.tile_job import Purpose
    from anomalib_tiled.grid import Tile, TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.stages.regions import RegionMap
    from anomalib_tiled.workers.scheduler import Outcome, Scheduler

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The device of the run's configuration."""

FITTED: tuple[tuple[Subset, str], ...] = (("train", "training images"), ("val", "validation images"))
"""The subsets that a fit uses, in words."""

PIXELS_AT_ONCE = 2**22
"""Most pixels in a batch of images: it bounds the memory even if the batch size of the data module is large."""


@dataclass(frozen=True)
class Run:
    """An open run: all that the commands work with. Processes that train and predict tiles get only its ``job``.

    Args:
        folder: The run folder.
        settings: Its configuration.
        grid: Where the tiles lie.
        split: Which image is used for what.
        source: Source of the pixels.
        datamodule: Data module of the images, for its name, batch sizes and augmentations; ``split`` replaces its own.
        scheduler: Gives work on tiles to the places of the workers; one for the whole command.
        reasons: Why images of another data module cannot be aligned, by their names; ``None`` for those of the run.
        precision: Precision in which its models predict new images; ``None`` for the precision of the run.
    """

    folder: RunFolder
    settings: Settings
    grid: TileGrid
    split: Split
    source: PixelSource
    datamodule: AnomalibDataModule
    scheduler: Scheduler = field(repr=False, compare=False)
    reasons: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    precision: str | None = None

    @classmethod
    def open(cls, folder: RunFolder, report: Callable[[str], None] = logger.warning) -> Run:
        """Read a run folder.

        Args:
            folder: The run folder.
            report: Receives a line about each package that has another version than in training, and about each place
                that cannot work.

        Raises:
            RunFolderError: A file of it is missing or has changed, or a package that it was made with is not installed.
        """
        for note in changed_origins(folder.origins()):
            report(note)
        settings = folder.settings()
        regions = read_regions(folder, settings)
        grid = read_grid(folder, settings, regions)
        data = RunData.read(folder, settings, grid, scope_of(regions))
        run = cls(folder, settings, grid, data.split, data.source, data.datamodule, scheduler_of(settings, report))
        return run.without_left_out()

    @cached_property
    def regions(self) -> RegionMap | None:
        """The regions, from the run folder; ``None`` if there are none."""
        return self.job.regions

    @cached_property
    def job(self) -> TileJob:
        """The job of training and predicting the tiles, with the images that are open here."""
        data = RunData(self.split, self.source, self.datamodule)
        job = TileJob.of(self.folder, self.settings, self.grid, data)
        return replace(job, precision=self.precision)

    def on_places(
        self,
        function: Callable[..., object],
        items: Sequence[Item],
        claim: Callable[[Item], object] | None = None,
    ) -> Generator[Outcome[Item], None, None]:
        """Do work on tiles, or on other items, at the places of the workers.

        Args:
            function: Takes an item, and by name a ``device`` unless that is ``None``; can be pickled.
            items: The items.
            claim: Gives what the function receives for an item, anew for each try; ``None`` for the item itself.

        Yields:
            The outcome of each item as it ends.

        Raises:
            NoPlaceError: No place is left, and none can come.
            StorageError: The disk is full.
            StageError: The workers raised an error.
        """
        conditions = conditions_of(self.settings, self.folder.exchange, self.folder.threads(self.grid))
        elsewhere = self.scheduler.prepared_workers(conditions).elsewhere
        token = Token.of(self.folder.exchange) if elsewhere else None
        proof = Proof(versions(), token, Work(PlaceCheck(self.job, download=elsewhere)))
        yield from self.scheduler.run(function, items, Terms(conditions, proof, claim))

    def close(self) -> None:
        """End all places, and remove what they have exchanged."""
        try:
            self.scheduler.close()
        finally:
            shutil.rmtree(self.folder.exchange, ignore_errors=True)

    def with_workers(self, workers: ClassSpec, report: Callable[[str], None] = logger.warning) -> Run:
        """Give the same run with other workers than those that its configuration names.

        Args:
            workers: Class and arguments of the workers.
            report: Receives a line about each place that cannot work.
        """
        settings = replace(self.settings, stages={**self.settings.stages, "workers": workers})
        return replace(self, settings=settings, scheduler=scheduler_of(settings, report))

    def in_precision(self, precision: str) -> Run:
        """Give the same run, whose models compute in a precision of their own when they predict new images.

        Args:
            precision: The precision.

        Raises:
            ConfigurationError: There is no such precision.
        """
        if precision not in PRECISIONS:
            message = f"There is no precision {precision!r}. {allowed_names(precision, PRECISIONS)}"
            raise ConfigurationError(message)
        return replace(self, precision=None if precision == self.settings.precision else precision)

    def without_left_out(self) -> Run:
        """Give the same run without the tiles that its training has left out."""
        return replace(self, grid=self.grid.without(self.folder.left_out(self.grid, self.settings)))

    def with_cache(self) -> Run:
        """Give the same run with all images decoded, which is faster if they are read more than once.

        Raises:
            DataError: An image cannot be decoded.
            StorageError: The cache does not fit on the disk.
        """
        if self.source.fingerprint is not None:
            return self
        directory, scope = self.settings.cache_directory, self.source.scope
        return replace(self, source=open_source(self.split, self.grid, directory, scope=scope))

    def with_images_of(self, datamodule: AnomalibDataModule) -> Run:
        """Give the same run with the images of another data module."""
        check_numbers(datamodule)
        split = split_once(datamodule, for_training=False)
        common_size(split, self.grid.image_size)
        reasons = None
        if (finder := self.job.finder) is not None:
            split, findings = finder.align(split)
            reasons = reasons_of(split, findings)
        source = open_source(split, self.grid, None, scope=self.source.scope)
        return replace(self, split=split, source=source, datamodule=datamodule, reasons=reasons)

    @property
    def is_aligned(self) -> bool:
        """Whether images are aligned."""
        return "alignment" in self.settings.stages

    @cached_property
    def unaligned(self) -> Mapping[str, str] | None:
        """Why images cannot be aligned, by their names; ``None`` if images are not aligned.

        Raises:
            RunFolderError: The file with the reasons is missing, or was changed.
        """
        if not self.is_aligned:
            return None
        return read_reasons(self.folder) if self.reasons is None else self.reasons

    def unaligned_note(self) -> str | None:
        """Say which images of the fit cannot be aligned; ``None`` if all can."""
        left_out = [
            f"{number} of {number + len(self.split.subset(name))} {words}"
            for name, words in FITTED
            if (number := len(self.split.unaligned(name)))
        ]
        if not left_out:
            return None
        return f"The part is not found in {' and '.join(left_out)}: they were left out. See alignment.csv."

    @property
    def batch_size(self) -> int:
        """Number of images that are predicted together: as many as memory allows for their size."""
        pixels = PIXELS_AT_ONCE
        if self.settings.memory_bytes is None:
            pixels = min(pixels, pixels_within(int(self._free_memory * SHARE_ALONE)))
        return self.job.at_once(self.grid.image_size, pixels)

    @cached_property
    def _free_memory(self) -> int:
        """Free memory in bytes, measured once, so that the batch size does not change."""
        return available_memory()

    def memory_remark(self) -> str | None:
        """Give a warning if a single image probably needs more memory than is free; ``None`` if it does not."""
        return too_large(self.grid.image_size, self._free_memory)

    def images(self, purpose: Purpose) -> Images:
        """Give the images to calibrate or test with."""
        data = self.job.data
        return Images(self.source, data.samples(purpose), self.grid, self.batch_size, data.augmentations(purpose))

    def ensemble(
        self, calibration: Calibration | None = None, device: str = AUTO, *, share: float = SHARE
    ) -> EnsembleModel:
        """Load the tile models and stages as one model.

        Args:
            calibration: What the stages learned; left out while they are learning.
            device: Where to predict, such as ``cpu`` or ``cuda:1``; ``auto`` for the device of the configuration.
            share: Share of the machine's free memory that models may use if no budget is set.

        Raises:
            RunFolderError: Tiles are missing.
        """
        self.check_tiles()
        ensemble = EnsembleModel(
            self.grid,
            self.job.tile_models(share=share),
            stages=Stages.build(self.settings),
            calibration=calibration,
            evaluator=False,
            scope=self.source.scope,
        )
        ensemble.naming(self.regions)
        return ensemble.to(self.device(device)).eval()

    def device(self, name: str = AUTO) -> torch.device:
        """Give a device by its name.

        Args:
            name: ``auto`` for the device of the configuration, or for the CPU, if tiles are trained elsewhere and this
                machine lacks that device.

        Raises:
            ConfigurationError: There is no such device.
        """
        if name != AUTO:
            return device_named(name)
        try:
            return self.job.device()
        except ConfigurationError:
            if self.scheduler.workers.elsewhere:
                return torch.device("cpu")
            raise

    def calibrated_ensemble(self, device: str = AUTO, *, share: float = SHARE) -> EnsembleModel:
        """Load the ensemble with what its stages learned.

        Args:
            device: As for `ensemble`.
            share: As for `ensemble`.

        Raises:
            RunFolderError: Tiles or the calibration are missing.
            ConfigurationError: There is no such device.
        """
        self.check_tiles()
        return self.ensemble(self.calibration(), device, share=share)

    def calibration(self) -> Calibration:
        """Read what the stages learned.

        Raises:
            RunFolderError: The calibration is missing, has changed, or was made with another configuration.
        """
        path = self.folder.calibration_file
        self.folder.read(path, self._calibrate)
        learned = read_json(path)
        self._check_configuration(path, learned.get("configuration"))
        return Calibration.from_json(learned)

    def image_decisions(self, calibration: Calibration) -> ImageDecisions:
        """Give how images are decided with a calibration.

        Raises:
            ConfigurationError: The threshold is not within the limits of ``thresholding.uncertain``.
        """
        level = calibration.image
        return ImageDecisions.of(self.settings, None if level is None else level.scores.threshold)

    def check_calibrated(self) -> None:
        """Check that images can be predicted, without loading a model.

        Raises:
            RunFolderError: Tiles or the calibration are missing, or the calibration was changed.
        """
        self.check_tiles()
        self.calibration()

    def validation_scores(self) -> ValidationScores | None:
        """Read the scores of normal validation images; ``None`` if the run keeps none."""
        path = self.folder.validation_scores_file
        if path.is_file() and path.name in self.folder.checksums():
            self.folder.read(path, self._calibrate)
        if (scores := ValidationScores.read(path)) is not None:
            self._check_configuration(path, scores.configuration)
        return scores

    @property
    def _calibrate(self) -> str:
        return f"Calibrate: `anomalib tiled fit --ckpt_dir {self.folder.path}`."

    def _check_configuration(self, path: Path, configuration: object) -> None:
        if configuration != self.settings.calibration_hash:
            message = (
                f"{path} was made with another config.yaml. Restore that, or make {path.name} anew. {self._calibrate}"
            )
            raise RunFolderError(message)

    def check_tiles(self) -> None:
        """Check that all tiles are trained.

        Raises:
            RunFolderError: Some are not.
        """
        if missing := self.folder.missing(self.grid, self.settings):
            names, path = ", ".join(tile.name for tile in missing), self.folder.path
            message = f"{path} lacks {len(missing)} tiles: {names}. Train them: `anomalib tiled fit --ckpt_dir {path}`."
            raise RunFolderError(message)

    def left_out_note(self) -> str | None:
        """Say which locations have no model; ``None`` if every location has one."""
        return left_out_note(self.grid, self.folder.left_out(self.grid, self.settings))

    def ignored_note(self) -> str | None:
        """Say how much of an image the regions ignore; ``None`` if they ignore nothing."""
        if (ignored := self.source.scope.ignored) is None:
            return None
        without = f"{len(self.grid.ignored)} of {len(self.grid.positions)} tile locations"
        return f"The regions ignore {100 * ignored.mean():.3g} % of the pixels of an image; {without} have no model."

    def check_checkpoints(self, tiles: Iterable[Tile]) -> None:
        """Compare checkpoints and shared weights with their checksums, so that an error comes before any work.

        Args:
            tiles: The tiles, of `TileGrid.models`; untrained ones are skipped.

        Raises:
            RunFolderError: A file was changed.
        """
        self.job.saved_models.checkpoints.check(tiles)


def conditions_of(settings: Settings, folder: Path | None = None, threads: int | None = None) -> Conditions:
    """Give what workers may know of a run.

    Args:
        settings: The configuration.
        folder: Folder for files that workers exchange; ``None`` while there is no run folder.
        threads: Number of threads that the tiles that are done were trained with; ``None`` if none is done.
    """
    accelerator, devices = (settings.trainer.get(name, "auto") for name in ("accelerator", "devices"))
    return Conditions(accelerator, devices, threads, folder)
