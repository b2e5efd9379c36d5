"""Picking the coreset of PatchCore and AnomalyDINO: the picks of anomalib, without most of its comparisons."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from anomalib.models.components.sampling import KCenterGreedy

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 2**17
"""Numbers of features that are compared at once; half a megabyte stays in a processor's cache."""

ROUNDING = 1e-3
"""By how much two distances may be wrong together, relative to them; far more than they are."""

MANY = 0.5
"""Share of the features above which all are compared: to gather features takes longer than to compare them."""

PICKS = "_picks_of_anomalib_tiled"
"""Attribute of anomalib's sampler."""

_whole = KCenterGreedy.update_distances


@contextmanager
def picked_faster() -> Iterator[None]:
    """Let anomalib pick coresets with fewer comparisons, where the processor does it."""
    with patch.object(KCenterGreedy, "update_distances", _update_distances):
        yield


@dataclass
class _Picks:
    """The features that are picked so far, and the nearest of them to each feature.

    Args:
        picked: Their indices.
        nearest: For each feature, the place of the nearest one in that list, shape (features,).
    """

    picked: list[int]
    nearest: torch.Tensor

    def candidates(self, features: torch.Tensor, index: int, distances: torch.Tensor) -> torch.Tensor:
        """Add a pick, and give the features that it may be nearer to than all picks before.

        A feature that is near to an earlier pick is far from a pick that is far from that one (triangle inequality):

            distance to the new pick  ≥  distance between the picks  -  distance to the earlier pick

        Args:
            features: Shape (features, dimensions).
            index: Index of the new pick.
            distances: Distance of each feature to its nearest pick, shape (features, 1).

        Returns:
            Indices of features.
        """
        apart = _distances(features, features[index], torch.tensor(self.picked))[:, 0]
        self.picked.append(index)
        return (apart.index_select(0, self.nearest) * (1 - ROUNDING) < 2 * distances[:, 0]).nonzero()[:, 0]


def _update_distances(sampler: KCenterGreedy, cluster_center: int | torch.Tensor | None) -> None:
    """Lower the distance of each feature to its nearest pick.

    anomalib compares all features with each pick, and makes their difference for that: as large as the features,
    thousands of times. Each distance is that of anomalib to the last bit.

    Args:
        sampler: What picks; its ``features`` have shape (features, dimensions).
        cluster_center: Index of the feature that was picked last; nothing happens if it is ``None``.
    """
    features, nearest = sampler.features, sampler.min_distances
    if cluster_center is None or features.device.type != "cpu":
        _whole(sampler, cluster_center)
        return
    index = int(cluster_center)
    pick = features[index]
    if nearest is None:
        sampler.min_distances = _distances(features, pick)
        setattr(sampler, PICKS, _Picks([index], torch.zeros(len(features), dtype=torch.long)))
        return
    picks: _Picks = getattr(sampler, PICKS)
    candidates, number = picks.candidates(features, index, nearest), len(picks.picked) - 1
    if len(candidates) > MANY * len(features):
        distances = _distances(features, pick)
        picks.nearest.masked_fill_((distances < nearest)[:, 0], number)
        sampler.min_distances = torch.minimum(nearest, distances)
        return
    distances = _distances(features, pick, candidates)
    nearer = (distances < nearest.index_select(0, candidates))[:, 0]
    candidates = candidates[nearer]
    nearest.index_copy_(0, candidates, distances[nearer])
    picks.nearest.index_fill_(0, candidates, number)


def _distances(features: torch.Tensor, pick: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """Compare features with a pick, block by block.

    Args:
        features: Shape (features, dimensions).
        pick: Shape (dimensions,).
        rows: Indices of the features to compare; ``None`` for all.

    Returns:
        Distances, shape (rows, 1).
    """
    most = max(BLOCK // features.shape[1], 1)
    blocks = features.split(most) if rows is None else (features.index_select(0, block) for block in rows.split(most))
    return torch.cat([torch.linalg.norm(block - pick, ord=2, dim=1, keepdim=True) for block in blocks])
