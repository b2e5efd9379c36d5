"""Checks of a model and its data before training: a blank tile passes through every step, and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from anomalib.models.components.feature_extractors import TimmFeatureExtractor
from anomalib.pre_processing import PreProcessor

from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.tile_dataset import CHANNELS, AreaDataset, collate
from anomalib_tiled.ensemble.tile_model import build_tile_model
from anomalib_tiled.ensemble.untrained_models import Randomness
from anomalib_tiled.errors import ConfigurationError, DataError, allowed_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib.data import AnomalibDataModule
    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.config.settings import ClassSpec, Plain
    from anomalib_tiled.data.images import Pixels
    from anomalib_tiled.data.split import Sample, Split, Subset
    from anomalib_tiled.grid import Size, TileGrid

LAYERS = ("layers", "layer")
"""Arguments of models that name layers of their backbone."""


def check_fresh_model(spec: ClassSpec, tile_size: Size) -> None:
    """Make a model once, and refuse it if it would fail on every tile.

    Args:
        spec: Class and arguments.
        tile_size: Height and width of the tiles in pixels.

    Raises:
        ConfigurationError: The model cannot be made, its backbone lacks a layer, or its pre-processor does not return
            a tile.
    """
    try:
        model = build_tile_model(spec, tile_size)
    except ConfigurationError:
        _check_layers(spec.init_args, _layers_of(spec.init_args.get("backbone")))
        raise
    for module in model.modules():
        if isinstance(module, TimmFeatureExtractor):
            _check_layers(model.hparams, _names(module))
    _check_pre_processor(model, tile_size)


def check_augmentations(datamodule: AnomalibDataModule, split: Split, grid: TileGrid) -> None:
    """Apply the augmentations of each subset to a blank image.

    Args:
        datamodule: Has the augmentations.
        split: Which image is used for what.
        grid: Gives the size of the images.

    Raises:
        DataError: An augmentation changes the size or the channels of an image.
        ConfigurationError: An augmentation fails.
    """
    whole, randomness = (slice(0, grid.image_size.height), slice(0, grid.image_size.width)), Randomness.now()
    blank = _Blank(has_masks=any(sample.masks for sample in split.samples))
    subsets: tuple[Subset, ...] = ("train", "val", "test")
    for subset in subsets:
        augmentations, samples = getattr(datamodule, f"{subset}_augmentations"), split.subset(subset)[:1]
        if augmentations is None or not samples:
            continue
        images = AreaDataset(blank, samples, area=whole, grid=grid, augmentations=augmentations)
        try:
            collate([images[0]])
        except DataError:
            raise
        except Exception as error:  # augmentations may raise anything
            message = (
                f"{subset}_augmentations of the data module must accept images of {grid.image_size} pixels, but fail: "
                f"{type(error).__name__}: {str(error).rstrip('.')}. Change them."
            )
            raise ConfigurationError(message) from error
    randomness.restore()


@dataclass(frozen=True)
class _Blank:
    """Black images without defects."""

    has_masks: bool
    fingerprint: None = None
    scope: Scope = EVERYTHING

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        del sample
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start, CHANNELS), np.uint8)

    def mask(self, sample: Sample, rows: slice, columns: slice) -> Pixels | None:
        del sample
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8) if self.has_masks else None

    def hidden(self, sample: Sample, rows: slice, columns: slice) -> None:
        del sample, rows, columns


def _layers_of(backbone: Plain) -> list[str]:
    """Name the layers of a backbone; none if there is no such backbone, which the error of the model explains."""
    try:
        return _names(TimmFeatureExtractor(backbone, layers=[], pre_trained=False))
    except Exception:  # noqa: BLE001  # the caller raises the error of the model itself
        return []


def _names(extractor: TimmFeatureExtractor) -> list[str]:
    """Name the layers that a backbone has; none if it does not list them."""
    known = getattr(extractor.feature_extractor, "feature_info", [])
    return [each["module"] for each in getattr(known, "info", known)]


def _check_layers(arguments: Mapping[str, Plain], allowed: Sequence[str]) -> None:
    """Refuse layers that a backbone lacks; a layer may be given as its number.

    Raises:
        ConfigurationError: The backbone lacks a layer, or no layer is given.
    """
    for argument in (each for each in LAYERS if allowed and isinstance(arguments.get(each), (str, list, tuple))):
        given = arguments[argument]
        layers = [given] if isinstance(given, str) else given
        if not layers:
            message = f"model.init_args.{argument} must name a layer, but is {given!r}. {allowed_names('', allowed)}"
            raise ConfigurationError(message)
        for layer in layers:
            if layer not in allowed and not (str(layer).isdecimal() and int(layer) < len(allowed)):
                backbone = arguments.get("backbone", "the backbone")
                message = (
                    f"model.init_args.{argument} must name layers of {backbone}, which has no {layer!r}. "
                    f"{allowed_names(str(layer), allowed)}"
                )
                raise ConfigurationError(message)


def _check_pre_processor(model: AnomalibModule, tile_size: Size) -> None:
    """Apply the pre-processor of a model to a blank tile; anomalib's batches hold three channels only.

    Raises:
        ConfigurationError: The pre-processor fails, or does not return tiles.
    """
    if not isinstance(model.pre_processor, PreProcessor) or (transform := model.pre_processor.transform) is None:
        return
    expected = (1, CHANNELS, *tile_size)
    try:
        given = transform(torch.zeros(expected))
    except Exception as error:  # a transform may raise anything
        message = (
            f"The pre-processor of the model must accept tiles of {tile_size} pixels, but fails: {error}. Change it."
        )
        raise ConfigurationError(message) from error
    if tuple(given.shape) != expected or not given.is_floating_point():
        message = (
            f"The pre-processor of the model must return tiles of {CHANNELS} channels and {tile_size} pixels as "
            f"floats, but returns {' x '.join(map(str, given.shape[1:]))} (channels, height, width), {given.dtype}. "
            "Change model.init_args.pre_processor: Grayscale, for example, needs num_output_channels: 3."
        )
        raise ConfigurationError(message)
