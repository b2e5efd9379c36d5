"""What a place does: it proves that it sees everything, then predicts shards, each into a file of its own."""

from __future__ import annotations

import logging
import os
import platform
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lightning.pytorch import seed_everything

from anomalib_tiled.ensemble.devices import described
from anomalib_tiled.ensemble.half_precision import remark_on
from anomalib_tiled.errors import DataError
from anomalib_tiled.results.recording import Part
from anomalib_tiled.system.files import is_file
from anomalib_tiled.system.logs import log_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib.data import ImageItem

    from anomalib_tiled.results.image_job import ImageJob
    from anomalib_tiled.results.predictor import Predictor
    from anomalib_tiled.results.shards import ImageShard
    from anomalib_tiled.workers.proof import Token

logger = logging.getLogger(__name__)


class Notify(Protocol):
    """Notifies plugins in the process of a place; can be pickled."""

    @property
    def failures(self) -> Sequence[str]:
        """A sentence for each plugin that failed."""

    def __call__(self, prediction: ImageItem) -> None:
        """Notify them of a predicted image."""


@dataclass(frozen=True)
class PredictShard:
    """Predicts shards of images.

    Args:
        job: What predicting them needs.
        token: Present as long as the command runs.
        notify: Called with each predicted image.
    """

    job: ImageJob
    token: Token
    notify: Notify
    _predictors: dict[int | None, Predictor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[PredictShard], tuple[ImageJob, Token, Notify]]:
        """Pickle without models."""
        return PredictShard, (self.job, self.token, self.notify)

    def __call__(self, shard: ImageShard, *, device: int | None = None) -> None:
        """Predict the images, write their files, and what is known of them; a shard that is predicted is skipped.

        Args:
            shard: The images.
            device: Index of the GPU to predict on; ``None`` for the device of the configuration.

        Raises:
            OutOfMemoryError: Memory ran out, and other places may have used it.
            TiledError: What ends a prediction in one process.
        """
        folder = self.job.writer.folder
        path = shard.file_in(folder.parts)
        if is_file(path):  # its place ended before the command knew
            return
        log = folder.log_file.with_name(f"{platform.node()}-{os.getpid()}.log")
        with log_to(log):
            try:
                part = self._predict(shard, device)
                self.token.check()  # else the command has ended, and another one may predict these images
                part.write(path)
            except Exception:
                logger.exception("Predicting %s failed.", shard.name)
                raise

    def _predict(self, shard: ImageShard, device: int | None) -> Part:
        seed_everything(self.job.job.settings.seed_everything, workers=True, verbose=False)
        part = Part(images_may_be_too_large=shard.alone)
        predictor, new_images = self._predictor(device), self.job.new_images(part.note)
        for paths in shard.batches:
            for batch in new_images.batches(paths, part.fail):
                for item in predictor.predict(batch, part):
                    self.notify(item)
        for failure in self.notify.failures:
            part.note(failure, f"warning: {failure}")
        return part

    def _predictor(self, device: int | None) -> Predictor:
        if device not in self._predictors:
            self._predictors[device] = self.job.predictor_at(device)
        return self._predictors[device]


@dataclass(frozen=True)
class PredictionCheck:
    """Checks that a place can predict.

    Args:
        job: What predicting needs.
        image: An image that the place must see; ``None`` for none.
    """

    job: ImageJob
    image: Path | None

    def __call__(self, item: None, *, device: int | None = None) -> str:
        """Give the name of the device.

        Args:
            item: Not used.
            device: Index of the GPU; ``None`` for the device of the configuration.

        Raises:
            TiledError: The device, its precision or the engine, the run or the images are missing.
        """
        del item
        found, folder = self.job.device_at(device), self.job.job.folder
        remark_on(self.job.job.predicts_in, found)
        self.job.engine_at(found)
        folder.read(folder.calibration_file, f"Mount {folder.path} there at this path.")
        if self.image is not None and not is_file(self.image):
            message = (
                f"Every machine must see the images at the same path, but {platform.node()} does not see {self.image}. "
                "Mount their folder there at this path."
            )
            raise DataError(message)
        return described(found)
