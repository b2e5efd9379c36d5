"""The two stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation

from anomalib_tiled import Size, TileGrid
from anomalib_tiled.stages.distribution import ScoreDistribution
from anomalib_tiled_factory.seams import MedianSeams
from anomalib_tiled_factory.thresholding import MedianDeviation

GRID = TileGrid(Size(60, 50), Size(24, 24), Size(24, 24))


def distribution(normal: np.ndarray, anomalous: np.ndarray) -> ScoreDistribution:
    scores = ScoreDistribution()
    scores.add(normal.astype(np.float32), np.zeros(normal.shape, dtype=bool))
    scores.add(anomalous.astype(np.float32), np.ones(anomalous.shape, dtype=bool))
    return scores


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_a_ridge_on_every_seam_is_taken_away(reach: int) -> None:
    grid = TileGrid(Size(60, 66), Size(30, 22), Size(30, 22))
    maps = torch.ones((2, 1, 60, 66))
    for seam in grid.row_seams:
        maps[:, :, seam - reach : seam + reach] = 9
    for seam in grid.column_seams:
        maps[..., seam - reach : seam + reach] = 9
    assert torch.equal(MedianSeams(reach).smooth(maps, grid), torch.ones_like(maps))


def test_an_edge_that_is_wide_enough_stays() -> None:
    maps = torch.zeros((1, 1, 60, 50))
    maps[..., 10:34, 12:30] = 1
    assert torch.equal(MedianSeams().smooth(maps, GRID), maps)


def test_only_pixels_near_seams_change() -> None:
    maps = torch.rand((2, 1, 60, 50))
    given = maps.clone()
    changed = (MedianSeams(reach=2).smooth(maps, GRID) != maps).any(dim=0)[0]
    near = torch.zeros((60, 50), dtype=torch.bool)
    for seam in GRID.row_seams:
        near[seam - 2 : seam + 2] = True
    for seam in GRID.column_seams:
        near[:, seam - 2 : seam + 2] = True
    assert changed.any()
    assert not changed[~near].any()
    assert torch.equal(maps, given)


def test_the_threshold_is_median_and_deviations_of_the_normal_scores() -> None:
    normal = np.random.default_rng(0).normal(20, 3, 1001)
    expected = np.median(normal) + 3 * median_abs_deviation(normal, scale="normal")
    learned = MedianDeviation(deviations=3).learn(distribution(normal, np.array([50.0, 90.0])))
    assert learned == pytest.approx(expected, rel=1e-3)
    assert learned == pytest.approx(20 + 3 * 3, rel=0.03)


def test_two_scores_in_the_middle_are_averaged() -> None:
    learned = MedianDeviation(deviations=1).learn(distribution(np.array([1, 2, 4, 9]), np.array([20])))
    assert learned == pytest.approx(3 + 1.4826 * 1.5, rel=1e-3)


def test_without_normal_scores_everything_above_the_lowest_is_anomalous() -> None:
    assert MedianDeviation().learn(distribution(np.zeros(0), np.array([5.0, 7.0]))) == 5


def test_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reach of at least 1 pixel, got 0\. Use null"):
        MedianSeams(reach=0)
    with pytest.raises(ValueError, match=r"positive number of deviations, got -1\."):
        MedianDeviation(deviations=-1)
