from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torchvision.transforms.v2 import RandomInvert

from anomalib_tiled.data import scope
from anomalib_tiled.data import unlabelled_images as new_images
from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.images import read_image
from anomalib_tiled.data.part_finder import PartFinder
from anomalib_tiled.data.placement import TrainedPlacement
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.data.unlabelled_images import NewImages, TrainedOn
from anomalib_tiled.errors import OutOfMemoryError, TiledError, UnalignedError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.alignment import Aligner, Alignment, Reference

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))


@pytest.fixture
def said() -> list[str]:
    return []


def images(
    said: list[str],
    usual: Size = GRID.image_size,
    augmentations: torch.nn.Module | None = None,
    batch_size: int = 2,
) -> NewImages:
    trained_on = TrainedOn(GRID.image_size, usual)
    return NewImages(
        GRID, batch_size, augmentations=augmentations, trained_on=trained_on, report=lambda _, text: said.append(text)
    )


def paint(path: Path, *sizes: tuple[int, int]) -> list[Path]:
    paths = [path / f"{number}.png" for number in range(len(sizes))]
    for each, (height, width) in zip(paths, sizes, strict=True):
        Image.new("RGB", (width, height), (51, 51, 51)).save(each)
    return paths


def fail(path: Path, error: TiledError) -> None:
    message = f"{path}: {error}"
    raise AssertionError(message)


def test_images_come_in_batches_with_the_sizes_of_their_files(said: list[str], tmp_path: Path) -> None:
    paths = paint(tmp_path, (8, 12), (16, 24), (8, 12))
    batches = list(images(said).batches(paths, fail))
    assert [batch.sizes for batch in batches] == [(Size(8, 12), Size(16, 24)), (Size(8, 12),)]
    assert [tuple(batch.images.image.shape) for batch in batches] == [(2, 3, 8, 12), (1, 3, 8, 12)]
    assert [path for batch in batches for path in batch.images.image_path] == [str(path) for path in paths]
    assert batches[0].images.image.unique().tolist() == [pytest.approx(0.2)]
    assert batches[0].images.gt_label is None
    assert said == []


def test_what_cannot_be_read_is_told_and_passed_over(said: list[str], tmp_path: Path) -> None:
    paths = paint(tmp_path, *[(8, 12)] * 5)
    paths[0].write_bytes(b"no image")
    paths[3].write_bytes(paths[3].read_bytes()[:-20])
    paths[4].unlink()
    failures: list[tuple[Path, str]] = []
    batches = list(images(said).batches(paths, lambda path, error: failures.append((path, str(error)))))
    assert [path for batch in batches for path in batch.images.image_path] == [str(paths[1]), str(paths[2])]
    assert [path for path, _ in failures] == [paths[0], paths[3], paths[4]]
    for (_, error), expected in zip(failures, ("is no image", "is damaged", "is missing"), strict=True):
        assert expected in error


@pytest.mark.parametrize("again", [True, False])
def test_an_image_for_which_there_is_too_little_memory_is_tried_by_itself(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    paths, look, given = paint(tmp_path, *[(8, 12)] * 4), new_images.lost_bits, []

    def large(path: Path) -> str | None:
        if path == paths[2] and (again or not given):
            raise MemoryError
        return look(path)

    monkeypatch.setattr(new_images, "lost_bits", large)
    failures: list[tuple[Path, TiledError]] = []
    for batch in images(said, batch_size=3).batches(paths, lambda *failure: failures.append(failure)):
        given += [*map(Path, batch.images.image_path)]
        assert len(given) >= 2, "those before it are out of its way"
    assert given == [path for path in paths if not again or path != paths[2]]
    assert [path for path, _ in failures] == paths[2:3] * again
    for _, error in failures:
        assert isinstance(error, OutOfMemoryError)
        assert error.__traceback__ is error.__context__ is None, "it would hold on to what was read"
        assert str(error).endswith("Make the image smaller, or predict it on a machine with more.")


def test_nothing_is_read_before_it_is_asked_for(said: list[str], tmp_path: Path) -> None:
    batches = images(said).batches(iter([*paint(tmp_path, (8, 12), (8, 12)), tmp_path / "gone.png"]), fail)
    assert len(next(batches).sizes) == 2
    with pytest.raises(AssertionError, match="gone"):
        next(batches)


def test_images_are_changed_as_test_images_are(said: list[str], tmp_path: Path) -> None:
    (batch,) = images(said, augmentations=RandomInvert(p=1)).batches(paint(tmp_path, (8, 12)), fail)
    assert batch.images.image.unique().tolist() == [pytest.approx(0.8)]


def test_another_shape_is_reported_once(said: list[str], tmp_path: Path) -> None:
    list(images(said).batches(paint(tmp_path, (8, 12), (8, 11), (4, 6)), fail))
    assert len(said) == 1
    assert said[0].startswith(f"warning: {tmp_path / '1.png'} has 8 x 11 pixels (height x width), but the tiles were")


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


class ByBrightest(Aligner):
    """Moves the brightest pixel to (2, 1); there is none in a black image."""

    def learn(self, images: object) -> Reference:
        raise NotImplementedError

    def align(self, image: np.ndarray, reference: Reference) -> Alignment:
        if not image.any():
            message = "It is black."
            raise UnalignedError(message)
        y, x = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
        return Alignment((1, 0, float(x - 2), 0, 1, float(y - 1), 0, 0, 1), 1.0)


def test_new_images_are_aligned_in_one_step_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "BESIDE", 0)
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[6:8, 10:12] = 200
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.new("RGB", (24, 16)).save(tmp_path / "black.png")
    finder = PartFinder(ByBrightest(), Reference(np.zeros((8, 12), np.uint8)), GRID.image_size)
    reading = replace(images([], Size(16, 24)), finder=finder)
    failed: list[tuple[str, str, type]] = []
    (batch,) = reading.batches(
        [tmp_path / "black.png", tmp_path / "large.png"],
        lambda path, error: failed.append((path.name, str(error), type(error))),
    )
    assert failed == [("black.png", "It is black.", UnalignedError)]
    matrix = (1, 0, 3, 0, 1, 2, 0, 0, 1)
    assert batch.matrices == (matrix,)
    assert batch.sizes == (Size(16, 24),)
    expected = read_image(tmp_path / "large.png", GRID.image_size, matrix)
    assert np.array_equal((batch.images.image[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    assert batch.hidden[0, 0].tolist() == [[y + 2 > 7 or x + 3 > 11 for x in range(12)] for y in range(8)]
    assert next(batch.one_by_one()).matrices == (matrix,)


def test_what_is_unusual_is_reported_of_an_image_in_which_the_part_is_not_found(
    said: list[str], tmp_path: Path
) -> None:
    Image.new("RGB", (6, 4)).save(path := tmp_path / "black.png")
    finder = PartFinder(ByBrightest(), Reference(np.zeros((8, 12), np.uint8)), GRID.image_size)
    failed: list[str] = []
    assert not list(replace(images(said), finder=finder).batches([path], lambda _, error: failed.append(str(error))))
    assert failed == ["It is black."]
    (warning,) = said
    assert "has 4 x 6 pixels" in warning


def test_each_image_keeps_its_hidden_pixels(said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(_: DecodedFiles, sample: Sample, rows: slice, columns: slice) -> np.ndarray | None:
        rows_of_two = np.arange(8)[rows, None] < 2
        return None if sample.image_path.name == "0.png" else np.broadcast_to(rows_of_two, (8, 12))[:, columns]

    monkeypatch.setattr(DecodedFiles, "hidden", outside)
    batches = list(images(said, batch_size=3).batches(paint(tmp_path, *[(8, 12)] * 3), fail))
    (batch,) = batches
    assert batch.hidden.flatten(1).sum(dim=1).tolist() == [0, 24, 24]
    alone = list(batch.one_by_one())
    assert [each.sizes for each in alone] == [(Size(8, 12),)] * 3
    assert torch.equal(torch.cat([each.hidden for each in alone]), batch.hidden)
    monkeypatch.undo()
    (batch,) = images(said, batch_size=3).batches(paint(tmp_path, (8, 12)), fail)
    assert batch.hidden is None


def test_each_image_whose_part_lies_elsewhere_is_reported(said: list[str], tmp_path: Path) -> None:
    photograph, grid = data.astronaut()[100:400, 100:400], TileGrid(Size(192, 192), Size(64, 64), Size(64, 64))
    still, moved = photograph[50:242, 50:242], photograph[50:242, 60:252]
    placement = TrainedPlacement.learn([still, still], grid.image_size)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, (still, moved, moved), strict=True):
        Image.fromarray(picture).save(path)
    trained_on = TrainedOn(grid.image_size, grid.image_size)
    reader = replace(images(said), grid=grid, trained_on=trained_on, placement=placement)
    assert sum(len(batch.sizes) for batch in reader.batches(paths, fail)) == 3
    assert [text.partition(" shows")[0] for text in said] == [f"warning: {path}" for path in paths[1:]]
    assert "shows its part 10.0 pixels and 0.0 degrees from where the training images do" in said[0]
