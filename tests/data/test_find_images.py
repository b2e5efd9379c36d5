from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomalib_tiled.data.find_images import find_images
from anomalib_tiled.data.images import size_of
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
    lines = ("b/deep\n", "a.tif\r\n", "\n", "  \n", "gone.png\n", "b/1*.png")
    assert found(folder, "-", listed=lines) == ["b/deep/1.JPG", "a.tif", "gone.png", "b/10.png"]
    assert found(folder, "-", listed=("empty", "x*.png", "a.tif")) == ["empty", "x*.png", "a.tif"]


def test_blanks_in_a_list_belong_to_the_names(folder: Path) -> None:
    for name in (" a.tif", "a.tif "):
        (folder / name).touch()
    assert found(folder, "-", listed=(" a.tif\n", "a.tif \r\n", "a.tif")) == [" a.tif", "a.tif ", "a.tif"]


def test_blanks_that_belong_to_no_name_are_left_out(folder: Path) -> None:
    assert found(folder, "-", listed=("  a.tif\n", "b/deep \n", "gone.png ")) == ["a.tif", "b/deep/1.JPG", "gone.png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("run [1]/*.png", ["run [1]/1.png"]),
        ("run [1]/in*/[23].png", ["run [1]/in?/2.png"]),
        ("run [1]/in?/*.png", ["run [1]/in?/2.png"]),
        ("run [12]/*.png", ["run 1/0.png"]),
        ("**/run [1]/**/2.*", ["run [1]/in?/2.png"]),
    ],
)
def test_folders_of_a_pattern_whose_names_look_like_patterns(folder: Path, pattern: str, expected: list[str]) -> None:
    for name in ("run [1]/1.png", "run [1]/in?/2.png", "run 1/0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert found(folder, pattern) == found(folder, str(folder / pattern)) == expected


def test_the_folder_that_it_is_called_in_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batch [3]").mkdir()
    (tmp_path / "batch [3]" / "1.png").touch()
    monkeypatch.chdir(tmp_path / "batch [3]")
    assert found(tmp_path / "batch [3]", "*.png") == ["1.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("empty", "There must be images in .*empty or its subfolders, but there are none. Use one of .apng, .avif"),
        ("gone.png", "--data must name files or folders that exist, but there is no .*gone.png"),
        ("*.gif", r"No image matches \*.gif. Quote it to keep"),
        ("-", "--data - reads a list with one image in each line from standard input, which is empty or closed"),
        ("out", "--data must name images apart from the pictures of predictions in .*out/images, .*out/masks"),
        ("", "--data must name files or folders, but one name is empty. Check for an unset shell"),
        ("~nobody_has_this_name/1.png", "that exist, but there is no .*/data/~nobody_has_this_name/1.png"),
        (f"{'long' * 100}.png", "--data must name files or folders that can be read, but .*long.png cannot: File name"),
        ("round", "--data must name files or folders that exist, but there is no .*/data/round"),
    ],
)
def test_nothing_found_is_an_error(folder: Path, given: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        found(folder, given)


def test_a_line_without_end_is_not_read_to_its_end(folder: Path) -> None:
    with pytest.raises(DataError, match="a line is longer than 65536 characters"):
        found(folder, "-", listed=("1.png\n", "a" * 65_537, "never read"))


def test_a_list_that_cannot_be_read(folder: Path) -> None:
    def lines() -> Iterator[str]:
        yield "1.png\n"
        raise IsADirectoryError(21, "Is a directory")

    with pytest.raises(DataError, match=r"from standard input, which cannot be read: Is a directory\."):
        found(folder, "-", listed=lines())


def test_what_of_the_list_has_no_end_of_line_is_reported(folder: Path) -> None:
    with pytest.raises(DataError, match=r"it holds zero bytes\. Leave -print0 out"):
        found(folder, "-", listed=("a.tif\0b/2.png",))


@pytest.mark.parametrize("line", ["", "~nobody_has_this_name/1.png", f"{'long' * 100}.png", "round", "round/1.png"])
def test_no_line_of_a_list_stops_the_others(folder: Path, line: str) -> None:
    assert found(folder, "-", listed=("a.tif", f"{line}\n", "b/2.png")) == ["a.tif", *filter(None, [line]), "b/2.png"]


def test_a_byte_order_mark_is_not_part_of_the_first_name(folder: Path) -> None:
    assert found(folder, "-", listed=("\ufeffa.tif\n", "b/2.png\n")) == ["a.tif", "b/2.png"]


@pytest.mark.parametrize("above", ["b/..", "../data", "empty/../b/../../data", "link/.."])
def test_paths_with_dots_are_the_paths_without(folder: Path, above: str) -> None:
    (folder / "link").symlink_to("b")
    names = ["b/2.png", f"{above}/b/2.png", f"{above}/b/*0.png", f"{above}/**/1*.png", f"{above}/b/../a.tif"]
    assert found(folder, *names) == ["b/2.png", "b/10.png", "a.tif"]


def test_dots_after_a_link_lead_to_where_the_link_leads(folder: Path) -> None:
    (folder / "link").symlink_to("b/deep")
    (folder / "b" / "deep" / "er").mkdir()
    names = ["link/../2.png", "link/1.JPG", "link/er/../1.JPG"]
    assert found(folder, *names) == ["b/2.png", "link/1.JPG"], "links stay otherwise"


@pytest.mark.parametrize("pattern", ["", "**", "**/*.*", "*"])
def test_links_that_lead_in_a_circle_have_an_end(folder: Path, pattern: str) -> None:
    shutil.rmtree(folder / "out")
    for link, target in {
        "b/self": ".",
        "b/up": "..",
        "b/deep/up": "../..",
        "a link": "b",
        "b/deep/a": "../../a link",
    }.items():
        (folder / link).symlink_to(target)
    expected = ["a.tif", "b/10.png", "b/2.png", "b/deep/1.JPG"]
    assert found(folder, str(folder / pattern)) == (expected[:1] if pattern == "*" else expected), "by their own names"


def test_links_to_folders_elsewhere_are_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "7.png").touch()
    (folder / "b" / "deep" / "link").symlink_to(tmp_path / "else")
    assert found(folder, "b/deep") == found(folder, "b/deep/**/*.*") == ["b/deep/1.JPG", "b/deep/link/7.png"]


def test_own_pictures_are_no_images_whatever_way_leads_to_them(folder: Path) -> None:
    (folder / "out" / "masks").mkdir()
    (folder / "out" / "masks" / "a.png").touch()
    (folder / "seen").symlink_to("out/masks")
    names = ["a.tif", "out", "out/masks/a.png", "b/../out/images/a.png", "seen", "seen/*", "b/deep/../../seen/a.png"]
    assert found(folder, *names[:1], "-", listed=tuple(names)) == ["a.tif"]
    for name in names[1:]:
        with pytest.raises(DataError, match="apart from the pictures of predictions"):
            found(folder, name)


def test_all_else_in_the_folder_of_the_results_is_an_image(folder: Path) -> None:
    (folder / "out" / "maps").mkdir()
    for name in ("maps/m.tiff", "1.png"):
        (folder / "out" / name).touch()
    assert found(folder, "out", "a.tif") == ["out/1.png", "out/maps/m.tiff", "a.tif"]


@contextmanager
def without_privileges() -> Iterator[None]:
    """Run as somebody whom permissions hold for, which they do not for root."""
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def locked() -> Iterator[Path]:
    """Folder of an image and of a folder that nobody may read; not in that of pytest, which is root's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in (folder / "1.png", folder / "inner" / "2.png", folder / "other" / "3.png"):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        (folder / "inner").chmod(0)
        with without_privileges():
            yield folder
        (folder / "inner").chmod(0o755)


@pytest.mark.parametrize("pattern", ["", "**", "*/*.png", "**/*.png", "*/3.png"])
def test_a_folder_that_must_not_be_read_is_not_passed_over_in_silence(locked: Path, pattern: str) -> None:
    assert found(locked, str(locked / "1.png"), str(locked / pattern)) == ["1.png", "other/3.png", "inner"]
    with pytest.raises(DataError, match=r"inner cannot be read \(Permission denied\)"):
        size_of(locked / "inner")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "inner",
            "There must be images to predict, but .*/inner cannot be searched: Permission denied. Change its perm",
        ),
        ("in*/*.png", "There must be images to predict, but .*/inner cannot be searched: Permission denied. Change"),
        ("inner/2.png", "--data must name files or folders that can be read, but .*/inner/2.png cannot: Permission"),
    ],
)
def test_what_must_not_be_read_at_all_is_an_error_or_a_failure_of_its_line(
    locked: Path, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        found(locked, str(locked / name))
    listed = (str(locked / name), str(locked / "1.png"))
    assert found(locked, "-", listed=listed) == [name, "1.png"]
