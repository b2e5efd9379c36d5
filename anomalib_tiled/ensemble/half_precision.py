"""Half precision: 16 bits where they do no harm, for `bfloat16` and `float16`.

    model                            in half precision
    its backbones from timm are      the backbones, in training and in predictions; what is learned of their features,
    frozen                           such as covariances and neighbours, stays in single precision
    any other                        all of the model in predictions, and Lightning's mixed precision in training

Weights stay in single precision, and so do checkpoints. What belongs to a model stays with it when it is copied, and
when the weights of another tile are loaded into it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeGuard, cast

import torch
from anomalib.models.components import TimmFeatureExtractor

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.ensemble.accelerated import CHANNELS_LAST, ChannelsLast
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system.hardware import processor_flags

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from anomalib.models.components import AnomalibModule
    from torch import nn

BFLOAT16, FLOAT16 = "bfloat16", "float16"

HALF = {BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}
"""The half precisions, by their names in settings."""

PRECISIONS = (FLOAT32, *HALF)
"""All precisions, by their names in settings."""

MIXED = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}
"""What Lightning's trainer calls them."""

WHOLE = "anomalib_tiled_half"
"""Attribute of a model that predicts in half precision as a whole: the type of its numbers."""

FAST = {"amx_bf16", "avx512_bf16", "bf16"}
"""Instructions for bfloat16; the last is that of ARM."""

EARLIEST_GPU = (8, 0)
"""The first compute capability of NVIDIA with instructions for bfloat16."""


class HalfBackbone(TimmFeatureExtractor):
    """A frozen backbone that computes in half precision; its features have single precision again."""

    half_type: torch.dtype

    def forward(self, inputs: torch.Tensor) -> dict[str | int, torch.Tensor]:
        """Extract features.

        Args:
            inputs: Shape (images, channels, height, width).

        Returns:
            The features of each layer, in the usual layout.
        """
        images = inputs.contiguous(memory_format=CHANNELS_LAST)
        with torch.autocast(inputs.device.type, self.half_type):
            features = super().forward(images)
        return {name: each.float().contiguous() for name, each in features.items()}


BACKBONES = (TimmFeatureExtractor, ChannelsLast, HalfBackbone)
"""Classes of backbones that may compute in another way; objects of other subclasses stay."""


def is_frozen(module: nn.Module) -> TypeGuard[TimmFeatureExtractor]:
    """Whether a module is a backbone from timm, of one of these classes, that is not trained.

    Args:
        module: The module.
    """
    return type(module) in BACKBONES and not module.requires_grad


def compute_in(model: AnomalibModule, precision: str) -> None:
    """Let a model compute in half precision, as the table of this module says.

    Args:
        model: The model.
        precision: ``float32`` changes nothing.
    """
    if (half := HALF.get(precision)) is None:
        return
    backbones = [each for each in model.modules() if isinstance(each, TimmFeatureExtractor)]
    if backbones and all(is_frozen(each) for each in backbones):
        for backbone in backbones:
            backbone.__class__ = HalfBackbone
            cast("HalfBackbone", backbone).half_type = half
    else:
        setattr(model, WHOLE, half)


def precision_of(backbone: TimmFeatureExtractor) -> str:
    """Give the precision that a frozen backbone computes in.

    Args:
        backbone: The backbone.
    """
    half = backbone.half_type if isinstance(backbone, HalfBackbone) else None
    return next((name for name, each in HALF.items() if each == half), FLOAT32)


def predicting(model: AnomalibModule, device: torch.device) -> AbstractContextManager[object]:
    """Let a model that computes in half precision as a whole predict inside.

    Args:
        model: The model.
        device: Where it predicts.
    """
    half: torch.dtype | None = getattr(model, WHOLE, None)
    return nullcontext() if half is None else torch.autocast(device.type, half)


def precision_of_trainer(model: AnomalibModule) -> str | None:
    """Give the precision of Lightning's trainer for a model; ``None`` for its default.

    Args:
        model: The model.
    """
    half: torch.dtype | None = getattr(model, WHOLE, None)
    return None if half is None else MIXED[half]


def remark_on(precision: str, device: torch.device) -> str | None:
    """Give a warning if a precision is slow on a device; ``None`` if it is not.

    Args:
        precision: The precision.
        device: Where models compute.

    Raises:
        ConfigurationError: It is of no use there.
    """
    if (reason := _reason_against(precision, device)) is not None:
        message = f"precision must be one that the device has, but is {precision}, and {reason}."
        raise ConfigurationError(message)
    flags = processor_flags() if precision == BFLOAT16 and device.type == "cpu" else None
    if flags is None or FAST & flags:
        return None
    return (
        f"This processor has no instructions for {BFLOAT16} (AVX512-BF16 or AMX), so it takes longer than float32. "
        "Set the precision to float32, unless you need the numbers of another machine."
    )


def _reason_against(precision: str, device: torch.device) -> str | None:
    """Say why a precision is of no use on a device, and what to do; ``None`` if it is of use."""
    if precision not in HALF:
        return None
    advice = "Set the precision to float32"
    if not torch.amp.is_autocast_available(device.type):
        return f"PyTorch computes in single precision alone on {device.type}. {advice}"
    if precision == FLOAT16 and device.type == "cpu":
        return f"it takes longer than float32 on a CPU. {advice}, or {BFLOAT16}"
    if precision == BFLOAT16 and device.type == "cuda":
        own = torch.cuda.get_device_capability(device)
        if own < EARLIEST_GPU:
            needed, found = (".".join(map(str, each)) for each in (EARLIEST_GPU, own))
            name = torch.cuda.get_device_name(device)
            return f"{name} has compute capability {found}, but {needed} is needed. {advice}, or {FLOAT16}"
    return None
