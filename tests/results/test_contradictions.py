from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_tiled.results.contradictions import ANOMALOUS, NORMAL, captioned, contradiction, count_of

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


@pytest.mark.parametrize("size", [(1, 1), (12, 8), (40, 400), (640, 480), (3000, 200)])
def test_a_picture_of_any_size_is_framed_and_captioned(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    assert captioned(picture, "") is picture
    drawn = np.asarray(captioned(picture, NORMAL))
    assert drawn.shape == (size[1], size[0], 3)
    assert (drawn[0, 0] == (255, 224, 0)).all()
    assert (drawn[-1, -1] == (255, 224, 0)).all()
    assert not np.asarray(picture).any(), "the one that was given stays as it is"


def test_the_caption_fits_into_the_picture() -> None:
    drawn = np.asarray(captioned(Image.new("RGB", (640, 480)), ANOMALOUS))
    written = np.flatnonzero((drawn[2:20] == 0).all(axis=(2,)).any(axis=0))
    assert 5 < written.min() < 40
    assert 200 < written.max() < 635
