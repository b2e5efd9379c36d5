from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from anomalib.data import Folder
from PIL import Image, features
from torchvision.datasets.folder import IMG_EXTENSIONS

from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.endings import image_endings
from anomalib_tiled.data.find_images import find_images
from anomalib_tiled.data.images import read_image, size_of

MODES = ("RGB", "L", "P", "1", "F")


def write(path: Path) -> bool:
    """Write an image in the first mode that its format takes; tell whether there is one."""
    for mode in MODES:
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


def test_endings_that_the_user_names_are_the_only_ones(tmp_path: Path, every_ending: list[Path]) -> None:
    modes = {"test_split_mode": "none", "val_split_mode": "none"}
    data = Folder("f", "good", tmp_path, extensions=(".png", ".JP2"), num_workers=0, **modes)
    assert [sample.image_path.suffix for sample in split_once(data).samples] == [".jp2", ".png"]


def test_masks_are_found_by_the_same_endings(tmp_path: Path, every_ending: list[Path]) -> None:
    for folder, name in (("bad", "0.jp2"), ("masks", "0_mask.webp"), ("ok", "0.avif")):
        (tmp_path / folder).mkdir()
        assert write(tmp_path / folder / name)
    folders = {"normal_test_dir": "ok", "abnormal_dir": "bad", "mask_dir": "masks"}
    split = split_once(Folder("f", "good", tmp_path, num_workers=0, val_split_mode="none", **folders))
    assert {(sample.image_path.name, *(mask.name for mask in sample.masks)) for sample in split.subset("test")} == {
        ("0.avif",),
        ("0.jp2", "0_mask.webp"),
    }


def test_what_pillow_opens_but_does_not_decode_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(IMG_EXTENSIONS) < set(image_endings())
    assert not {".h5", ".grib", ".wmf", ".mpg", ".eps", ".pdf", ".txt"} & set(image_endings())
    monkeypatch.setattr(features, "check_codec", lambda name: name != "jpg_2000")
    assert ".jp2" not in image_endings.__wrapped__()
