"""Where parts lie: said of parts that lie elsewhere, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data, transform

from anomalib_tiled.data.boards import BoardSettings, Shot, draw_board, draw_shot
from anomalib_tiled.data.images import Pixels
from anomalib_tiled.data.placement import TrainedPlacement
from anomalib_tiled.errors import UnalignedError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.registration import Placement, rigid

SIZE = Size(256, 320)


def seen(right: float = 0, down: float = 0, degrees: float = 0, seed: int = 0) -> Pixels:
    """A photograph, moved, with noise."""
    photograph, noise = data.astronaut()[100:420, 60:440], np.random.default_rng(seed).normal(0, 3, (*SIZE, 3))
    moved = rigid(Placement(right, down, degrees), SIZE)
    middle = transform.AffineTransform(translation=(30, 32)).params  # so that the picture goes on outside
    image = transform.warp(photograph, middle @ np.linalg.inv(moved), output_shape=SIZE, preserve_range=True)
    return np.asarray((image + noise).clip(0, 255), np.uint8)


def tensor(image: Pixels) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def learned() -> TrainedPlacement:
    placement = TrainedPlacement.learn([seen(seed=seed) for seed in range(3)], SIZE)
    assert placement is not None
    return TrainedPlacement.from_bytes(placement.to_bytes())


def test_of_aligned_images_nothing_is_said(learned: TrainedPlacement) -> None:
    assert (learned.compared, learned.images) == (3, 3)
    assert learned.note() is None
    assert learned.remark("new.png", tensor(seen(seed=7))) is None


def test_a_shifted_and_turned_image_is_named(learned: TrainedPlacement) -> None:
    assert learned.remark(Path("new.png"), tensor(seen(-4, 3, 1.5, seed=7))) == (
        "new.png shows its part 5.0 pixels and 1.5 degrees from where the training images do, which differ by up to "
        "0.0 pixels and 0.0 degrees; its score is less reliable. A model per tile expects the same place. Set "
        "alignment: Rigid in a new run, or see docs/how-to.md."
    )


def test_training_images_that_lie_apart_are_noted_and_widen_what_is_expected() -> None:
    places = [(0, 0, 0), (6, 0, 0), (0, -8, 0), (0, 0, 2), (0, 0, -2)]
    placement = TrainedPlacement.learn([seen(*place, seed=seed) for seed, place in enumerate(places)], SIZE)
    assert placement is not None
    assert placement.note() == (
        "Parts lie up to 8.0 pixels and 2.0 degrees from the middle of their places in the training images (5 of 5 "
        "could be compared). A model per tile expects the same place. Set alignment: Rigid in a new run, or see "
        "docs/how-to.md."
    )
    assert placement.remark("new.png", tensor(seen(4, 3, 0.5, seed=9))) is None
    assert placement.remark("new.png", tensor(seen(16, 3, 0.5, seed=9))) is not None


@pytest.mark.parametrize("other", ["black", "texture", "another", "tiny details"])
def test_nothing_is_said_of_images_that_do_not_show_the_part(learned: TrainedPlacement, other: str) -> None:
    images = {
        "black": np.zeros((*SIZE, 3), np.uint8),
        "texture": data.gravel()[: SIZE.height, : SIZE.width, None].repeat(3, axis=2),
        "another": data.coffee()[:256, 100:420],
        "tiny details": np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8),
    }
    assert learned.remark("new.png", tensor(np.ascontiguousarray(images[other]))) is None


@pytest.mark.parametrize("name", ["brick", "grass"])
def test_textures_have_no_place(name: str) -> None:
    texture, random = getattr(data, name)()[..., None].repeat(3, axis=2), np.random.default_rng(0)
    corners = random.integers(0, 256, (5, 2))
    assert TrainedPlacement.learn([texture[top : top + 256, left : left + 256] for top, left in corners], SIZE) is None


def test_images_too_small_to_compare_have_no_place() -> None:
    assert TrainedPlacement.learn([np.zeros((8, 12, 3), np.uint8)] * 3, Size(8, 12)) is None


def test_demonstration_boards_lie_in_one_place() -> None:
    settings = BoardSettings(Size(256, 256), 3, 1, 1, drawing_seed=7)
    board = draw_board(settings)
    train, new = [Shot("train", "good", number) for number in range(3)], Shot("test", "good", 0)
    placement = TrainedPlacement.learn([draw_shot(board, shot, seed=7)[0] for shot in train], settings.image_size)
    assert placement is not None
    assert placement.note() is None
    assert placement.remark("new.png", tensor(draw_shot(board, new, seed=7)[0])) is None


def test_a_part_that_lies_where_training_images_have_it_is_found_without_a_search(
    learned: TrainedPlacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Pixels] = []

    def locate(image: Pixels, *_: object) -> None:
        searched.append(image)
        message = "nothing fits"
        raise UnalignedError(message)

    monkeypatch.setattr("anomalib_tiled.data.placement.locate", locate)
    assert learned.remark("still.png", tensor(seen(seed=7))) is None
    assert learned.remark("near.png", tensor(seen(-4, 3, 1, seed=7))) is not None
    assert not searched
    assert learned.remark("far.png", tensor(seen(-20, 15, 3, seed=7))) is None
    assert len(searched) == 1
