from __future__ import annotations

import pytest
import torch

from anomalib_tiled.stages.scoring import Max, Mean, Scorer, TopK

TILES = torch.tensor([[1.0, 9.0], [5.0, 0.0], [3.0, 0.0]])  # three tiles of two images


@pytest.mark.parametrize(
    ("scorer", "expected"),
    [(Max(), [5, 9]), (Mean(), [3, 3]), (TopK(1), [5, 9]), (TopK(2), [4, 4.5]), (TopK(3), [3, 3]), (TopK(99), [3, 3])],
)
def test_two_images_of_three_tiles(scorer: Scorer, expected: list[float]) -> None:
    assert scorer.score(TILES, None).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("scorer", [Max(), Mean(), TopK(2)])
def test_scores_come_back_on_their_device(scorer: Scorer, device: str) -> None:
    scores = scorer.score(TILES.to(device), torch.empty(2, 1, 4, 4, device=device))
    assert scores.device.type == device
    assert scores.shape == (2,)


@pytest.mark.parametrize("scorer", [Max(), Mean(), TopK()])
def test_one_tile_is_the_image_and_the_order_of_tiles_does_not_matter(scorer: Scorer) -> None:
    assert scorer.score(TILES[:1], torch.zeros(2, 1, 4, 4)).tolist() == [1, 9]
    torch.testing.assert_close(scorer.score(TILES.flip(0), None), scorer.score(TILES, None))


def test_top_k_needs_at_least_one() -> None:
    with pytest.raises(ValueError, match="TopK scoring needs k of at least 1, got 0"):
        TopK(0)
