"""Which models work with tiles: derived from their class where possible, else from one table.

No other module of the package names a model. docs/models.md is written from this module.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from anomalib.models.components import AnomalibModule
from lightning.pytorch import LightningModule

from anomalib_tiled.config.settings import ClassSpec, Plain
from anomalib_tiled.ensemble import model_rules as rule
from anomalib_tiled.ensemble.model_rules import Rule, TrainingSetup
from anomalib_tiled.ensemble.tile_model import class_of
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size

IMAGE_MODELS, VIDEO_MODELS = "anomalib.models.image.", "anomalib.models.video."
"""Modules of anomalib's classes; a class of the same name in another module is another class."""


@dataclass(frozen=True)
class Support:
    """Facts about a model that its class does not show.

    Args:
        reason: Why it cannot be used with tiles; "" if it can.
        rules: Requirements on tiles and settings.
        needs: Files that it downloads or reads besides the images.
        not_exported: Why it cannot be exported; "" if it can.
        not_onnx: Why it cannot be exported by way of ONNX; "" if it can.
    """

    reason: str = ""
    rules: tuple[Rule, ...] = ()
    needs: str = ""
    not_exported: str = ""
    not_onnx: str = ""


LEARNING_RATES = ("lr", "learning_rate")
"""Arguments of models for their learning rate."""

BACKBONE = "weights of the backbone"
BACKBONE_IF_PRE_TRAINED = "weights of the backbone, unless `pre_trained: false`"
ENCODER = "weights of the encoder"

SUPPORT: Mapping[str, Support] = {
    "AnomalyDINO": Support(rules=(rule.share("sampling_ratio"),), needs=ENCODER),
    "CFM": Support(reason="it needs a point cloud or a depth map of each image, and tiles are cut from colours only"),
    "Cfa": Support(rules=(rule.square(),), needs=BACKBONE),
    "Cflow": Support(
        rules=(rule.enough_positions("layers", "fiber_batch_size"),),
        needs=BACKBONE_IF_PRE_TRAINED,
        not_exported="it moves its decoders to a device each time it predicts",
    ),
    "Csflow": Support(rules=(rule.multiple_of(128),), needs=BACKBONE),
    "Dfkde": Support(rules=(rule.more_images("n_pca_components"),), needs=BACKBONE_IF_PRE_TRAINED),
    "Dfm": Support(rules=(rule.images(2),), needs=BACKBONE_IF_PRE_TRAINED),
    "Dinomaly": Support(rules=(rule.whole_patches("encoder_name"),), needs=ENCODER),
    "Draem": Support(rules=(rule.multiple_of(32),), needs="textures (DTD) in `dtd_dir`"),
    "Dsr": Support(
        rules=(rule.multiple_of(8),),
        needs="weights of the encoder",
        not_onnx="its score is a mean over a window that reaches beyond the tile, which onnxruntime computes otherwise",
    ),
    "EfficientAd": Support(
        rules=(rule.at_least(256), rule.batches_of(1)),
        needs="weights of the teacher; images (Imagenette) in `imagenet_dir`",
    ),
    "Fastflow": Support(
        rules=(
            rule.multiple_of(16),
            rule.exactly(448, backbone="cait_m48_448"),
            rule.exactly(384, backbone="deit_base_distilled_patch16_384"),
        ),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "FoundAD": Support(rules=(rule.square(), rule.whole_patches("encoder_name")), needs=ENCODER),
    "Fre": Support(
        rules=(rule.exactly(256, input_dim=65536, backbone="resnet50", layer="layer3", pooling_kernel_size=2),),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "Ganomaly": Support(rules=(rule.square(), rule.power_of_two())),
    "GeneralAD": Support(rules=(rule.square(),), needs=BACKBONE_IF_PRE_TRAINED),
    "Glass": Support(needs=f"{BACKBONE}; textures in `anomaly_source_path`, if given"),
    "InpFormer": Support(rules=(rule.whole_patches("encoder_name"),), needs=ENCODER),
    "L2BT": Support(rules=(rule.multiple_of(14),), needs=ENCODER),
    "MHPatchcore": Support(needs=BACKBONE_IF_PRE_TRAINED),
    "Padim": Support(rules=(rule.images(2),), needs=BACKBONE_IF_PRE_TRAINED),
    "Patchcore": Support(rules=(rule.share("coreset_sampling_ratio"),), needs=BACKBONE_IF_PRE_TRAINED),
    "Patchflow": Support(needs=BACKBONE_IF_PRE_TRAINED),
    "Rad": Support(rules=(rule.whole_patches("backbone"),), needs=BACKBONE_IF_PRE_TRAINED),
    "ReverseDistillation": Support(rules=(rule.multiple_of(32),), needs=BACKBONE_IF_PRE_TRAINED),
    "Stfpm": Support(needs=BACKBONE),
    "SuperADD": Support(rules=(rule.not_below("patch_size"),), needs=BACKBONE),
    "Supersimplenet": Support(rules=(rule.at_least(65),), needs=BACKBONE),
    "Uflow": Support(rules=(rule.multiple_of(16), rule.exactly(448, backbone="mcait")), needs=BACKBONE),
    "UniNet": Support(rules=(rule.multiple_of(32),), needs=BACKBONE),
}
"""Facts about anomalib's models, by the name of the class; a class that is not listed has no special needs."""


def check_model(spec: ClassSpec, tile_size: Size, *, train_batch_size: int, train_images: int | None = None) -> None:
    """Refuse a model that cannot work with tiles, or not with these tiles, without making it.

    Raises:
        ConfigurationError: The model cannot work with them.
    """
    model_class, arguments = cast("tuple[type[AnomalibModule], dict[str, Plain]]", spec.build(AnomalibModule, _read))
    if reason := reason_against(model_class):
        message = f"{model_class.__name__} cannot be used with tiles: {reason}. Choose another model."
        raise ConfigurationError(message)
    for name in LEARNING_RATES:
        if isinstance(given := arguments.get(name), (int, float)) and not given > 0:
            message = f"model.init_args.{name} must be greater than 0, but is {given}."
            raise ConfigurationError(message)
    setup = TrainingSetup(tile_size, _defaults(model_class) | arguments, train_batch_size, train_images)
    for each in support_of(model_class).rules:
        if given := each.violation(setup):
            message = f"{model_class.__name__} needs {each.text}, but {given}"
            raise ConfigurationError(message)


def check_export(spec: ClassSpec, *, by_onnx: bool) -> None:
    """Refuse to export a model that cannot become a graph, or not by way of ONNX, without making it.

    Raises:
        ConfigurationError: The model cannot be exported.
    """
    model_class = class_of(spec)
    known, name = support_of(model_class), model_class.__name__
    if known.not_exported:
        message = (
            f"{name} cannot be exported in any format: {known.not_exported}. "
            "Choose another model, or predict with `anomalib tiled predict`."
        )
        raise ConfigurationError(message)
    if by_onnx and known.not_onnx:
        message = f"{name} cannot be exported by way of ONNX: {known.not_onnx}. Export it with --format torch."
        raise ConfigurationError(message)


def reason_against(model_class: type[AnomalibModule]) -> str | None:
    """Say why a model cannot be used with tiles; ``None`` if it can."""
    if any(each.__module__.startswith(VIDEO_MODELS) for each in model_class.__mro__):
        return "it looks at the frames of a video, not at images"
    if listed := support_of(model_class).reason:
        return listed
    if model_class.training_step is LightningModule.training_step:
        return "it is not trained, so there is nothing that each tile location could learn"
    return None


def support_of(model_class: type[AnomalibModule]) -> Support:
    """Give the entry of a class; a subclass of a listed class inherits its entry."""
    of_anomalib = (each for each in model_class.__mro__ if each.__module__.startswith(IMAGE_MODELS))
    return next((SUPPORT[each.__name__] for each in of_anomalib if each.__name__ in SUPPORT), Support())


def _defaults(model_class: type[AnomalibModule]) -> dict[str, Plain]:
    """Give the defaults of all arguments, also of its base classes."""
    parameters = {
        name: parameter
        for each in reversed(model_class.__mro__)
        if "__init__" in vars(each)
        for name, parameter in inspect.signature(vars(each)["__init__"]).parameters.items()
    }
    return {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}


def _read(model_class: type[AnomalibModule], **arguments: Any) -> object:  # noqa: ANN401  # the model's own
    return model_class, arguments
