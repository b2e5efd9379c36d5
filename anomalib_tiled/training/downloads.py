"""Downloads of models before their training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from anomalib.utils.path import get_pretrained_weights_dir

from anomalib_tiled.ensemble.tile_model import class_of
from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.run import Run

WEIGHTS = "prepare_pretrained_model"
IMAGES = "prepare_imagenette_data"
"""Methods of anomalib's models that download missing weights and images."""


def download(run: Run) -> None:
    """Download what a model needs once, before several processes do so at the same time.

    A process would otherwise take the half-downloaded file of another process for the whole file.

    Args:
        run: The run.

    Raises:
        ConfigurationError: The download failed.
    """
    if not hasattr(class_of(run.settings.model), WEIGHTS):
        return
    model = cast("Any", run.job.fresh_models.model())
    try:
        getattr(model, WEIGHTS)()
        if hasattr(model, IMAGES):
            getattr(model, IMAGES)(tuple(run.grid.tile_size))
    except (OSError, RuntimeError, ValueError) as error:
        message = (
            f"{type(model).__name__} downloads weights or images before training, and the download failed: {error}. "
            "Try again with an internet connection and free disk space; or copy from another machine "
            f"{get_pretrained_weights_dir()} (weights) and the image folder that the model's arguments name."
        )
        raise ConfigurationError(message) from error
