"""Rules hold or say what is given and what to do."""

from __future__ import annotations

import pytest

from anomalib_tiled.ensemble.model_rules import (
    Rule,
    TrainingSetup,
    at_least,
    batches_of,
    enough_positions,
    exactly,
    images,
    more_images,
    multiple_of,
    not_below,
    patch_side,
    power_of_two,
    share,
    square,
    whole_patches,
)
from anomalib_tiled.grid import Size

LAYERS = {"layers": ["layer2", "layer3"], "positions": 64}


def setup(height: int, width: int, *, batch: int = 4, images: int | None = None, **arguments: object) -> TrainingSetup:
    return TrainingSetup(Size(height, width), arguments, batch, images)


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        (at_least(128), setup(128, 200)),
        (multiple_of(14), setup(56, 70)),
        (square(), setup(50, 50)),
        (power_of_two(), setup(64, 128)),
        (batches_of(1), setup(50, 50, batch=1)),
        (exactly(448, backbone="mcait"), setup(448, 448, backbone="mcait")),
        (exactly(448, backbone="mcait"), setup(64, 96, backbone="resnet18")),
        (not_below("patch_size"), setup(64, 80, patch_size=64)),
        (whole_patches("encoder"), setup(64, 96, encoder="vit_base_patch16_dinov3")),
        (whole_patches("encoder"), setup(63, 95, encoder="a name that does not tell")),
        (more_images("components"), setup(64, 64, images=17, components=16)),
        (more_images("components"), setup(64, 64, components=16)),
        (images(2), setup(64, 64, images=2)),
        (images(2), setup(64, 64)),
        (share("ratio"), setup(64, 96, ratio=1)),
        (enough_positions("layers", "positions"), setup(64, 64, **LAYERS)),
        (enough_positions("layers", "positions"), setup(128, 128, images=5, **LAYERS)),
        (enough_positions("layers", "positions"), setup(8, 8, layers=["blocks.3"], positions=64)),
    ],
)
def test_a_rule_that_holds_says_nothing(rule: Rule, given: TrainingSetup) -> None:
    assert rule.violation(given) is None


@pytest.mark.parametrize(
    ("rule", "given", "message"),
    [
        (
            at_least(128),
            setup(128, 96),
            "needs tiles of at least 128 x 128 pixels, but tiling.tile_size is 128 x 96. Set it to 128 x 128",
        ),
        (multiple_of(14), setup(64, 5), "multiples of 14 pixels, but tiling.tile_size is 64 x 5. Set it to 70 x 14"),
        (power_of_two(), setup(72, 100), "powers of two, but tiling.tile_size is 72 x 100. Set it to 64 x 128"),
        (square(), setup(40, 50), "needs square tiles, but tiling.tile_size is 40 x 50. Set it to 50 x 50"),
        (
            batches_of(1),
            setup(50, 50),
            "needs `train_batch_size: 1` of the data module, but it is 4. Set data.init_args.train_batch_size.",
        ),
        (
            exactly(448, backbone="mcait"),
            setup(64, 64, backbone="mcait"),
            "is 64 x 64. Set it to 448 x 448, for example. Or set another model.init_args.backbone.",
        ),
        (
            not_below("patch_size"),
            setup(64, 80, patch_size=80),
            "that is 80 and tiling.tile_size is 64 x 80. Set it to 80 x 80, for example. Or set model.init_args.p",
        ),
        (
            whole_patches("encoder"),
            setup(64, 100, encoder="vit_small_patch16"),
            "of the patch side of `encoder`, but that is 16 and tiling.tile_size is 64 x 100. Set it to 64 x 96",
        ),
        (
            more_images("components"),
            setup(64, 64, images=16, components=16),
            "more than `components` training images, but that is 16, and there are 16. Set model.init_args.components.",
        ),
        (
            images(2),
            setup(64, 64, images=1),
            "needs at least 2 training images, but it gets 1. Give the data module more normal images.",
        ),
        (share("ratio"), setup(64, 96, ratio=0), "needs a `ratio` between 0 and 1, but it is 0. Change it."),
        (share("ratio"), setup(64, 96, ratio=1.5), "but it is 1.5. Change it."),
        (
            enough_positions("layers", "positions"),
            setup(63, 97, images=6, **LAYERS),
            "feature maps of every training batch, but tiling.tile_size is 63 x 97, and the smallest batch of 2 has 56",
        ),
    ],
)
def test_a_rule_that_does_not_hold_says_what_to_do(rule: Rule, given: TrainingSetup, message: str) -> None:
    assert message in f"needs {rule.text}, but {rule.violation(given)}"


@pytest.mark.parametrize(
    ("encoder", "side"), [("vit_small_patch14_reg4_dinov2", 14), ("dinov3_vit_base_16", 16), ("resnet18", None)]
)
def test_the_side_of_a_patch_stands_in_the_name(encoder: str, side: int | None) -> None:
    assert patch_side(encoder) == side
