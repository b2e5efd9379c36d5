from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.ensemble.validation_scores import NormalScores, ValidationScores
from anomalib_tiled.errors import RunFolderError


def observed(*, masks: bool = True) -> Observed:
    seen = Observed()
    maps = torch.arange(8.0).view(2, 1, 2, 2) + 1
    truth = np.zeros((2, 2, 2), bool)
    truth[1, 1] = True
    seen.add(torch.tensor([0.5, 9.0]), maps, Truth(np.array([False, True]), truth if masks else None))
    seen.add(torch.tensor([0.25, 0.5]), maps, Truth(np.array([False, False]), truth & False))
    return seen


def of(*scores: float) -> NormalScores:
    values, counts = np.unique(scores, return_counts=True)
    return NormalScores(values, counts.astype(np.float64))


def test_only_normal_scores_are_kept() -> None:
    scores = ValidationScores.of(observed(), "abc")
    assert (scores.images.scores.tolist(), scores.images.counts.tolist()) == ([0.25, 0.5], [1, 2])
    assert scores.pixels.total == 14
    assert scores.pixels.scores.max() == pytest.approx(8, rel=1e-3)


def test_without_masks_nothing_is_known_of_pixels() -> None:
    scores = ValidationScores.of(observed(masks=False), "abc")
    assert (scores.images.total, scores.pixels.total) == (3, 0)


@pytest.mark.parametrize("count", [1, 10, 101])
def test_at_most_the_rest_lies_above_a_quantile(count: int) -> None:
    values = np.random.default_rng(count).random(count)
    for fraction in (0, 0.01, 0.5, 0.99, 1):
        threshold = of(*values).quantile(fraction)
        assert threshold in values
        assert np.mean(values > threshold) <= 1 - fraction + 1e-12
        lower = values[values < threshold]
        assert lower.size == 0 or np.mean(values > lower.max()) > 1 - fraction - 1e-9, "none lower would do"


def test_equal_scores_count_each() -> None:
    assert of(1, 1, 1, 2).quantile(0.75) == 1
    assert of(1, 1, 1, 2).quantile(0.76) == 2


def test_a_quantile_lies_above_what_rounding_may_make_of_its_score() -> None:
    scores = ValidationScores.of(observed(), "abc")
    assert scores.images.margin > 0
    assert scores.images.quantile(1) == 0.5 + scores.images.margin
    assert scores.pixels.quantile(1) == pytest.approx(8 + scores.pixels.margin, rel=1e-3)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path, scores = tmp_path / "scores.npz", ValidationScores.of(observed(), "abc")
    assert ValidationScores.read(path) is None, "a run may have none"
    scores.write(path)
    read = ValidationScores.read(path)
    assert read is not None
    assert read.configuration == "abc"
    for name in ("images", "pixels"):
        assert np.array_equal(getattr(read, name).scores, getattr(scores, name).scores)
        assert np.array_equal(getattr(read, name).counts, getattr(scores, name).counts)
        assert getattr(read, name).margin == getattr(scores, name).margin
    assert [each.name for each in tmp_path.iterdir()] == ["scores.npz"]


@pytest.mark.parametrize("content", [b"text", b"PK\x03\x04 no archive"])
def test_an_altered_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.npz").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"scores\.npz has changed .*Delete it, and run"):
        ValidationScores.read(tmp_path / "scores.npz")
