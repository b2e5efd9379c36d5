"""What a place needs for the tiles of a run: the images, the device, and what the model downloads."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalib.utils.path import get_pretrained_weights_dir
from filelock import FileLock

from anomalib_tiled.ensemble.devices import described
from anomalib_tiled.ensemble.half_precision import remark_on
from anomalib_tiled.ensemble.tile_model import class_of
from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.tile_job import TileJob
    from anomalib_tiled.grid import Size

WEIGHTS = "prepare_pretrained_model"
IMAGES = "prepare_imagenette_data"
"""Methods of anomalib's models that download missing weights and images."""

LOCK = "anomalib-tiled-download.lock"
"""File in the folder for temporary files that a process locks while it downloads."""


@dataclass(frozen=True)
class PlaceCheck:
    """Checks that a process can work on the tiles of a run.

    Args:
        job: The work.
        download: Whether to download what the model needs, once on each machine.
    """

    job: TileJob
    download: bool

    def __call__(self, item: None, *, device: int | None = None) -> str:
        """Give the name of the device.

        Args:
            item: Not used.
            device: Index of the GPU; ``None`` for the device of the configuration.

        Raises:
            TiledError: The device or its precision, the images or the download are missing.
        """
        del item
        self.job.check_data()
        found = self.job.device(device)
        remark_on(self.job.predicts_in, found)
        if self.download:
            with FileLock(Path(tempfile.gettempdir(), LOCK)):  # another process would take half a file for the whole
                download(self.job)
        return described(found)


def download(job: TileJob) -> None:
    """Download what the models need once, before several processes do so at the same time.

    A process would otherwise take the half-downloaded file of another process for the whole file.

    Args:
        job: The job of training the tiles.

    Raises:
        ConfigurationError: The download failed.
    """
    for tile in job.grid.kinds:
        if hasattr(class_of(job.settings.model_of(tile)), WEIGHTS):
            _download(cast("Any", job.fresh_models_of(tile).model()), tile.size)


def _download(model: Any, size: Size) -> None:  # noqa: ANN401  # a model with such methods
    try:
        getattr(model, WEIGHTS)()
        if hasattr(model, IMAGES):
            getattr(model, IMAGES)(tuple(size))
    except (OSError, RuntimeError, ValueError) as error:
        message = (
            f"{type(model).__name__} downloads weights or images before training, and the download failed: {error}. "
            "Try again with an internet connection and free disk space; or copy from another machine "
            f"{get_pretrained_weights_dir()} (weights) and the image folder that the model's arguments name."
        )
        raise ConfigurationError(message) from error
