"""Predictions with another arithmetic are compared on the validation images, and checked against a tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch

from anomalib_tiled.errors import ConfigurationError, NotFiniteError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.changes import Changes, Metric, Tolerance, changes_of

GRID = TileGrid(Size(2, 4), Size(2, 2), Size(2, 2))
BEFORE, AFTER = [0.1, 0.2, 0.6, 0.9], [0.1, 0.3, 0.4, 0.9]
"""Scores of two normal and of two anomalous images."""


@dataclass(frozen=True)
class Stored:
    """Images whose first pixel tells which they are; the right half of an anomalous one is a defect."""

    at_once: int = 4
    masks: bool = True
    hide: bool = False
    labels: Sequence[int] = (0, 0, 1, 1)
    augmentations: str | None = "random ones"

    def __iter__(self) -> Iterator[ImageBatch]:
        assert self.augmentations is None, "images are compared as they are"
        for numbers in torch.arange(len(self.labels)).split(self.at_once):
            images = torch.zeros(len(numbers), 3, *GRID.image_size)
            images[:, 0, 0, 0] = numbers / 10
            labels = torch.tensor(self.labels)[numbers]
            masks = torch.zeros(len(numbers), *GRID.image_size, dtype=torch.bool)
            masks[labels.bool(), :, 2:] = True
            paths = [f"{number}.png" for number in numbers]
            yield ImageBatch(images, gt_label=labels, gt_mask=masks if self.masks else None, image_path=paths)

    def __len__(self) -> int:
        return len(range(0, len(self.labels), self.at_once))

    def hidden(self) -> Iterator[torch.Tensor | None]:
        for batch in self:
            hidden = torch.zeros(len(batch.image), 1, *GRID.image_size, dtype=torch.bool)
            hidden[..., 0, 0] = True
            yield hidden if self.hide else None


class Predicting:
    """Predicts given scores; maps are the score in the right half, and that of the corner at the top left."""

    grid = GRID

    def __init__(self, scores: Sequence[float], corner: float = 0.0, *, maps: bool = True) -> None:
        self.scores, self.corner, self.maps = torch.tensor(scores), corner, maps

    def __call__(self, images: torch.Tensor) -> InferenceBatch:
        scores = self.scores[(images[:, 0, 0, 0] * 10).round().long()]
        maps = torch.zeros(len(images), 1, *GRID.image_size)
        maps[..., 2:] = scores.view(-1, 1, 1, 1)
        maps[..., 0, 0] = self.corner
        masks = maps > 0.5 if self.maps else None
        return InferenceBatch(scores, scores > 0.5, maps, masks)


def changes(before: object, after: object, images: Stored | None = None) -> Changes:
    run = SimpleNamespace(images=lambda purpose: {"calibration": images or Stored()}[purpose])
    return changes_of(run, before, after)


def test_the_run_itself_changes_nothing() -> None:
    found = changes(Predicting(BEFORE), Predicting(BEFORE))
    assert found == Changes(4, 0.0, 0.0, 0, Metric(1.0, 1.0), Metric(1.0, 1.0))
    assert Tolerance(0, 0, 0, 0).beyond(found) == []


@pytest.mark.parametrize("at_once", [1, 3, 4])
def test_scores_labels_and_metrics_are_compared_batch_by_batch(at_once: int) -> None:
    found = changes(Predicting(BEFORE), Predicting([0.7, 0.2, 0.4, 0.9]), Stored(at_once))
    assert (found.images, found.labels) == (4, 2)
    assert found.largest == pytest.approx(0.6)
    assert found.mean == pytest.approx(0.2)
    assert found.image_auroc == Metric(1.0, 0.75)
    assert found.pixel_aupro is not None
    assert found.pixel_aupro.before == 1
    assert 0 < found.pixel_aupro.after < 1


def test_scores_above_1_are_compared_as_fractions_of_the_highest() -> None:
    found = changes(Predicting([10.0, 20.0, 60.0, 90.0]), Predicting([10.0, 20.0, 60.0, 99.0]))
    assert found.largest == pytest.approx(0.1)
    assert found.mean == pytest.approx(0.025)


def test_metrics_are_left_out_where_they_are_not_defined() -> None:
    ensemble = Predicting(BEFORE)
    without_masks = changes(ensemble, ensemble, Stored(masks=False))
    assert (without_masks.image_auroc, without_masks.pixel_aupro) == (Metric(1.0, 1.0), None)
    normal = changes(ensemble, ensemble, Stored(labels=(0, 0)))
    assert (normal.image_auroc, normal.pixel_aupro) == (None, None)
    assert changes(Predicting(BEFORE, maps=False), Predicting(BEFORE, maps=False)).pixel_aupro is None


def test_hidden_pixels_do_not_count() -> None:
    before, after = Predicting(BEFORE), Predicting(BEFORE, corner=1.0)
    assert changes(before, after).pixel_aupro.loss > 0
    assert changes(before, after, Stored(hide=True)).pixel_aupro.loss == 0


@pytest.mark.parametrize("after", [Predicting([0.1, 0.2, float("nan"), 0.9]), Predicting(BEFORE, float("inf"))])
def test_numbers_that_are_none_are_refused(after: Predicting) -> None:
    with pytest.raises(NotFiniteError, match=r"infinities or NaN are predicted for 0\.png, 1\.png, 2\.png, 3\.png\. "):
        changes(Predicting(BEFORE), after)


def test_each_number_beyond_the_tolerance_is_named_with_what_to_do() -> None:
    found = Changes(200, 0.5, 0.06, 3, Metric(0.98, 0.95), Metric(0.91, 0.88))
    with pytest.raises(ConfigurationError) as caught:
        Tolerance(0.05, 0.01, 0.01, 0.01).check(found, "int8", "Set --precision float32.")
    assert str(caught.value) == (
        "Predictions with int8 must be nearly those of the run, but on 200 validation images scores move by 0.06 on "
        "average (allowed: 0.05); 3 of 200 labels change (allowed: 1 %, 2 images); image AUROC falls from 0.9800 to "
        "0.9500 (allowed: by 0.01); pixel AUPRO falls from 0.9100 to 0.8800 (allowed: by 0.01). Set --precision "
        "float32."
    )


def test_changes_up_to_the_tolerance_and_better_metrics_are_no_reason() -> None:
    Tolerance(0.05, 0.01, 0.01, 0.01).check(
        Changes(200, 0.5, 0.05, 2, Metric(0.5, 0.6), Metric(0.25, 0.245)), "int8", ""
    )
    Tolerance().check(Changes(3, 0.0, 0.0, 0, None, None), "int8", "")


def test_changes_in_words_and_in_json() -> None:
    found = Changes(40, 0.0123, 0.00456, 1, Metric(0.98, 0.975), None)
    assert str(found) == (
        "scores move by 0.0046, at most by 0.012; 1 of 40 labels change; image AUROC 0.9800, now 0.9750"
    )
    assert json.loads(json.dumps(found.to_json())) == {
        "images": 40,
        "largest": 0.0123,
        "mean": 0.00456,
        "labels": 1,
        "image_auroc": {"before": 0.98, "after": 0.975},
        "pixel_aupro": None,
    }
