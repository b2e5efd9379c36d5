"""Which models work with tiles: derived from their class where possible, else from one table.

No other module of the package names a model. docs/models.md is written from this module, and
tests/commands/test_models.py runs the trials.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from anomalib.models.components import AnomalibModule
from lightning.pytorch import LightningModule

from anomalib_tiled.ensemble.model_rules import (
    Rule,
    TrainingSetup,
    at_least,
    batches_of,
    encoder_if_subsampled,
    enough_patches,
    enough_positions,
    exactly,
    first_layer,
    images,
    more_images,
    multiple_of,
    not_below,
    power_of_two,
    something_left,
    square,
    whole_patches,
)
from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import ClassSpec, Plain
    from anomalib_tiled.grid import Size

IMAGE_MODELS, VIDEO_MODELS = "anomalib.models.image.", "anomalib.models.video."
"""Modules of anomalib's classes; a class of the same name in another module is another class."""


@dataclass(frozen=True)
class Trial:
    """A small ensemble that the slow tests fit, test and load again.

    Args:
        tile_size: Height and width of the tiles in pixels.
        init_args: Arguments of the model, chosen to be small.
        substituted: Files that random ones replace in the trial; "" if nothing is downloaded with these arguments.
        train_batch_size: Tiles in a training batch.
    """

    tile_size: tuple[int, int]
    init_args: Mapping[str, Plain] = field(default_factory=dict)
    substituted: str = ""
    train_batch_size: int = 4


@dataclass(frozen=True)
class Support:
    """Facts about a model that its class does not show.

    Args:
        trial: How tests try it with tiles; ``None`` if they do not.
        reason: Why it cannot be used with tiles; "" if it can.
        rules: Requirements on tiles and settings.
        needs: Files that it downloads or reads besides the images.
        not_exported: Why it cannot be exported; "" if it can.
        not_onnx: Why it cannot be exported by way of ONNX; "" if it can.
    """

    trial: Trial | None = None
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
SMALL = {"pre_trained": False, "backbone": "resnet18"}
SMALL_PATCHES_OF_14 = "vit_small_patch14_dinov2"
SMALL_PATCHES_OF_16 = "vit_small_patch16_dinov3"

SUPPORT: Mapping[str, Support] = {
    "AnomalyDINO": Support(
        Trial((60, 72), substituted=ENCODER),
        rules=(something_left("sampling_ratio", encoder_if_subsampled),),
        needs=ENCODER,
    ),
    "CFM": Support(reason="it needs a point cloud or a depth map of each image, and tiles are cut from colours only"),
    "Cfa": Support(Trial((72, 72), {"backbone": "resnet18"}, BACKBONE), rules=(square(),), needs=BACKBONE),
    "Cflow": Support(
        Trial((72, 100), SMALL | {"coupling_blocks": 1, "fiber_batch_size": 4}),
        rules=(enough_positions("layers", "fiber_batch_size"),),
        needs=BACKBONE_IF_PRE_TRAINED,
        not_exported="it moves its decoders to a device each time it predicts",
    ),
    "Csflow": Support(
        Trial((128, 128), {"cross_conv_hidden_channels": 16, "n_coupling_blocks": 1}, BACKBONE),
        rules=(multiple_of(128),),
        needs=BACKBONE,
    ),
    "Dfkde": Support(
        Trial((64, 80), SMALL | {"n_pca_components": 2}),
        rules=(more_images("n_pca_components"),),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "Dfm": Support(Trial((72, 100), SMALL), rules=(images(2),), needs=BACKBONE_IF_PRE_TRAINED),
    "Dinomaly": Support(
        Trial((56, 70), {"encoder_name": SMALL_PATCHES_OF_14}, ENCODER),
        rules=(whole_patches("encoder_name"),),
        needs=ENCODER,
    ),
    "Draem": Support(
        Trial((32, 64), substituted="textures", train_batch_size=2),
        rules=(multiple_of(32),),
        needs="textures (DTD) in `dtd_dir`",
    ),
    "Dsr": Support(
        Trial((64, 64), substituted="weights of the encoder", train_batch_size=2),
        rules=(multiple_of(8),),
        needs="weights of the encoder",
        not_onnx="its score is a mean over a window that reaches beyond the tile, which onnxruntime computes otherwise",
    ),
    "EfficientAd": Support(
        Trial((256, 256), substituted="weights of the teacher, and images", train_batch_size=1),
        rules=(at_least(256), batches_of(1)),
        needs="weights of the teacher; images (Imagenette) in `imagenet_dir`",
    ),
    "Fastflow": Support(
        Trial((64, 80), SMALL | {"flow_steps": 1}),
        rules=(
            multiple_of(16),
            exactly(448, backbone="cait_m48_448"),
            exactly(384, backbone="deit_base_distilled_patch16_384"),
        ),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "FoundAD": Support(
        Trial((56, 56), {"encoder_name": "dinov2_vit_small_14", "pred_depth": 1}, ENCODER),
        rules=(square(), whole_patches("encoder_name")),
        needs=ENCODER,
    ),
    "Fre": Support(
        Trial((64, 64), SMALL | {"input_dim": 1024, "latent_dim": 16}),
        rules=(exactly(256, input_dim=65536, backbone="resnet50", layer="layer3", pooling_kernel_size=2),),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "Ganomaly": Support(Trial((64, 64), {"n_features": 8}), rules=(square(), power_of_two())),
    "GeneralAD": Support(
        Trial((56, 56), {"pre_trained": False, "backbone": SMALL_PATCHES_OF_14, "layers": [12], "hidden_dim": 64}),
        rules=(square(), enough_patches("backbone", "top_k")),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "Glass": Support(
        Trial((64, 80), {"backbone": "resnet18"}, f"{BACKBONE}, and textures", train_batch_size=2),
        needs=f"{BACKBONE}; textures in `anomaly_source_path`, if given",
    ),
    "InpFormer": Support(
        Trial((56, 70), {"encoder_name": SMALL_PATCHES_OF_14}, ENCODER),
        rules=(whole_patches("encoder_name"),),
        needs=ENCODER,
    ),
    "L2BT": Support(Trial((42, 56), substituted=f"{ENCODER}, a narrower one"), rules=(multiple_of(14),), needs=ENCODER),
    "MHPatchcore": Support(Trial((72, 100), SMALL), needs=BACKBONE_IF_PRE_TRAINED),
    "Padim": Support(
        Trial((72, 100), SMALL | {"layers": ["layer1"], "n_features": 10}),
        rules=(images(2),),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "Patchcore": Support(
        Trial((72, 100), SMALL | {"layers": ["layer2"]}),
        rules=(something_left("coreset_sampling_ratio", first_layer),),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "Patchflow": Support(Trial((72, 100), SMALL), needs=BACKBONE_IF_PRE_TRAINED),
    "Rad": Support(
        Trial((64, 80), {"pre_trained": False, "backbone": SMALL_PATCHES_OF_16}),
        rules=(whole_patches("backbone"),),
        needs=BACKBONE_IF_PRE_TRAINED,
    ),
    "ReverseDistillation": Support(Trial((64, 96), SMALL), rules=(multiple_of(32),), needs=BACKBONE_IF_PRE_TRAINED),
    "Stfpm": Support(Trial((72, 100), substituted=BACKBONE), needs=BACKBONE),
    "SuperADD": Support(
        Trial((64, 80), {"backbone": SMALL_PATCHES_OF_16, "patch_size": 64}, BACKBONE),
        rules=(not_below("patch_size"),),
        needs=BACKBONE,
    ),
    "Supersimplenet": Support(
        Trial((72, 100), {"backbone": "resnet18"}, BACKBONE),
        rules=(at_least(65),),
        needs=BACKBONE,
    ),
    "Uflow": Support(
        Trial((64, 96), {"backbone": "resnet18", "flow_steps": 1}, BACKBONE),
        rules=(multiple_of(16), exactly(448, backbone="mcait")),
        needs=BACKBONE,
    ),
    "UniNet": Support(
        Trial((64, 64), {"student_backbone": "wide_resnet50_2", "teacher_backbone": "wide_resnet50_2"}, BACKBONE),
        rules=(multiple_of(32),),
        needs=BACKBONE,
    ),
}
"""Facts about anomalib's models, by the name of the class; a class that is not listed has no special needs."""


def check_model(spec: ClassSpec, tile_size: Size, *, train_batch_size: int, train_images: int | None = None) -> None:
    """Refuse a model that cannot work with tiles, or not with these tiles, without making it.

    Args:
        spec: Class and arguments.
        tile_size: Height and width of the tiles in pixels.
        train_batch_size: Tiles in a training batch.
        train_images: Number of training images; ``None`` while it is not known.

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
    for rule in support_of(model_class).rules:
        rule.check(model_class.__name__, setup)


def check_export(spec: ClassSpec, *, by_onnx: bool) -> None:
    """Refuse to export a model that cannot become a graph, without making it.

    Args:
        spec: Class and arguments.
        by_onnx: Whether the format is ONNX or converted from it.

    Raises:
        ConfigurationError: The model cannot be exported.
    """
    model_class, _ = cast("tuple[type[AnomalibModule], dict[str, Plain]]", spec.build(AnomalibModule, _read))
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
