from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from anomalib.models.components.sampling import KCenterGreedy

from anomalib_tiled.training.coreset import picked_in_blocks


def sampler(features: int, dimensions: int) -> KCenterGreedy:
    torch.manual_seed(1)
    made = KCenterGreedy(torch.rand(features, dimensions), sampling_ratio=0.2)
    made.features = made.embedding
    return made


@pytest.mark.parametrize(("features", "dimensions"), [(5, 3), (40, 200_000), (5_000, 100), (2_000, 384)])
def test_distances_of_blocks_are_those_of_anomalib(features: int, dimensions: int) -> None:
    whole, blocks = sampler(features, dimensions), sampler(features, dimensions)
    for centre in (0, torch.tensor(features // 2), torch.tensor([features - 1])):
        whole.update_distances(centre)
        with picked_in_blocks():
            blocks.update_distances(centre)
        assert torch.equal(blocks.min_distances, whole.min_distances)


def test_picking_makes_no_block_as_large_as_the_features() -> None:
    many = sampler(20_000, 100)
    with picked_in_blocks(), torch.profiler.profile(profile_memory=True) as profile:
        many.update_distances(0)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < many.features.nbytes / 8


def test_the_same_features_are_picked() -> None:
    picked = []
    for how in (nullcontext(), picked_in_blocks()):
        many = sampler(6_000, 30)
        many.embedding = many.embedding[:, :, None]  # anomalib projects features of two dimensions at random
        torch.manual_seed(2)
        with how:
            picked.append(many.select_coreset_idxs())
    assert picked[0] == picked[1]
    assert KCenterGreedy.update_distances.__module__ == KCenterGreedy.__module__, "anomalib's own is back"
