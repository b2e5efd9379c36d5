"""What a test writes of each image is written while the next ones are predicted."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import DataError
from anomalib_tiled.results.prediction_row import Details
from anomalib_tiled.results.tested_folder import TestedFolder, TestedImage
from anomalib_tiled.results.tested_writer import TestedBatch, TestWriter, written_meanwhile
from anomalib_tiled.results.thumbnails import Thumbnails
from anomalib_tiled.stages.uncertain import Band

SIZE = (12, 16)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three grey images."""
    paths = [tmp_path / "data" / f"{number}.png" for number in range(3)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(path)
    return paths


@pytest.fixture
def writer(tmp_path: Path, images: list[Path]) -> TestWriter:
    split = Split([Sample("test", path, None, 0) for path in images])
    return TestWriter(TestedFolder(tmp_path / "results"), None, Thumbnails(stretch=False), split, Band(0.4, 0.6))


def batch(*paths: Path) -> TestedBatch:
    scores = torch.zeros(len(paths), 1, *SIZE)
    scores[:, 0, 2:4, 5:8] = 0.75
    given = ImageBatch(
        image=torch.zeros(len(paths), 3, *SIZE),
        image_path=[str(path) for path in paths],
        anomaly_map=scores,
        pred_mask=scores > 0.5,
        pred_score=torch.full((len(paths),), 0.55),
        pred_label=torch.ones(len(paths), dtype=torch.bool),
        gt_label=torch.zeros(len(paths), dtype=torch.bool),
    )
    return TestedBatch(given, [5.5] * len(paths), [Details(tiles={"r00_c00": 1.5})] * len(paths))


def test_lines_hold_what_a_report_shows(writer: TestWriter, images: list[Path]) -> None:
    with writer.folder.lines() as take, written_meanwhile(writer, 0, take) as write:
        write(batch(*images[:2]))
        write(batch(images[2]))
    tested = [*writer.folder.images()]
    assert [each.image_path for each in tested] == [str(path) for path in images], "in order"
    first = tested[0]
    assert (first.pred_score, first.raw_score, first.pred_label, first.gt_label) == (pytest.approx(0.55), 5.5, 1, 0)
    assert [(region.bbox, region.area, region.peak_score) for region in first.regions] == [((5, 2, 3, 2), 6, 0.75)]
    assert (first.tiles, first.verdict, first.any_pixel) == ({"r00_c00": 1.5}, "uncertain", True)
    assert tuple(first.heat_range or ()) == (0.0, 1.0)
    names = [f"0000{number}{ending}" for number in range(3) for ending in (".heat.png", ".jpg", ".mask.png")]
    assert sorted(path.name for path in writer.folder.thumbnails.iterdir()) == names


def test_images_without_the_part_have_a_picture_and_the_reason(writer: TestWriter, images: list[Path]) -> None:
    samples = [(Sample("test", images[1], None, 1), "nothing fits")]
    (image,) = writer.write_unaligned(samples, 40)
    assert (image.unaligned, image.pred_score, image.pred_label, image.gt_label) == ("nothing fits", None, 1, 1)
    assert image.verdict == "anomalous"
    assert [path.name for path in writer.folder.thumbnails.iterdir()] == ["00040.jpg"]


def test_a_new_test_replaces_lines_and_pictures_together(writer: TestWriter, images: list[Path]) -> None:
    for number in (3, 1):
        with writer.folder.lines() as take, written_meanwhile(writer, 0, take) as write:
            assert not writer.folder.is_there(), "an ended test leaves no lines of another one"
            write(batch(*images[:number]))
        writer.folder.write_facts({})
    assert len([*writer.folder.images()]) == 1
    assert len([*writer.folder.thumbnails.iterdir()]) == 3


def test_who_hands_a_batch_over_does_not_wait(
    writer: TestWriter, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_it, handed_over, taken = TestWriter.write, Event(), list[TestedImage]()

    def write_later(self: TestWriter, given: TestedBatch, first: int) -> list[TestedImage]:
        assert handed_over.wait(timeout=60)
        return write_it(self, given, first)

    monkeypatch.setattr(TestWriter, "write", write_later)
    with written_meanwhile(writer, 0, taken.extend) as write:
        write(batch(images[0]))
        handed_over.set()
        write(batch(images[1]))
    assert len(taken) == 2


@pytest.mark.parametrize("batches", [1, 3])
def test_what_goes_wrong_meanwhile_is_raised_in_the_end_or_with_the_next_batch(
    writer: TestWriter, images: list[Path], batches: int
) -> None:
    def write_all() -> None:
        with written_meanwhile(writer, 0, list.clear) as write:
            for path in images[:batches]:
                write(batch(path))

    images[0].unlink()
    with pytest.raises(DataError, match=r"0\.png is missing"):
        write_all()
