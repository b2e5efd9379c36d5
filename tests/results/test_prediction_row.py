from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageBatch
from PIL import Image

from anomalib_tiled.grid import Size
from anomalib_tiled.results.prediction_row import (
    ANOMALOUS,
    COLUMNS,
    NORMAL,
    PredictedImage,
    contradiction,
    count_of,
    items_of,
)
from anomalib_tiled.results.region_decisions import RegionDecision
from anomalib_tiled.stages.uncertain import Band

EMPTY, SPOT = torch.zeros(1, 4, 4, dtype=torch.bool), torch.eye(4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("label", "mask", "words"),
    [
        (False, EMPTY, ""),
        (True, SPOT, ""),
        (False, SPOT, "normal, but with anomalous pixels"),
        (torch.tensor(False), SPOT, NORMAL),  # noqa: FBT003
        (True, EMPTY, "anomalous, but without anomalous pixels"),
        (torch.tensor(True), False, ANOMALOUS),  # noqa: FBT003
        (True, None, ""),
        (None, SPOT, ""),
    ],
)
def test_a_label_contradicts_a_mask_of_the_other_kind(label: object, mask: object, words: str) -> None:
    assert contradiction(label, mask) == words


def test_contradictions_are_counted_in_a_sentence() -> None:
    assert count_of(["", ""]) == ""
    assert count_of(["", NORMAL, ANOMALOUS, NORMAL]) == (
        "Of 4 images, 2 are normal, but with anomalous pixels; 1 is anomalous, but without anomalous pixels: images "
        "and "
        "pixels have separate thresholds."
    )


def test_an_image_without_the_part_is_anomalous_and_has_no_score(tmp_path: Path) -> None:
    Image.new("L", (7, 5)).save(tmp_path / "a.png")
    image = PredictedImage.without_part(tmp_path / "a.png", "Nothing in it fits.")
    assert (image.pred_label, image.pred_score, image.regions, image.image_size) == (1, None, (), Size(5, 7))
    assert image.contradiction == ""
    assert PredictedImage.from_line(image.to_line().encode()) == image
    assert image.to_row() == [str(tmp_path / "a.png"), "", 1, 0, 0, *[""] * 6, "Nothing in it fits."]
    assert image.coco_image(3)["unaligned"] == "Nothing in it fits.", "without a region, it would look normal"


def test_only_runs_that_align_images_say_whether_they_are() -> None:
    plain = PredictedImage("/a.png", Size(5, 7), 0.25, 1.5, 0, ())
    assert "unaligned" not in plain.to_line()
    assert len(plain.to_row()) == len(COLUMNS)
    aligned = replace(plain, unaligned="")
    assert PredictedImage.from_line(aligned.to_line().encode()) == aligned
    assert aligned.to_row() == [*plain.to_row(), ""]
    assert aligned.coco_image(1) == plain.coco_image(1) == {"id": 1, "file_name": "/a.png", "height": 5, "width": 7}


def test_a_verdict_stands_in_line_and_row_once_an_image_is_judged() -> None:
    plain = PredictedImage(
        "/a.png", Size(5, 7), 0.25, 1.5, 0, (), named_regions={"plug": RegionDecision(0.5, label=True)}
    )
    assert plain.verdict == "normal"
    assert "verdict" not in plain.to_line()
    for band, verdict in {Band(0.2, 0.3): "uncertain", Band(0.3, 0.4): "normal"}.items():
        judged = plain.judged(band)
        assert judged.verdict == verdict
        assert f'"verdict": "{verdict}"' in judged.to_line()
        assert "is_uncertain" not in judged.to_line()
        assert PredictedImage.from_line(judged.to_line().encode()) == judged
        assert judged.to_row()[: len(COLUMNS) + 1] == [*plain.to_row()[: len(COLUMNS)], verdict]
        assert judged.judged(None) == plain


def test_images_of_a_batch_are_those_of_anomalib_but_views() -> None:
    paths = ["a.png", "b.png"]
    batch = ImageBatch(
        image=torch.rand(2, 3, 4, 4), pred_score=torch.rand(2), gt_mask=SPOT.expand(2, 4, 4), image_path=paths
    )
    items = items_of(batch)
    for found, expected in zip(items, batch, strict=True):
        assert vars(found).keys() == vars(expected).keys()
        for name, value in vars(expected).items():
            assert (
                torch.equal(getattr(found, name), value)
                if isinstance(value, torch.Tensor)
                else getattr(found, name) == value
            )
    assert items[1].image.data_ptr() == batch.image[1].data_ptr()
