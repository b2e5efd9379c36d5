"""The job of predicting new images: small enough for any process, which need not open the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.data.unlabelled_images import NewImages, TrainedOn
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.devices import device_named
from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.prediction_engine import PredictionEngine
from anomalib_tiled.ensemble.run import AUTO
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.predictor import Predictor
from anomalib_tiled.results.thresholds import Thresholds, final_thresholds, thresholds_of
from anomalib_tiled.runs.placement_file import read_placement
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.limits import cores
from anomalib_tiled.system.memory import SHARE_ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_job import TileJob
    from anomalib_tiled.results.request import PredictionRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageJob:
    """All that predicting any image of a request needs.

    A pickle of it has a few kilobytes, however many images and tiles the run has.

    Args:
        job: Tiles and their models.
        writer: Writes the files of each image.
        thresholds: Replace calibrated ones.
        batch_size: Number of images that are predicted together. The command sets it, because the last digits of scores
            depend on it.
        trained_on: Sizes of the training images.
        device: Where to predict, such as ``cpu``; ``auto`` for the device of the configuration, or of a place.
        engine: Name of the engine that computes backbones.
    """

    job: TileJob
    writer: PredictionWriter
    thresholds: Thresholds
    batch_size: int
    trained_on: TrainedOn
    device: str
    engine: str = TORCH

    @classmethod
    def begin(
        cls, run: Run, request: PredictionRequest, images: Sequence[Path], report: Callable[[str], None]
    ) -> ImageJob:
        """Begin the folder of the results, or resume it.

        Args:
            run: A complete run.
            request: The request.
            images: Its images.
            report: Called with each line that a reader of the results should know.

        Raises:
            RunFolderError: The run has no scores to look a threshold up.
            ConfigurationError: The folder holds predictions with other settings.
        """
        thresholds, notes = thresholds_of(run, request.settings)
        for note in filter(None, (*notes, run.left_out_note())):
            report(f"Note: {note}")
        shown = final_thresholds(Stages.build(run.settings), run.calibration(), thresholds)
        writer = PredictionWriter.open(run, request, images, thresholds.uncertain).deciding(shown, thresholds.uncertain)
        trained_on = TrainedOn.of(run.split, run.grid.image_size)
        return cls(run.job, writer, thresholds, run.batch_size, trained_on, request.device, request.engine)

    def new_images(self, report: Callable[[str, str], None]) -> NewImages:
        """Read images that belong to no data set in the same way as test images.

        Args:
            report: Receives kinds of warnings, and a warning about the first image of each kind.
        """
        return NewImages(
            self.job.grid,
            self.batch_size,
            placement=read_placement(self.job.folder),
            augmentations=self.job.datamodule.test_augmentations,
            trained_on=self.trained_on,
            report=report,
            finder=self.job.finder,
            ignored=self.job.scope.ignored,
        )

    def device_at(self, index: int | None) -> torch.device:
        """Give the device of a place.

        Args:
            index: Index of the GPU that the place has; ``None`` for the device of the configuration.

        Raises:
            ConfigurationError: This machine has no such device.
        """
        return self.job.device(index) if self.device == AUTO else device_named(self.device)

    def engine_at(self, device: torch.device) -> PredictionEngine | None:
        """Give what computes backbones on a device of a place.

        Args:
            device: The device.

        Raises:
            ConfigurationError: The engine is not installed there, or does not compute on that device.
        """
        return PredictionEngine.named(self.engine, device, self.job.predicts_in, logger.info)

    def predictor_at(self, index: int | None) -> Predictor:
        """Load the ensemble at a place; as many places as use all cores take as much memory as one process alone.

        A place with a GPU of its own takes as much of that as one process alone.

        Args:
            index: As for `device_at`.

        Raises:
            RunFolderError: The calibration was changed.
        """
        job, path = self.job, self.job.folder.calibration_file
        job.folder.read(path, f"Calibrate: `anomalib tiled fit --ckpt_dir {job.folder.path}`.")
        part = min(1.0, torch.get_num_threads() / cores()) if index is None else 1.0
        ensemble = EnsembleModel(
            job.grid,
            job.tile_models(share=SHARE_ALONE * part),
            stages=Stages.build(job.settings),
            calibration=Calibration.from_json(read_json(path)),
            evaluator=False,
            scope=job.scope,
        )
        ensemble.naming(job.regions).to(self.device_at(index)).eval()
        ensemble.tile_models.engine = self.engine_at(ensemble.device)
        return Predictor(ensemble, self.thresholds, self.writer)
