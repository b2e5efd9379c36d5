"""What models download when their training starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from anomalib.utils.path import get_pretrained_weights_dir

from anomalib_tiled.ensemble.tile_model import class_of
from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.run import Run

WEIGHTS = "prepare_pretrained_model"
IMAGES = "prepare_imagenette_data"
"""Methods of anomalib's models that download what is not there."""


def download(run: Run) -> None:
    """Have a model download what it needs, once, before several processes would do it at the same time.

    Each would find what another has half downloaded, and take it for the whole.

    Args:
        run: The run.

    Raises:
        ConfigurationError: It cannot be downloaded.
    """
    if not hasattr(class_of(run.settings.model), WEIGHTS):
        return
    model = cast("Any", run.fresh_models.model())
    try:
        getattr(model, WEIGHTS)()
        if hasattr(model, IMAGES):
            getattr(model, IMAGES)(tuple(run.grid.tile_size))
    except (OSError, RuntimeError, ValueError) as error:
        message = (
            f"{type(model).__name__} downloads weights or images before it is trained, which failed: {error}. "
            "Try again with the internet, and with room on the disk; or copy from a machine that has them "
            f"{get_pretrained_weights_dir()} (weights) and the folder of images that the model's arguments name."
        )
        raise ConfigurationError(message) from error
