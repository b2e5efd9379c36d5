from __future__ import annotations

import numpy as np
import torch

from anomalib_tiled.ensemble.normal_images import NormalImages


def add(images: NormalImages, *scores: float) -> None:
    """Add a batch; images with negative scores are anomalous."""
    given = torch.tensor(scores)
    images.add(given.numpy() >= 0, given, {"r00_c00": given + 10, "r00_c01": given + 20}, {"screw": given + 30})


def test_normal_images_stay_in_order_wherever_they_were_seen() -> None:
    here, there, alone = NormalImages(), NormalImages(), NormalImages()
    for images in (here, alone):
        add(images, 1, -1, 2)
        add(images, -1)
    for images in (there, alone):
        add(images, 3, 4)
    here.merge(there)
    for images in (here, alone):
        scores, tiles, regions = images.joined()
        assert scores.tolist() == [1, 2, 3, 4]
        assert {name: each.tolist() for name, each in tiles.items()} == {
            "r00_c00": [11, 12, 13, 14],
            "r00_c01": [21, 22, 23, 24],
        }
        assert regions["screw"].tolist() == [31, 32, 33, 34]


def test_no_images_have_no_scores() -> None:
    scores, tiles, regions = NormalImages().joined()
    assert (scores.tolist(), tiles, regions) == ([], {}, {})
    assert scores.dtype == np.float32
