"""Any anomalib model as the model of one tile location."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple, cast

import torch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.transform import get_exportable_transform
from torch.nn import functional
from torchvision.transforms.v2 import CenterCrop, Compose, Resize, Transform

from anomalib_tiled.config.settings import ClassSpec, Plain
from anomalib_tiled.ensemble.half_precision import predicting
from anomalib_tiled.ensemble.missing_weights import remedy
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import Size
from anomalib_tiled.runs.checkpoints import Restorer, read_checkpoint, restore
from anomalib_tiled.system.out_of_memory import lack_of_memory

FITTED_TO_TILES: tuple[type[Transform], ...] = (Resize, CenterCrop)
"""Pre-processing that is removed, because the model of a tile must see all pixels of the tile unchanged."""

DONE_BY_THE_ENSEMBLE = ("post_processor", "evaluator", "visualizer")
"""Parts of a model that work on whole images: the ensemble replaces them."""

SIZE_OF_THE_INPUT = ("image_size", "input_size", "input_shape")
"""Arguments of models for the size of their input, which is the tile size."""

ONLY_FOR_A_FRESH_MODEL = {"pre_trained": False}
"""Arguments about initial weights; a checkpoint replaces these weights, so nothing is downloaded."""


class TilePrediction(NamedTuple):
    """The prediction of a tile model for a batch of tiles.

    Args:
        scores: Raw scores, higher is more anomalous, shape (batch,).
        maps: Raw anomaly maps, shape (batch, 1, height, width); ``None`` if the model gives none.
        hidden: Pixels that do not count, shape (batch or 1, 1, height, width); ``None`` if all do.
    """

    scores: torch.Tensor
    maps: torch.Tensor | None
    hidden: torch.Tensor | None = None

    def hiding(self, hidden: torch.Tensor | None) -> TilePrediction:
        """Give the prediction of the pixels that count: the score of a tile is then the highest score of these.

        A tile keeps the score of its model if all of its pixels count, if none does, or if there is no map.

        Args:
            hidden: As for the prediction.
        """
        if hidden is None:
            return self
        hidden, scores = hidden.to(self.scores.device), self.scores
        if self.maps is not None:
            some, all_of_them = hidden.flatten(1).any(dim=1), hidden.flatten(1).all(dim=1)
            highest = self.maps.masked_fill(hidden, -torch.inf).amax(dim=(1, 2, 3))
            scores = torch.where(some & ~all_of_them, highest, scores)
        return TilePrediction(scores, self.maps, hidden)

    def to(self, device: torch.device) -> TilePrediction:
        """Give the prediction on a device."""
        maps, hidden = (None if each is None else each.to(device) for each in (self.maps, self.hidden))
        return TilePrediction(self.scores.to(device), maps, hidden)


def build_tile_model(spec: ClassSpec, tile_size: Size) -> AnomalibModule:
    """Make an untrained model for tiles of one size.

    Raises:
        ConfigurationError: The model refuses its arguments or the tile size.
    """
    try:
        made = _make(spec, tile_size)
    except ConfigurationError as error:
        if (advice := remedy(error, spec, trained=False)) is None:
            raise
        message = f"{spec.class_path} cannot be made. {advice}"
        raise ConfigurationError(message) from error
    model = _fitted_to_tiles(made, tile_size)
    # Some versions of Python 3.11 pickle members of an Enum in a form that PyTorch does not load with weights_only.
    plain = {name: value.value for name, value in model.hparams.items() if isinstance(value, Enum)}
    model.hparams.update(plain)
    return model


def class_of(spec: ClassSpec) -> type[AnomalibModule]:
    """Give the class of a model without making one.

    Raises:
        ConfigurationError: There is no such class, or it is no model.
    """

    def found(model_class: type[AnomalibModule], **_: Any) -> Any:  # noqa: ANN401  # the model's own
        return model_class

    return cast("type[AnomalibModule]", spec.build(AnomalibModule, found))


def load_tile_model(spec: ClassSpec, tile_size: Size, checkpoint: Path) -> AnomalibModule:
    """Load a trained model, ready to predict; only tensors and plain values are read from its checkpoint.

    Raises:
        ConfigurationError: The checkpoint belongs to another model.
        RunFolderError: The model cannot be made any more; the checkpoint is not the cause.
    """
    model = _model_of_a_run(spec, tile_size)
    with _errors_naming(checkpoint, model):
        restore(model, read_checkpoint(checkpoint, type(model)))
    return _fitted_to_tiles(model, tile_size).eval()


def _model_of_a_run(spec: ClassSpec, tile_size: Size) -> AnomalibModule:
    """Make the model of a run, before a checkpoint replaces its weights."""
    try:
        return _make(spec, tile_size, **ONLY_FOR_A_FRESH_MODEL)
    except ConfigurationError as error:
        if lack_of_memory(error) is not None:
            raise
        unknown = f"{error.__cause__ or error}. It could be made when the run was fitted: undo what has changed since."
        advice = remedy(error, spec, trained=True) or unknown
        message = f"{spec.name}, the model of the run, cannot be made here; the checkpoints are not the cause. {advice}"
        raise RunFolderError(message) from error


@contextmanager
def _errors_naming(checkpoint: Path, model: AnomalibModule) -> Iterator[None]:
    """Name the checkpoint in errors of loading it into a model."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, OSError, EOFError, UnpicklingError) as error:
        message = f"{type(model).__name__} cannot be loaded from {checkpoint}: {error}"
        raise ConfigurationError(message) from error


def reload_tile_model(model: AnomalibModule, tile_size: Size, checkpoint: Path, restorer: Restorer) -> None:
    """Load another tile into a loaded model of the same run, which is faster than making a new model.

    Raises:
        ConfigurationError: The checkpoint belongs to another model.
    """
    with _errors_naming(checkpoint, model), torch.inference_mode():  # its state may hold inference tensors
        restorer.restore_from(model, checkpoint)
    _fitted_to_tiles(model, tile_size)


@torch.inference_mode()
def predict_tile(model: AnomalibModule, images: torch.Tensor) -> TilePrediction:
    """Predict a batch of tiles without gradients.

    Args:
        model: A trained tile model.
        images: Tiles with values in [0, 1], shape (batch, 3, height, width), on the device of the model.

    Raises:
        ConfigurationError: The model gives neither scores nor maps, or not one for each tile.
    """
    with predicting(model, images.device):
        return traceable_prediction(model, images)


def traceable_prediction(model: AnomalibModule, images: torch.Tensor) -> TilePrediction:
    """Predict as ``predict_tile`` in single precision, without inference mode: it can be exported as a graph."""
    output, name = model(images), type(model).__name__
    scores, maps = getattr(output, "pred_score", None), getattr(output, "anomaly_map", None)
    if maps is not None:
        _check_number(name, "anomaly_map", maps.flatten(-2)[..., 0], images.shape[0])
        maps = in_size(maps, images)
        scores = maps.amax(dim=(1, 2, 3)) if scores is None else scores
    if scores is None:
        message = (
            f"{name} gives neither scores nor anomaly maps, so it cannot be used with tiles. Its forward must return "
            f"an InferenceBatch with pred_score or anomaly_map, but returned {type(output).__name__}."
        )
        raise ConfigurationError(message)
    _check_number(name, "pred_score", scores, images.shape[0])
    return TilePrediction(scores.reshape(images.shape[0]).float(), maps)


def in_size(maps: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Resize maps to shape (batch, 1, height, width) with the height and width of the tiles.

    Args:
        maps: Anomaly maps of any height and width, one for each tile.
        images: The tiles, shape (batch, 3, height, width).
    """
    return resized(maps.reshape(images.shape[0], 1, *maps.shape[-2:]).float(), Size(*images.shape[-2:]))


def resized(maps: torch.Tensor, size: Size) -> torch.Tensor:
    """Resize maps of shape (batch, 1, height, width) bilinearly."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def _check_number(name: str, field: str, values: torch.Tensor, batch: int) -> None:
    """Check that there is one value for each tile of a batch."""
    if values.numel() != batch:
        message = (
            f"{name} must give one {field} for each tile, but gives {values.numel()} for {batch} tiles. "
            "Fix its forward, or choose another model."
        )
        raise ConfigurationError(message)


def _make(spec: ClassSpec, tile_size: Size, **fixed: Plain) -> AnomalibModule:
    """Make a model with its arguments, and with fixed ones, if it has them."""

    def make(model_class: type[AnomalibModule], **arguments: Any) -> AnomalibModule:  # noqa: ANN401  # the model's own
        fitted = _arguments_for_tiles(model_class, arguments, tile_size)
        return model_class(**{**fitted, **_accepted(model_class, fixed)})

    return spec.build(AnomalibModule, make)


def _arguments_for_tiles(
    model_class: type[AnomalibModule], arguments: dict[str, Any], tile_size: Size
) -> dict[str, Any]:
    """Set the model's pre-processor to the tile size, and switch off the parts that the ensemble replaces."""
    for name in DONE_BY_THE_ENSEMBLE:
        if not isinstance(arguments.get(name, True), bool):
            message = (
                f"model.init_args.{name} has no effect with tiles, so it cannot be given: thresholds, sensitivities "
                "and normalization are set by `thresholding` and `normalization`, metrics by `metrics`, pictures by "
                "`visualize`."
            )
            raise ConfigurationError(message)
    pre_processor = arguments.get("pre_processor", True)
    if pre_processor is True:
        pre_processor = _pre_processor(model_class)
    if isinstance(pre_processor, PreProcessor):
        # Models read the size of their input from their pre-processor, while they are made.
        _transform_with(pre_processor, [Resize(list(tile_size), antialias=True), *_kept(pre_processor, tile_size)])
        arguments = {**arguments, **_accepted(model_class, {"pre_processor": pre_processor})}
    arguments = {**arguments, **_size_arguments(model_class, arguments, tile_size)}
    return {**arguments, **_accepted(model_class, {"evaluator": False, "visualizer": False})}


def _pre_processor(model_class: type[AnomalibModule]) -> torch.nn.Module | None:
    """Give the pre-processor of a class; ``None`` if it takes a model to know it."""
    found = inspect.getattr_static(model_class, "configure_pre_processor")
    return model_class.configure_pre_processor() if isinstance(found, (staticmethod, classmethod)) else None


def _size_arguments(model_class: type[AnomalibModule], arguments: dict[str, Any], tile_size: Size) -> dict[str, Plain]:
    """Give the tile size to a class that has an argument for the size of its input.

    Raises:
        ConfigurationError: The arguments set another size, or the class takes square inputs only.
    """
    parameters = inspect.signature(model_class.__init__).parameters
    sizes: dict[str, Plain] = {}
    for name in (name for name in SIZE_OF_THE_INPUT if name in parameters):
        default, given = parameters[name].default, arguments.get(name)
        takes_pair = isinstance(default, (tuple, list)) or "tuple" in str(parameters[name].annotation).lower()
        size = (*tile_size,) if takes_pair else _side(model_class, name, tile_size)
        if given not in (None, default, size, [*tile_size]):  # not a set: lists have no hash
            message = f"model.init_args.{name} must be the tile size, {tile_size}, but is {given}. Leave it out."
            raise ConfigurationError(message)
        sizes[name] = size
    return sizes


def _side(model_class: type[AnomalibModule], name: str, tile_size: Size) -> int:
    if tile_size.height != tile_size.width:
        message = (
            f"{model_class.__name__} takes one number as {name}, so tiles must be square, but tiling.tile_size is "
            f"{tile_size}. Set a square one."
        )
        raise ConfigurationError(message)
    return tile_size.height


def _accepted(model_class: type[AnomalibModule], arguments: dict[str, Any]) -> dict[str, Any]:
    """Keep the arguments that the class has parameters for."""
    parameters = inspect.signature(model_class.__init__).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return {name: value for name, value in arguments.items() if takes_any or name in parameters}


def _fitted_to_tiles(model: AnomalibModule, tile_size: Size) -> AnomalibModule:
    """Remove resizing, cropping and post-processing, which the ensemble does on whole images."""
    if isinstance(model.pre_processor, PreProcessor):
        _transform_with(model.pre_processor, _kept(model.pre_processor, tile_size))
    model.post_processor = None
    return model


def _kept(pre_processor: PreProcessor, tile_size: Size) -> list[Transform]:
    """Give the transforms of a pre-processor that keep the size of a tile."""
    transform = pre_processor.transform
    transforms = transform.transforms if isinstance(transform, Compose) else [transform]
    tile = torch.zeros(1, 3, *tile_size)
    kept = [each for each in transforms if each is not None and not isinstance(each, FITTED_TO_TILES)]
    return [each for each in kept if each(tile).shape[-2:] == tile.shape[-2:]]


def _transform_with(pre_processor: PreProcessor, transforms: list[Transform]) -> None:
    pre_processor.transform = Compose(transforms) if transforms else None
    pre_processor.export_transform = get_exportable_transform(pre_processor.transform)
