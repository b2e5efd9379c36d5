from __future__ import annotations

import torch
from anomalib.data import ImageBatch

from anomalib_tiled.results.verdicts import Verdicts
from anomalib_tiled.stages.uncertain import Band


def batch(scores: list[float], labels: list[int] | None) -> ImageBatch:
    truth = None if labels is None else torch.tensor(labels)
    return ImageBatch(image=torch.zeros(len(scores), 3, 2, 2), pred_score=torch.tensor(scores), gt_label=truth)


def test_uncertain_images_are_counted_by_their_true_labels() -> None:
    here, there = Verdicts(Band(0.4, 0.6)), Verdicts(Band(0.4, 0.6))
    here.update(batch([0.3, 0.5, 0.6, 0.7], [0, 0, 1, 1]))
    there.update(batch([0.45, 0.55, 0.4], [1, 0, 1]))
    there.update(batch([0.5, 0.9], None))
    here.merge(there)
    assert here.note() == (
        "5 of 9 test images are uncertain, with scores above 0.4 and up to 0.6: 2 anomalous, 2 normal, 1 without a "
        "label. Metrics count them by pred_label."
    )


def test_none_is_said_of_none() -> None:
    note = "0 of 1 test images are uncertain, with scores above 0.4 and up to 0.6."
    for band, expected in ((None, ""), (Band(0.4, 0.6), note)):
        verdicts = Verdicts(band)
        verdicts.update(batch([0.1], [0]))
        assert verdicts.note() == expected
