from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from anomalib.models.components.sampling import KCenterGreedy

from anomalib_tiled.training import coreset
from anomalib_tiled.training.coreset import picked_faster


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
        with picked_faster():
            blocks.update_distances(centre)
        assert torch.equal(blocks.min_distances, whole.min_distances)


def test_picking_makes_no_block_as_large_as_the_features() -> None:
    many = sampler(20_000, 100)
    with picked_faster(), torch.profiler.profile(profile_memory=True) as profile:
        many.update_distances(0)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < many.features.nbytes / 8


@pytest.mark.parametrize("dimensions", [1, 3, 30, 300])
@pytest.mark.parametrize("kind", ["spread", "clusters", "repeated"])
def test_the_same_features_are_picked(dimensions: int, kind: str) -> None:
    torch.manual_seed(3)
    embedding = torch.rand(3_000, dimensions)
    if kind == "clusters":
        embedding = embedding / 50 + torch.randint(8, (3_000, 1))
    elif kind == "repeated":
        embedding = embedding[torch.randint(40, (3_000,))]
    picked, distances = [], []
    for how in (nullcontext(), picked_faster()):
        many = KCenterGreedy(embedding[:, :, None], sampling_ratio=0.2)  # of two dimensions, they would be projected
        torch.manual_seed(2)
        with how:
            picked.append(many.select_coreset_idxs())
        distances.append(many.min_distances)
    assert picked[0] == picked[1]
    assert torch.equal(*distances)
    assert KCenterGreedy.update_distances.__module__ == KCenterGreedy.__module__, "anomalib's own is back"


def test_most_features_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    whole = coreset._distances
    monkeypatch.setattr(coreset, "_distances", lambda *given: compared.append(len(whole(*given))) or whole(*given))
    torch.manual_seed(3)
    many = KCenterGreedy((torch.rand(3_000, 3) / 50 + torch.randint(8, (3_000, 1)))[:, :, None], sampling_ratio=0.2)
    with picked_faster():
        many.select_coreset_idxs()
    assert sum(compared) < 0.25 * 3_000 * 600
