"""Any anomalib model as the model of one tile location."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch.nn import functional
from torchvision.transforms.v2 import CenterCrop, Compose, Resize, Transform

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.config import ClassSpec
    from anomalib_tiled.grid import Size

FITTED_TO_TILES: tuple[type[Transform], ...] = (Resize, CenterCrop)
"""Pre-processing that must not touch a tile: its pixels are the image's pixels, all of them."""

DONE_BY_THE_ENSEMBLE = ("post_processor", "evaluator", "visualizer")
"""Parts of a model that work on whole images, and so are no business of a tile model."""

ONLY_FOR_A_FRESH_MODEL = {"pre_trained": False}
"""Arguments that only say where first weights come from; a checkpoint replaces those, so nothing is downloaded."""


class TilePrediction(NamedTuple):
    """What a tile model says about a batch of tiles.

    Args:
        scores: Raw scores, higher is more anomalous, shape (batch,).
        maps: Raw anomaly maps, shape (batch, 1, height, width); ``None`` if the model gives none.
    """

    scores: torch.Tensor
    maps: torch.Tensor | None


def build_tile_model(spec: ClassSpec, tile_size: Size) -> AnomalibModule:
    """Make an untrained model for tiles of one size.

    Args:
        spec: Class and arguments.
        tile_size: Height and width of the tiles in pixels.

    Raises:
        ConfigurationError: The model refuses its arguments or the tile size.
    """

    def make(model_class: type[AnomalibModule], **arguments: Any) -> AnomalibModule:  # noqa: ANN401  # the model's own
        return model_class(**_arguments_for_tiles(model_class, arguments, tile_size))

    return _fitted_to_tiles(spec.build(AnomalibModule, make))


def load_tile_model(spec: ClassSpec, tile_size: Size, checkpoint: Path) -> AnomalibModule:
    """Load a trained model, ready to predict.

    Args:
        spec: Class and arguments that it was trained with.
        tile_size: Height and width of the tiles in pixels.
        checkpoint: Its Lightning checkpoint; only tensors and plain values are read from it.
    """

    def make(model_class: type[AnomalibModule], **arguments: Any) -> AnomalibModule:  # noqa: ANN401  # the model's own
        arguments = _arguments_for_tiles(model_class, arguments, tile_size)
        replaced = _accepted(model_class, ONLY_FOR_A_FRESH_MODEL)
        return model_class.load_from_checkpoint(checkpoint, map_location="cpu", **{**arguments, **replaced})

    return _fitted_to_tiles(spec.build(AnomalibModule, make)).eval()


@torch.inference_mode()
def predict_tile(model: AnomalibModule, images: torch.Tensor) -> TilePrediction:
    """Predict a batch of tiles.

    Args:
        model: A trained tile model.
        images: Tiles with values in [0, 1], shape (batch, 3, height, width), on the device of the model.

    Raises:
        ConfigurationError: The model gives neither scores nor maps.
    """
    output = model(images)
    scores, maps = getattr(output, "pred_score", None), getattr(output, "anomaly_map", None)
    if maps is not None:
        maps = _in_size(maps, images)
    if scores is None:
        if maps is None:
            message = f"{type(model).__name__} gives neither scores nor anomaly maps, so it cannot be used with tiles."
            raise ConfigurationError(message)
        scores = maps.amax(dim=(1, 2, 3))
    return TilePrediction(scores.reshape(len(images)).float(), maps)


def _arguments_for_tiles(
    model_class: type[AnomalibModule], arguments: dict[str, Any], tile_size: Size
) -> dict[str, Any]:
    """Ask the model's own pre-processor for the tile's size, and leave out what the ensemble does itself."""
    for name in DONE_BY_THE_ENSEMBLE:
        if not isinstance(arguments.get(name, True), bool):
            message = (
                f"model.init_args.{name} has no effect with tiles, so it cannot be given: thresholds, sensitivities "
                "and normalization are set by `thresholding` and `normalization`, metrics by `metrics`, pictures by "
                "`visualize`."
            )
            raise ConfigurationError(message)
    if arguments.get("pre_processor", True) is True and (pre_processor := _pre_processor(model_class, tile_size)):
        arguments = {**arguments, **_accepted(model_class, {"pre_processor": pre_processor})}
    return {**arguments, **_accepted(model_class, {"evaluator": False, "visualizer": False})}


def _pre_processor(model_class: type[AnomalibModule], tile_size: Size) -> torch.nn.Module | None:
    """Give the class's own pre-processor for the tile size; ``None`` to leave the choice to the class."""
    configure = model_class.configure_pre_processor
    needs_instance = not isinstance(
        inspect.getattr_static(model_class, "configure_pre_processor"), (staticmethod, classmethod)
    )
    if needs_instance or "image_size" not in inspect.signature(configure).parameters:
        return None
    return configure((tile_size.height, tile_size.width))


def _accepted(model_class: type[AnomalibModule], arguments: dict[str, Any]) -> dict[str, Any]:
    """Keep those arguments that the class has parameters for."""
    parameters = inspect.signature(model_class.__init__).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in arguments.items() if takes_any or name in parameters}


def _fitted_to_tiles(model: AnomalibModule) -> AnomalibModule:
    """Take resizing and centre-cropping out, and post-processing, which works on whole images here."""
    if isinstance(model.pre_processor, PreProcessor):
        model.pre_processor.transform = _without_geometry(model.pre_processor.transform)
        model.pre_processor.export_transform = get_exportable_transform(model.pre_processor.transform)
    model.post_processor = None
    return model


def _without_geometry(transform: Transform | None) -> Transform | None:
    if isinstance(transform, FITTED_TO_TILES):
        return None
    if isinstance(transform, Compose):
        kept = [each for each in transform.transforms if not isinstance(each, FITTED_TO_TILES)]
        return Compose(kept) if kept else None
    return transform


def _in_size(maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Bring maps to shape (batch, 1, height, width) with the height and width of the tiles."""
    maps = maps.reshape(len(images), 1, *maps.shape[-2:]).float()
    if maps.shape[-2:] == images.shape[-2:]:
        return maps
    return functional.interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
