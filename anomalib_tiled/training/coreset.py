"""Picking the coreset of PatchCore and AnomalyDINO without large temporary blocks, with equal results."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from anomalib.models.components.sampling import KCenterGreedy

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 2**17
"""Numbers of features that are compared at once; half a megabyte stays in a processor's cache."""


_whole = KCenterGreedy.update_distances


@contextmanager
def picked_in_blocks() -> Iterator[None]:
    """Let anomalib pick coresets block by block, where the processor does it."""
    with patch.object(KCenterGreedy, "update_distances", _update_distances):
        yield


def _update_distances(sampler: KCenterGreedy, cluster_center: int | torch.Tensor | None) -> None:
    """Lower the distance of each feature to its nearest picked one.

    anomalib makes the difference of all features and the picked one for each pick: as large as the features, thousands
    of times. Each distance is that of anomalib to the last bit.

    Args:
        sampler: What picks; its ``features`` have shape (features, dimensions).
        cluster_center: Index of the feature that was picked last; nothing happens if it is ``None``.
    """
    features = sampler.features
    if cluster_center is None or features.device.type != "cpu":
        _whole(sampler, cluster_center)
        return
    centre = features[cluster_center].squeeze()
    rows = max(BLOCK // features.shape[1], 1)
    distances = torch.cat(
        [torch.linalg.norm(block - centre, ord=2, dim=1, keepdim=True) for block in features.split(rows)]
    )
    nearest = sampler.min_distances
    sampler.min_distances = distances if nearest is None else torch.minimum(nearest, distances)
