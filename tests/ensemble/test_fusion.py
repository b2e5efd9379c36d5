"""Tiles and whole image are brought to one scale by their own normal validation images, then fused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble.fusion import LEAST, Branch, Branches, BranchScores, Predicted, Scale
from anomalib_tiled.stages.global_model import GlobalModel, WeightedMean

NORMAL = np.zeros(2, dtype=np.bool_)


def predicted(*scores: float, maps: bool = True) -> Predicted:
    """One row of three pixels for each image: 0, half of its score, its score."""
    values = torch.tensor(scores)
    rows = torch.stack([torch.zeros_like(values), values / 2, values], dim=1)[:, None, None]
    return Predicted(values, rows if maps else None)


def learned(*, maps: bool = True) -> Branches:
    seen = BranchScores()
    seen.add(predicted(2.0, 4.0), predicted(10.0, 30.0, maps=maps), NORMAL)
    return seen.learn()


@pytest.mark.parametrize(
    ("scores", "scale"),
    [([1.0, 2.0, 4.0, 9.0, 100.0], Scale(4.0, 3.0)), ([2.0, 2.0, 2.0, 6.0], Scale(2.0, 3.0**0.5))],
    ids=["an odd one does not count", "more than half are equal"],
)
def test_scores_learn_median_and_distance_from_it(scores: list[float], scale: Scale) -> None:
    seen = BranchScores()
    seen.add(predicted(*scores), predicted(*scores), np.zeros(len(scores), bool))
    assert seen.learn().tiles.scores == seen.learn().whole.scores == scale


def test_maps_learn_usual_and_highest_pixels() -> None:
    assert learned() == Branches(
        tiles=Branch(scores=Scale(3.0, 1.0), maps=Scale(1.5, 1.5)),
        whole=Branch(scores=Scale(20.0, 10.0), maps=Scale(10.0, 10.0)),
    )


def test_a_usual_pixel_is_0_and_the_highest_pixel_of_a_usual_image_is_1() -> None:
    scale = learned().whole.maps
    assert scale is not None
    assert scale.standard(torch.tensor([10.0, 20.0, 40.0])).tolist() == [0, 1, 3], "nothing is clipped"


def test_anomalous_images_teach_nothing() -> None:
    seen = BranchScores()
    seen.add(predicted(2.0, 100.0, 4.0), predicted(10.0, 100.0, 30.0), np.array([False, True, False]))
    assert seen.learn() == learned()


def test_without_normal_images_all_are_taken() -> None:
    seen = BranchScores()
    seen.add(predicted(2.0, 4.0), predicted(10.0, 30.0), ~NORMAL)
    assert seen.learn() == learned()


def test_parts_learn_what_all_together_learn() -> None:
    first, second = BranchScores(), BranchScores()
    first.add(predicted(2.0), predicted(10.0), NORMAL[:1])
    second.add(predicted(4.0), predicted(30.0), NORMAL[:1])
    first.merge(second)
    assert first.learn() == learned()


def test_pixels_that_do_not_count_are_left_out() -> None:
    seen = BranchScores()
    counted = torch.tensor([True, True, False])
    seen.add(predicted(2.0, 4.0), predicted(10.0, 30.0), NORMAL, counted)
    assert seen.learn().tiles.maps == Scale(0.75, 0.75)


def test_scores_that_hardly_vary_have_a_scale_all_the_same() -> None:
    assert Scale.of(5.0, 0.0) == Scale(5.0, 5 * LEAST)
    assert Scale.of(0.0, 0.0) == Scale(0.0, 1.0)


def test_the_higher_branch_counts_on_the_scale_of_the_tiles() -> None:
    fused = learned().fused_scores(GlobalModel(), torch.tensor([3.0, 5.0, 3.0]), torch.tensor([20.0, 20.0, 70.0]))
    assert fused.tolist() == [3, 5, 8], "normal in both; 2 scales in the tiles; 5 in the whole image"


def test_a_weighted_mean_joins_both() -> None:
    fused = learned().fused_scores(WeightedMean(weight=0.25), torch.tensor([5.0]), torch.tensor([70.0]))
    assert fused.tolist() == [3 + 0.75 * 2 + 0.25 * 5]


def test_maps_are_fused_pixel_by_pixel() -> None:
    tiles, whole = torch.tensor([[[[1.5, 6.0]]]]), torch.tensor([[[[40.0, 10.0]]]])
    assert learned().fused_maps(GlobalModel(), tiles, whole).tolist() == [[[[6.0, 6.0]]]]


def test_without_maps_of_the_whole_image_those_of_the_tiles_stay() -> None:
    branches, tiles = learned(maps=False), torch.rand(2, 1, 3, 4)
    assert branches.whole.maps is None
    assert branches.fused_maps(GlobalModel(), tiles, None) is tiles


@pytest.mark.parametrize("maps", [True, False])
def test_what_is_learned_is_written_and_read(maps: bool) -> None:  # noqa: FBT001  # pytest's way
    branches = learned(maps=maps)
    content = {
        name: {"scores": vars(branch.scores), "maps": None if branch.maps is None else vars(branch.maps)}
        for name, branch in vars(branches).items()
    }
    assert Branches.from_json(content) == branches
