"""The demonstration boards: drawn once, the same every time, with exact masks, and read as anomalib reads others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_tiled.data import board_folder
from anomalib_tiled.data.board_defects import DEFECTS, VISIBLE, spoil
from anomalib_tiled.data.board_drawing import develop, populate
from anomalib_tiled.data.board_folder import BoardSettings, Shot, draw_board, draw_folder, draw_shot, shots
from anomalib_tiled.data.boards import DemoBoards
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.data.board_drawing import Board

SETTINGS = BoardSettings(Size(256, 256), 3, 2, 7, drawing_seed=7)


def module(root: Path, **changes: object) -> DemoBoards:
    arguments = {"image_size": 256, "train_images": 3, "normal_test_images": 2, "anomalous_test_images": 7}
    return DemoBoards(root, **{**arguments, **changes})


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def board() -> Board:
    return draw_board(SETTINGS)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boards") / "drawn"
    module(root).prepare_data()
    return root


def test_files_are_laid_out_like_mvtec_ad(drawn: Path) -> None:
    anomalous = [
        *("burnt_spot/000", "cut_trace/000", "missing_part/000", "missing_part/001"),
        *("scratch/000", "scratch/001", "solder_bridge/000"),
    ]
    assert sorted(files(drawn)) == sorted(
        [
            "boards.json",
            *(f"train/good/{number:03d}.png" for number in range(3)),
            *(f"test/good/{number:03d}.png" for number in range(2)),
            *(f"test/{name}.png" for name in anomalous),
            *(f"ground_truth/{name}_mask.png" for name in anomalous),
        ]
    )
    assert [path.name for path in drawn.parent.iterdir()] == ["drawn"]


def test_record_names_what_was_drawn(drawn: Path) -> None:
    assert json.loads((drawn / "boards.json").read_text()) == {
        "image_size": [256, 256],
        "train_images": 3,
        "normal_test_images": 2,
        "anomalous_test_images": 7,
        "drawing_seed": 7,
        "version": 1,
    }


def test_same_arguments_give_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    module(tmp_path / "again", seed=99).prepare_data()
    assert files(tmp_path / "again") == files(drawn)


def test_another_drawing_seed_gives_another_board(drawn: Path, tmp_path: Path) -> None:
    module(tmp_path / "other", drawing_seed=8).prepare_data()
    first, other = files(drawn), files(tmp_path / "other")
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first)


def test_image_does_not_depend_on_how_many_there_are(drawn: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    module(few, train_images=1, normal_test_images=1, anomalous_test_images=6).prepare_data()
    pictures = {name: content for name, content in files(few).items() if name.endswith(".png")}
    assert len(pictures) == 1 + 1 + 6 + 6
    assert pictures == {name: files(drawn)[name] for name in pictures}


def test_images_that_are_there_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> dict[Path, tuple[int, int]]:
        status = {path: path.stat() for path in tmp_path.rglob("*")}
        return {path: (each.st_ino, each.st_mtime_ns) for path, each in status.items()}

    module(tmp_path / "boards").prepare_data()
    before = written()
    monkeypatch.setattr(board_folder, "draw_shot", lambda *_, **__: pytest.fail("drawn again"))
    module(tmp_path / "boards").prepare_data()
    assert len(before) > 3 + 2 + 7 + 7
    assert written() == before


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("number", range(4))
def test_mask_is_what_the_defect_changes_in_the_image(board: Board, kind: str, number: int) -> None:
    shot = Shot("test", kind, number)
    image, mask = draw_shot(board, shot, seed=7)
    without, nothing = draw_shot(board, shot, seed=7, spoilt=False)
    np.testing.assert_array_equal((image != without).any(axis=2), mask)
    assert not nothing.any()


@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_are_small_and_visible(board: Board, kind: str) -> None:
    for seed in range(20):
        canvas = populate(board, np.random.default_rng(seed))
        picture, mask = spoil(board, canvas, kind=kind, random=np.random.default_rng(seed))
        changes = np.abs(picture.astype(int) - develop(canvas)).max(axis=2)
        assert 10 <= mask.sum() <= 0.015 * mask.size
        assert changes[mask].min() >= VISIBLE
        assert changes[mask].mean() >= 4 * VISIBLE


def test_saved_masks_are_black_and_white_and_fit_the_images(drawn: Path, board: Board) -> None:
    for shot in shots(SETTINGS)[5:]:
        with Image.open(drawn / "ground_truth" / shot.label / f"{shot.number:03d}_mask.png") as saved:
            expected = draw_shot(board, shot, seed=7)[1]
            np.testing.assert_array_equal(np.asarray(saved), np.where(expected, 255, 0))


def test_normal_images_are_aligned_but_not_equal(board: Board) -> None:
    images = [draw_shot(board, shot, seed=7)[0].astype(float) for shot in shots(SETTINGS)[:5]]
    mean = np.mean(images, axis=0)
    for image in images:
        assert 1 < np.abs(image - mean).mean() < 12
        assert correlation(image, mean) > 0.9
        assert correlation(np.roll(image, 8, axis=1), mean) < 0.6


def correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_every_tile_has_structure(board: Board) -> None:
    picture = develop(board.bare).astype(float).mean(axis=2)
    populated = develop(populate(board, np.random.default_rng(0))).astype(float).mean(axis=2)
    for rows in range(0, 256, 64):
        for columns in range(0, 256, 64):
            tile = np.s_[rows : rows + 64, columns : columns + 64]
            assert populated[tile].std() > 10
            assert np.abs(populated[tile] - picture[tile]).mean() > 3


@pytest.mark.parametrize("size", [(192, 320), (320, 130)])
def test_boards_need_not_be_square(tmp_path: Path, size: tuple[int, int]) -> None:
    boards = module(tmp_path / "boards", image_size=size)
    boards.prepare_data()
    boards.setup()
    assert boards.train_data[0].image.shape == (3, *size)
    assert boards.test_data[0].gt_mask.shape == size


def test_samples_are_those_of_other_data_modules(drawn: Path) -> None:
    boards = module(drawn, val_split_mode="same_as_test")
    boards.prepare_data()
    boards.setup()
    train, test = boards.train_data.samples, boards.test_data.samples
    assert {"image_path", "label", "label_index", "mask_path", "split"} <= set(test.columns)
    assert (len(train), set(train.label_index), set(train.split)) == (3, {0}, {"train"})
    assert (len(test), test.label_index.sum(), set(test.split)) == (9, 7, {"test"})
    assert set(test.label) == {"good", *DEFECTS}
    assert test.attrs["task"] == "segmentation"
    assert (boards.name, boards.category, len(boards.val_data)) == ("DemoBoards", "", 9)


def test_validation_images_are_set_aside_from_the_test_images(drawn: Path) -> None:
    boards = module(drawn, seed=0)
    boards.setup()
    validation, test = set(boards.val_data.samples.image_path), set(boards.test_data.samples.image_path)
    assert not validation & test
    assert len(validation | test) == 9
    assert set(boards.val_data.samples.label_index) == set(boards.test_data.samples.label_index) == {0, 1}


def test_items_carry_image_label_and_mask(drawn: Path, board: Board) -> None:
    boards = module(drawn, val_split_mode="none")
    boards.setup()
    items = {str(item.image_path).removeprefix(str(drawn)): item for item in boards.test_data}
    for shot in shots(SETTINGS)[3:]:
        item = items[f"/test/{shot.label}/{shot.number:03d}.png"]
        image, mask = draw_shot(board, shot, seed=7)
        torch.testing.assert_close(item.image, torch.from_numpy(image).permute(2, 0, 1) / 255)
        assert item.gt_label == (shot.label != "good")
        np.testing.assert_array_equal(item.gt_mask.numpy(), mask)


def test_boards_of_other_settings_are_an_error(drawn: Path) -> None:
    before = files(drawn)
    with pytest.raises(DataError) as raised:
        module(drawn, image_size=(256, 512), drawing_seed=1).prepare_data()
    assert str(raised.value) == (
        f"{drawn} must hold boards with the requested settings, but has others: "
        "image_size is [256, 256] there, not [256, 512]; drawing_seed is 7 there, not 1. "
        "Give another root, or delete the folder to draw it again."
    )
    assert files(drawn) == before


@pytest.mark.parametrize("name", ["holiday.jpg", "boards.json"])
def test_folder_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("not ours")
    with pytest.raises(DataError) as raised:
        module(tmp_path).prepare_data()
    assert str(raised.value) == (
        f"Boards need a new or empty folder, but {tmp_path} holds something else, "
        "without a readable boards.json. Give another root."
    )
    assert files(tmp_path) == {name: b"not ours"}


def test_empty_folder_is_drawn_into(tmp_path: Path) -> None:
    module(tmp_path, anomalous_test_images=1).prepare_data()
    assert (tmp_path / "test" / "scratch" / "000.png").is_file()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    seen = []

    def interrupted(board: Board, shot: Shot, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if len(seen) == 4:
            assert len(list(tmp_path.rglob("*.png"))) == 4
            raise interruption
        seen.append(shot)
        return draw_shot(board, shot, seed=seed)

    monkeypatch.setattr(board_folder, "draw_shot", interrupted)
    with pytest.raises(interruption):
        module(tmp_path / "boards").prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_finish_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, settings = tmp_path / "boards", replace(SETTINGS, anomalous_test_images=1)

    def slower(board: Board, shot: Shot, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        monkeypatch.undo()
        draw_folder(root, settings)
        return draw_shot(board, shot, seed=seed)

    monkeypatch.setattr(board_folder, "draw_shot", slower)
    draw_folder(root, settings)
    assert len(files(root)) == 3 + 2 + 1 + 1 + 1
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": (64, 512)},
            "Boards must be at least 128 pixels high and wide, but image_size is 64 x 512. Raise image_size.",
        ),
        (
            {"train_images": 10**6, "image_size": (8193, 512)},
            (
                "There may be 100000 boards of at most 8192 pixels a side, but the settings give 1000009 of 8193 x "
                "512. Lower image_size or the numbers of images."
            ),
        ),
        ({"train_images": 0}, "train_images must be at least 1, but is 0. Raise train_images."),
        ({"drawing_seed": -1}, "drawing_seed must be at least 0, but is -1. Raise drawing_seed."),
    ],
)
def test_settings_that_cannot_be_drawn_are_an_error(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as raised:
        module(tmp_path / "boards", **changes)
    assert str(raised.value) == message
