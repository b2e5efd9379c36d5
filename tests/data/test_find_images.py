from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder
from PIL import Image, features
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.find_images import find_images
from anomalib_tiled.data.image_files import image_endings, size_of
from anomalib_tiled.data.images import read_image
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
    (tmp_path / "data" / "round").symlink_to("round")
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path / "data"


def found(folder: Path, *given: str, listed: tuple[str, ...] = ()) -> list[str]:
    return [
        path.relative_to(folder).as_posix()
        for path in find_images(given, listed, apart_from=[folder / "out" / "images", folder / "out" / "masks"])
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
        ("b/**.png", ["b/10.png", "b/2.png"]),
        ("**/*.[jJ]*", ["b/deep/1.JPG"]),
        ("b/**", ["b/10.png", "b/2.png", "b/deep/1.JPG"]),
        ("*/dee*", ["b/deep/1.JPG"]),
        ("[ab].tif", ["a.tif"]),
        (".hid*", [".hidden.png"]),
        ("b/.c*/*", ["b/.cache/1.png"]),
    ],
)
def test_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    assert found(folder, pattern) == found(folder, str(folder / pattern)) == expected


def test_files_and_first_folders_whose_names_look_like_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("[1].png", "run [1]/1.png", "run [1]/in?/2.png", "run 1/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert found(folder, "[1].png") == ["[1].png"]
    assert found(folder, "run [1]/*.png") == ["run [1]/1.png"]
    assert found(folder, "run [1]/in?/*.png") == found(folder, "run [1]/**/2.*") == ["run [1]/in?/2.png"]
    assert found(folder, "run [12]/*.png") == ["run 1/0.png"]
    monkeypatch.chdir(folder / "run [1]")
    assert found(folder, "*.png") == ["run [1]/1.png"]


def test_a_list_may_name_files_folders_patterns_and_what_has_gone(folder: Path) -> None:
    lines = ("\ufeffb/deep\n", "a.tif\r\n", "\n", "  \n", "gone.png\n", "b/1*.png")
    assert found(folder, "-", listed=lines) == ["b/deep/1.JPG", "a.tif", "gone.png", "b/10.png"]
    lines = ("empty", "x*.png", "~nobody_has_this_name/1.png", f"{'long' * 100}.png", "round", "round/1.png", "a.tif")
    assert found(folder, "-", listed=lines) == list(lines), "no line stops the others"


def test_blanks_in_a_list_belong_to_the_names_where_such_files_exist(folder: Path) -> None:
    assert found(folder, "-", listed=("  a.tif\n", "b/deep \n", "gone.png ")) == ["a.tif", "b/deep/1.JPG", "gone.png"]
    for name in (" a.tif", "a.tif "):
        (folder / name).touch()
    assert found(folder, "-", listed=(" a.tif\n", "a.tif \r\n", "a.tif")) == [" a.tif", "a.tif ", "a.tif"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("empty", "There must be images in .*empty or its subfolders, but there are none. Use one of .apng, .avif"),
        (
            "gone.png",
            r"--data must name files or folders that exist, but there is no .*gone\.png\. Correct the name, or the",
        ),
        ("*.gif", r"No image matches \*.gif. Quote it to keep"),
        ("-", "--data - reads a list with one image in each line from standard input, which is empty or closed"),
        ("out", "--data must name images apart from the pictures of predictions in .*out/images, .*out/masks"),
        ("", "--data must name files or folders, but one name is empty. Check for an unset shell"),
        ("~nobody_has_this_name/1.png", "that exist, but there is no .*/data/~nobody_has_this_name/1.png"),
        (f"{'long' * 100}.png", "that exist, but there is no .*long.png"),
        ("round", "that exist, but there is no .*/data/round"),
    ],
)
def test_nothing_found_is_an_error(folder: Path, given: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(folder, given)


@pytest.mark.parametrize("line", ["a" * 65_537, "a.tif\0b/2.png"])
def test_a_list_with_other_ends_of_lines_is_not_read_to_its_end(folder: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"more than 65536 characters\. If `find` wrote it, leave out -print0"):
        found(folder, "-", listed=(lines := iter(("1.png\n", line, "never read"))))
    assert next(lines) == "never read"


def test_a_list_that_cannot_be_read(folder: Path) -> None:
    def lines() -> Iterator[str]:
        yield "1.png\n"
        raise IsADirectoryError(21, "Is a directory")

    with pytest.raises(DataError, match=r"from standard input, which cannot be read: Is a directory\."):
        found(folder, "-", listed=lines())


@pytest.mark.parametrize("above", ["b/..", "../data", "empty/../b/../../data", "link/.."])
def test_paths_with_dots_are_the_paths_without(folder: Path, above: str) -> None:
    (folder / "link").symlink_to("b")
    names = ["b/2.png", f"{above}/b/2.png", f"{above}/b/*0.png", f"{above}/**/1*.png", f"{above}/b/../a.tif"]
    assert found(folder, *names) == ["b/2.png", "b/10.png", "a.tif"]


def test_links_to_folders_are_followed_and_circles_of_them_end(folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(folder / "out")
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "7.png").touch()
    links = {"b/self": ".", "b/up": "..", "b/deep/up": "../..", "b/deep/elsewhere": "../../../else"}
    for link, target in links.items():
        (folder / link).symlink_to(target)
    images = ["a.tif", "b/10.png", "b/2.png", "b/deep/1.JPG"]
    assert found(folder, str(folder)) == [*images, "b/deep/elsewhere/7.png"], "each once"
    assert found(folder, "**/*.*") == images, "but ** passes links over"
    assert found(folder, "b/d*/else*/*.png") == ["b/deep/elsewhere/7.png"]


def test_own_pictures_are_no_images_whatever_way_leads_to_them(folder: Path) -> None:
    (folder / "out" / "masks").mkdir()
    (folder / "out" / "masks" / "a.png").touch()
    (folder / "seen").symlink_to("out/masks")
    names = ["a.tif", "out", "out/masks/a.png", "b/../out/images/a.png", "seen", "seen/*", "b/deep/../../seen/a.png"]
    assert found(folder, *names[:1], "-", listed=tuple(names)) == ["a.tif"]
    with pytest.raises(DataError, match="apart from the pictures of predictions"):
        found(folder, *names[1:])


def test_all_else_in_the_folder_of_the_results_is_an_image(folder: Path) -> None:
    (folder / "out" / "maps").mkdir()
    for name in ("maps/m.tiff", "1.png"):
        (folder / "out" / name).touch()
    assert found(folder, "out", "a.tif") == ["out/1.png", "out/maps/m.tiff", "a.tif"]


def test_an_unreadable_folder_is_not_passed_over_in_silence(
    shared_folder: Path, forbidden: Callable[[Path], AbstractContextManager[None]]
) -> None:
    for name in ("1.png", "inner/2.png", "other/3.png"):
        (shared_folder / name).parent.mkdir(exist_ok=True)
        (shared_folder / name).touch()
    with forbidden(shared_folder / "inner"):
        assert found(shared_folder, str(shared_folder)) == ["1.png", "other/3.png", "inner"]
        with pytest.raises(DataError, match=r"inner cannot be read \(Permission denied\)"):
            size_of(shared_folder / "inner")
        with pytest.raises(DataError, match=r"that exist, but there is no .*/inner/2\.png\. "):
            found(shared_folder, str(shared_folder / "inner" / "2.png"))


def write(path: Path) -> bool:
    """Write an image in the first mode that its format takes; tell whether there is one."""
    for mode in ("RGB", "L", "P", "1", "F"):
        try:
            Image.fromarray(np.full((64, 64, 3), 99, np.uint8)).convert(mode).save(path)
        except (OSError, ValueError, KeyError):
            path.unlink(missing_ok=True)
        else:
            return True
    return False


@pytest.fixture
def every_ending(tmp_path: Path) -> list[Path]:
    """An image of every ending that Pillow can write too."""
    (tmp_path / "good").mkdir()
    for ending in image_endings():
        write(tmp_path / "good" / f"image{ending.upper() if ending == '.bmp' else ending}")
    for other in ("notes.txt", "scan.h5", "film.mpg", "drawing.eps", "drawing.ps", "report.pdf", "labels.json"):
        (tmp_path / "good" / other).write_text("no image")
    return sorted(path for path in (tmp_path / "good").iterdir() if path.stem == "image")


def test_training_and_prediction_find_every_ending_that_can_be_read(tmp_path: Path, every_ending: list[Path]) -> None:
    assert {".jp2", ".avif", ".webp", ".gif", ".tga", ".jfif", ".BMP"} <= {path.suffix for path in every_ending}
    assert find_images([str(tmp_path / "good")], [], apart_from=[]) == every_ending
    data = Folder("f", "good", tmp_path, test_split_mode="none", val_split_mode="none", num_workers=0)
    assert sorted(sample.image_path for sample in split_once(data).samples) == every_ending
    for path in every_ending:
        assert read_image(path, size := size_of(path)).shape == (*size, 3), path


def test_what_pillow_opens_but_does_not_decode_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(IMG_EXTENSIONS) < set(image_endings())
    assert not {".h5", ".grib", ".wmf", ".mpg", ".eps", ".pdf", ".txt"} & set(image_endings())
    monkeypatch.setattr(features, "check_codec", lambda name: name != "jpg_2000")
    assert ".jp2" not in image_endings.__wrapped__()
