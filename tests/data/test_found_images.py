from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_tiled.data.found_images import find_images
from anomalib_tiled.errors import DataError

IMAGES = ["b/2.png", "b/deep/1.JPG", "a.tif", "b/10.png"]
OTHERS = ["notes.txt", ".hidden.png", "b/.cache/1.png", "out/images/a.png"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*IMAGES, *OTHERS):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "data" / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


def found(folder: Path, *given: str, listed: tuple[str, ...] = ()) -> list[str]:
    return [
        path.relative_to(folder).as_posix() for path in find_images(given, listed, apart_from=folder / "out" / "images")
    ]


def test_a_folder_means_all_images_in_it_in_order(folder: Path) -> None:
    assert found(folder, str(folder)) == ["a.tif", "b/10.png", "b/2.png", "b/deep/1.JPG"]


def test_files_are_taken_as_they_are_named(folder: Path) -> None:
    assert found(folder, "notes.txt", "b/2.png", "a.tif") == ["notes.txt", "b/2.png", "a.tif"]


def test_each_image_is_found_once(folder: Path) -> None:
    assert found(folder, "b/2.png", "b", str(folder / "b" / "2.png")) == ["b/2.png", "b/10.png", "b/deep/1.JPG"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("b/*.png", ["b/10.png", "b/2.png"]),
        ("**/*.[jJ]*", ["b/deep/1.JPG"]),
        ("b/**", ["b/10.png", "b/2.png", "b/deep/1.JPG"]),
        ("*/dee*", ["b/deep/1.JPG"]),
        ("[ab].tif", ["a.tif"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    assert found(folder, pattern) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(folder: Path) -> None:
    (folder / "[1].png").touch()
    assert found(folder, "[1].png") == ["[1].png"]


def test_a_list_may_name_files_folders_patterns_and_what_has_gone(folder: Path) -> None:
    lines = ("b/deep\n", " a.tif \n", "\n", "gone.png\n", "b/1*.png")
    assert found(folder, "-", listed=lines) == ["b/deep/1.JPG", "a.tif", "gone.png", "b/10.png"]
    assert found(folder, "-", listed=("empty", "x*.png", "a.tif")) == ["empty", "x*.png", "a.tif"]


def test_the_folder_that_it_is_called_in_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batch [3]").mkdir()
    (tmp_path / "batch [3]" / "1.png").touch()
    monkeypatch.chdir(tmp_path / "batch [3]")
    assert found(tmp_path / "batch [3]", "*.png") == ["1.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("empty", "There must be images in .*empty or in folders in it, but there are none. Looked for .bmp, .jpeg"),
        ("gone.png", "--data must name files or folders that exist, but there is no .*gone.png"),
        ("*.gif", r"No image matches \*.gif. Put it in quotes"),
        ("-", "--data - reads a list of images, one in each line, from standard input, but the list is empty"),
        ("out", "There must be images outside the folder of the results, .*out/images, but there are none"),
    ],
)
def test_nothing_found_is_an_error(folder: Path, given: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(folder, given)
