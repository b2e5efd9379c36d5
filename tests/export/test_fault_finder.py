"""What an export changes is found, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.export.fault_finder import culprit
from anomalib_tiled.export.formats import TorchFormat
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages.merging import Max
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Scorer
from anomalib_tiled.stages.seams import SeamSmoother

SMALL = TileGrid(Size(4, 6), Size(4, 4), Size(4, 4))


def changed() -> float:
    """Something else while a graph is made."""
    return 2.0 if torch.compiler.is_exporting() else 1.0


class Merging(Max):
    def add(self, tile: Tile, maps: torch.Tensor) -> None:
        super().add(tile, maps * changed())


class Scoring(Scorer):
    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return tile_scores.amax(dim=0) * changed()


class Smoothing(SeamSmoother):
    def smooth(self, maps: torch.Tensor, grid: TileGrid) -> torch.Tensor:
        return maps * changed()


class Normalizing(MinMax):
    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        return super().apply(scores, learned) / changed()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"predict": lambda images: images * changed()}, "the model Brightness of tile r00_c00"),
        ({"merger": Merging()}, "merging Merging"),
        ({"scorer": Scoring()}, "scoring Scoring"),
        ({"smoother": Smoothing()}, "seam_smoothing Smoothing"),
        ({"normalizer": Normalizing()}, "normalization Normalizing"),
    ],
    ids=lambda each: each.split()[0] if isinstance(each, str) else "",
)
def test_the_part_that_changes_is_named(
    make_ensemble: Callable[..., EnsembleModel], tmp_path: Path, changes: dict[str, object], name: str
) -> None:
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert culprit(make_ensemble(grid=SMALL, **changes), TorchFormat(), tmp_path, images).startswith(name)
