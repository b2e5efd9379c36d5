"""Parts of models and memory, on a GPU."""

from __future__ import annotations

import pytest
import torch
from anomalib.models.components.sampling import KCenterGreedy
from lightning.pytorch import seed_everything

from anomalib_tiled.ensemble.gaussians import BatchedGaussian, SummedDistances, inverses_of
from anomalib_tiled.system.memory import SHARE_ALONE, memory_budget
from anomalib_tiled.training.coreset import picked_faster

pytestmark = pytest.mark.gpu

DEVICE = "cuda"


@pytest.mark.parametrize("images", [2, 24, 60, 200])
@pytest.mark.parametrize("features", [50, 100, 101])
def test_gaussians_and_distances_are_those_of_a_processor(images: int, features: int) -> None:
    embedding = torch.rand(images, features, 8, 8, generator=torch.Generator().manual_seed(images)) * 3
    here, there = BatchedGaussian(), BatchedGaussian().to(DEVICE)
    here.fit(embedding)
    there.fit(embedding.to(DEVICE))
    assert there.inv_covariance.shape == here.inv_covariance.shape
    assert there.inv_covariance.device.type == DEVICE
    expected, found = (inverses_of(each.mean.cpu(), each.inv_covariance.cpu()) for each in (here, there))
    largest = expected.abs().amax(dim=(1, 2), keepdim=True)
    assert float(((found - expected) / largest).abs().max()) < 1e-3
    stats = [there.mean, there.inv_covariance]
    distances = SummedDistances.compute_distance(embedding[:4].to(DEVICE), stats)
    on_processor = SummedDistances.compute_distance(embedding[:4], [each.cpu() for each in stats])
    torch.testing.assert_close(distances.cpu(), on_processor, rtol=1e-3, atol=1e-3)


def test_many_positions_are_fitted_in_blocks() -> None:
    embedding = torch.rand(24, 300, 64, 64, device=DEVICE)
    gaussian = BatchedGaussian().to(DEVICE)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gaussian.fit(embedding)
    kept = gaussian.inv_covariance.nbytes + gaussian.mean.nbytes
    assert torch.cuda.max_memory_allocated() - before - kept < 4096 * 300 * 300 * 4, "one matrix for each position"


def test_a_coreset_is_picked_as_by_anomalib() -> None:
    def picked() -> list[int]:
        seed_everything(1, verbose=False)
        return KCenterGreedy(torch.rand(2_000, 64, device=DEVICE), sampling_ratio=0.05).select_coreset_idxs()

    expected = picked()
    with picked_faster():
        assert picked() == expected


def test_half_of_what_is_free_on_a_gpu_is_for_models() -> None:
    free, _ = torch.cuda.mem_get_info()
    assert memory_budget(torch.device(DEVICE), SHARE_ALONE) == pytest.approx(free / 2, rel=0.1)
