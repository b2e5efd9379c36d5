"""The demonstration boards: drawn once, the same every time, with exact masks, and read as anomalib reads others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.data import boards as boards_module
from anomalib_tiled.data.board_defects import DEFECTS, VISIBLE, spoil
from anomalib_tiled.data.board_drawing import develop, photograph, populate
from anomalib_tiled.data.boards import BoardSettings, DemoBoards, Shot, draw_board, draw_shot, shots
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.data.board_drawing import Board

LIMITS = "There may be 100000 boards of 128 to 8192 pixels a side, but the settings give"
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


def test_image_does_not_depend_on_how_many_there_are_and_comes_out_the_same_again(drawn: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()  # an empty folder is drawn into
    module(few, train_images=1, normal_test_images=1, anomalous_test_images=6, seed=99).prepare_data()
    pictures = {name: content for name, content in files(few).items() if name.endswith(".png")}
    assert len(pictures) == 1 + 1 + 6 + 6
    assert pictures == {name: files(drawn)[name] for name in pictures}


def test_another_drawing_seed_gives_another_board(board: Board) -> None:
    other = draw_board(SETTINGS._replace(drawing_seed=8))
    assert other.layout != board.layout
    assert other.traces != board.traces


def test_images_that_are_there_are_not_drawn_again(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards_module, "_draw_folder", lambda *_: pytest.fail("drawn again"))
    module(drawn).prepare_data()


@pytest.mark.parametrize("kind", DEFECTS)
def test_masks_are_what_small_visible_defects_change_in_the_image(board: Board, kind: str) -> None:
    for seed in range(10):
        canvas = populate(board, np.random.default_rng(seed))
        without = develop(canvas)
        picture, mask = spoil(board, canvas, kind=kind, random=np.random.default_rng(seed))
        changes = np.abs(picture.astype(int) - without).max(axis=2)
        np.testing.assert_array_equal(changes > 0, mask)
        assert 10 <= mask.sum() <= 0.015 * mask.size
        assert changes[mask].min() >= VISIBLE
        assert changes[mask].mean() >= 4 * VISIBLE
        shots = [photograph(each, np.random.default_rng(seed)) for each in (picture, without)]
        np.testing.assert_array_equal((shots[0] != shots[1]).any(axis=2), mask)


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


def test_boards_need_not_be_square(tmp_path: Path) -> None:
    size = (320, 130)
    boards = module(tmp_path / "boards", image_size=size, train_images=1, anomalous_test_images=2)
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


def test_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def interrupted(board: Board, shot: Shot, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        if len(seen) == 4:
            assert len(list(tmp_path.rglob("*.png"))) == 4
            raise KeyboardInterrupt
        seen.append(shot)
        return draw_shot(board, shot, seed=seed)

    monkeypatch.setattr(boards_module, "draw_shot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module(tmp_path / "boards").prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_finish_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, few = tmp_path / "boards", {"image_size": 128, "train_images": 1, "anomalous_test_images": 1}

    def slower(board: Board, shot: Shot, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        monkeypatch.undo()
        module(root, **few).prepare_data()
        return draw_shot(board, shot, seed=seed)

    monkeypatch.setattr(boards_module, "draw_shot", slower)
    module(root, **few).prepare_data()
    assert len(files(root)) == 1 + 2 + 1 + 1 + 1
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (64, 512)}, f"{LIMITS} 12 of 64 x 512. Change image_size or the numbers of images."),
        ({"image_size": (8193, 512), "train_images": 10**6}, f"{LIMITS} 1000009 of 8193 x 512. Change image_size or"),
        ({"train_images": 0}, "train_images must be at least 1, but is 0. Raise train_images."),
        ({"drawing_seed": -1}, "drawing_seed must be at least 0, but is -1. Raise drawing_seed."),
    ],
)
def test_settings_that_cannot_be_drawn_are_an_error(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as raised:
        module(tmp_path / "boards", **changes)
    assert str(raised.value).startswith(message)
