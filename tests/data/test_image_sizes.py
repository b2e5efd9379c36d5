from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from anomalib_tiled.data.image_sizes import TrainedOn
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.grid import Size

WIDE = TrainedOn(resized=Size(8, 8), usual=Size(18, 32))


@pytest.mark.parametrize("size", [(8, 8), (18, 32), (36, 64), (9, 16), (180, 321)])
def test_images_of_the_shape_that_was_trained_on_are_not_remarked(size: tuple[int, int]) -> None:
    assert WIDE.remark("a.png", Size(*size)) is None


@pytest.mark.parametrize("size", [(16, 16), (32, 18), (7, 12), (180, 325)])
def test_images_that_are_small_or_of_another_shape_are(size: tuple[int, int]) -> None:
    remark = WIDE.remark("a.png", Size(*size))
    assert remark is not None
    assert f"a.png has {Size(*size)} pixels" in remark
    assert "images of 8 x 8 (made of 18 x 32)." in remark


def test_the_size_is_that_of_a_training_image(tmp_path: Path) -> None:
    Image.new("RGB", (32, 18)).save(tmp_path / "a.png")
    split = Split((Sample("train", tmp_path / "a.png", None, None),))
    assert TrainedOn.of(split, Size(8, 8)) == WIDE
    (tmp_path / "a.png").write_bytes(b"damaged")
    assert TrainedOn.of(split, Size(8, 8)) == TrainedOn(Size(8, 8), Size(8, 8))
    (tmp_path / "a.png").unlink()
    assert TrainedOn.of(split, Size(8, 8)) == TrainedOn(Size(8, 8), Size(8, 8))


def test_a_training_image_of_another_user_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    Image.new("RGB", (32, 18)).save(tmp_path / "a.png")
    split = Split((Sample("train", tmp_path / "a.png", None, None),))
    monkeypatch.setattr("os.stat", refuse)  # as root, who runs tests in containers, may look everywhere
    assert TrainedOn.of(split, Size(8, 8)) == TrainedOn(Size(8, 8), Size(8, 8))
