"""How the global model joins what tiles and whole image show."""

from __future__ import annotations

import pytest
import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.global_model import GlobalModel, WeightedMean

TILES, WHOLE = torch.tensor([0.0, 3.0]), torch.tensor([1.0, -1.0])


def test_the_higher_value_counts() -> None:
    assert GlobalModel().fuse(TILES, WHOLE).tolist() == [1, 3]


def test_a_weight_says_how_much_the_whole_image_counts() -> None:
    assert WeightedMean(weight=0.25).fuse(TILES, WHOLE).tolist() == [0.25, 2]


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_other_weights_are_refused(weight: float) -> None:
    with pytest.raises(ConfigurationError, match=f"weight must be between 0 and 1, but is {weight}"):
        WeightedMean(weight=weight)
