from __future__ import annotations

import pytest
import torch

from anomalib_tiled.results.prediction_row import ANOMALOUS, NORMAL, contradiction, count_of

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
