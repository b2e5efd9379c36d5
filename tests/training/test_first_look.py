"""What every tile would fail at is known before the first one is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anomalib.data import Folder
from torchvision.transforms import v2

from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.ensemble.supported_models import check_model
from anomalib_tiled.errors import ConfigurationError, TiledError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.training import preparation
from anomalib_tiled.training.first_look import check_augmentations, check_fresh_model

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
TILE = Size(64, 96)


def spec(model: str, **arguments: object) -> ClassSpec:
    """Name a small model."""
    return ClassSpec(f"anomalib.models.{model}", {"backbone": "resnet18", "pre_trained": False, **arguments})


def pre_processor(*transforms: str, **arguments: object) -> dict[str, object]:
    """Write a pre-processor down as a configuration does."""
    made = [{"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments} for name in transforms]
    return {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": made[0]}}


LAYERS = {
    "a list": (spec("Patchcore", layers=["layer2", "layer9"]), "layers", "layer9"),
    "the only one": (spec("Cflow", layers=["layer9"]), "layers", "layer9"),
    "one name": (spec("Dfm", layer="layer9"), "layer", "layer9"),
    "a model that cannot be made either": (spec("Padim", layers=["layer1", "layer9"]), "layers", "layer9"),
    "another backbone": (spec("Patchcore", layers=["layer1"], backbone="efficientnet_b0"), "layers", "layer1"),
    "a number": (spec("Rad", layers=[3, 12], backbone="vit_tiny_patch16_224"), "layers", 12),
}


@pytest.mark.parametrize(("model", "argument", "layer"), LAYERS.values(), ids=LAYERS)
def test_layers_that_a_backbone_lacks_are_named_with_those_that_it_has(
    model: ClassSpec, argument: str, layer: str | int
) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check_fresh_model(model, TILE)
    told, backbone = str(raised.value), model.init_args["backbone"]
    assert told.startswith(f"model.init_args.{argument} must name layers of {backbone}, which has no {layer!r}. ")
    assert f"Allowed: {'act1, layer1, layer2, layer3, layer4.' if backbone == 'resnet18' else 'blocks.0, '}" in told


def test_there_must_be_a_layer() -> None:
    message = r"model\.init_args\.layers must name a layer, but is \[\]\. Allowed: act1, layer1"
    with pytest.raises(ConfigurationError, match=message):
        check_fresh_model(spec("Patchcore", layers=[]), TILE)


def test_another_reason_against_a_model_stays_what_it_is() -> None:
    with pytest.raises(ConfigurationError, match=r"found 1000"):
        check_fresh_model(spec("Padim", layers=["layer1"], n_features=1000), TILE)
    with pytest.raises(ConfigurationError, match=r"Unknown model \(resnet999\)"):
        check_fresh_model(spec("Padim", layers=["layer1"], backbone="resnet999"), TILE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (pre_processor("Grayscale"), "returns 1 x 64 x 96 (channels, height, width), torch.float32. Change model.init"),
        (pre_processor("ToDtype", dtype="torch.uint8"), "returns 3 x 64 x 96 (channels, height, width), torch.uint8."),
    ],
)
def test_a_pre_processor_gives_tiles(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        check_fresh_model(spec("Patchcore", layers=["layer1"], pre_processor=given), TILE)
    told = str(raised.value)
    assert told.startswith(
        "The pre-processor of the model must return tiles of 3 channels and 64 x 96 pixels as floats"
    )
    assert message in told


@pytest.mark.parametrize(
    "model",
    [
        spec("Patchcore", layers=["layer1"], pre_processor=pre_processor("Grayscale", num_output_channels=3)),
        spec("Patchcore", layers=["layer1"], pre_processor=pre_processor("Resize", size=[32, 32])),
        spec("Patchcore", layers=["blocks.11"], backbone="vit_tiny_patch16_224"),
        spec("Rad", layers=[3, 11], backbone="vit_tiny_patch16_224"),
    ],
)
def test_what_a_model_can_work_with_passes(model: ClassSpec) -> None:
    check_fresh_model(model, TILE)


AUGMENTATIONS = {
    "another size": (v2.Resize([4, 4]), "Augmentations must keep the size of images, 8 x 12, but give 4 x 4. "),
    "other channels": (v2.Grayscale(), "Augmentations must keep the 3 channels of images, but give 1. "),
    "a crop that is too large": (
        v2.RandomCrop([20, 20]),
        "_augmentations of the data module must accept images of 8 x 12 pixels, but fail: ValueError: Required crop",
    ),
}


@pytest.mark.parametrize("subset", ["train", "val", "test"])
@pytest.mark.parametrize(("transform", "message"), AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_augmentations_give_images(datamodule: Folder, subset: str, transform: v2.Transform, message: str) -> None:
    split = split_once(datamodule)
    setattr(datamodule, f"{subset}_augmentations", transform)
    with pytest.raises(TiledError) as raised:
        check_augmentations(datamodule, split, GRID)
    assert message in str(raised.value)


def test_augmentations_that_draw_leave_what_is_drawn_later_alone(datamodule: Folder) -> None:
    split = split_once(datamodule)
    datamodule.train_augmentations = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.5), v2.RandomRotation(9)])
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    check_augmentations(datamodule, split, GRID)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("rate", [-1, 0, float("nan")])
@pytest.mark.parametrize(("model", "name"), [("Ganomaly", "lr"), ("Glass", "learning_rate")])
def test_a_learning_rate_is_positive(model: str, name: str, rate: float) -> None:
    given = ClassSpec(f"anomalib.models.{model}", {name: rate})
    with pytest.raises(ConfigurationError, match=rf"^model\.init_args\.{name} must be greater than 0, but is {rate}"):
        check_model(given, Size(64, 64), train_batch_size=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_batch_size": 0}, "train_batch_size must be at least 1"),
        ({"train_augmentations": {"class_path": "torchvision.transforms.v2.Grayscale"}}, "the 3 channels of images"),
    ],
)
def test_nothing_of_it_leaves_a_run_folder_behind(settings: Settings, change: dict[str, object], message: str) -> None:
    data = replace(settings.data, init_args={**settings.data.init_args, **change})
    with pytest.raises(TiledError, match=message):
        preparation.prepare(replace(settings, data=data))
    assert not list(Path(settings.default_root_dir).glob("*/*/v*"))
