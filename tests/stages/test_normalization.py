from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_tiled.stages.distribution import ExactScores, ScoreDistribution
from anomalib_tiled.stages.normalization import MinMax

NEW = torch.linspace(-50, 50, 1001)  # reaches far beyond what was learned from
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def learned(scores: list[float], threshold: float, kind: type[ScoreDistribution] = ExactScores) -> dict[str, float]:
    distribution = kind()
    distribution.add(np.array(scores, np.float32), np.zeros(len(scores), bool))
    return MinMax().learn(distribution, threshold)


LEARNED = pytest.mark.parametrize(
    "values",
    [
        learned([-3, 1, 4], 1.5),
        learned([-3, 1, 4], 1.5, ScoreDistribution),
        learned([-3, 1, 4], 40),  # a threshold that was given by hand may lie anywhere
        learned([2, 2], 2),
        learned([2, 2], 1),
    ],
)


@LEARNED
def test_the_threshold_lands_at_one_half(values: dict[str, float]) -> None:
    assert float(MinMax().apply(torch.tensor(values["threshold"]), values)) == 0.5


@LEARNED
def test_between_zero_and_one_in_the_same_order(values: dict[str, float]) -> None:
    normalized = MinMax().apply(NEW, values)
    assert normalized.min() >= 0
    assert normalized.max() <= 1
    assert (normalized.diff() >= 0).all()
    assert torch.equal(normalized > 0.5, values["threshold"] < NEW)


def test_the_formula_is_that_of_anomalib() -> None:
    theirs = PostProcessor._normalize(NEW, torch.tensor(-3.0), torch.tensor(4.0), torch.tensor(1.5))
    torch.testing.assert_close(MinMax().apply(NEW, learned([-3, 1, 4], 1.5)), theirs)


def test_of_a_single_score_above_and_below_can_be_said() -> None:
    assert MinMax().apply(torch.tensor([1.0, 2.0, 3.0]), learned([2, 2], 2)).tolist() == [0, 0.5, 1]


def test_the_shape_is_kept_and_nothing_is_changed_in_place() -> None:
    maps = torch.ones(2, 1, 3, 4)
    assert MinMax().apply(maps, learned([0, 4], 2)).shape == maps.shape
    assert (maps == 1).all()


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=NEEDS_CUDA)])
@LEARNED
def test_t03_scores_come_back_on_their_device(values: dict[str, float], device: str) -> None:
    normalized = MinMax().apply(NEW.to(device), values)
    assert normalized.device.type == device
    assert normalized.shape == NEW.shape


def test_what_is_learned_survives_json() -> None:
    values = learned([-3, 1, 4], 1.5)
    assert json.loads(json.dumps(values)) == {"minimum": -3, "maximum": 4, "threshold": 1.5}
