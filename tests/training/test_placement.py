"""What a new run keeps of the places of parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from skimage import data

from anomalib_tiled.data.images import Pixels
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.placement_file import read_placement
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.placement import IMAGES, record_placement

GRID = TileGrid(Size(192, 192), Size(64, 64), Size(64, 64))
PHOTOGRAPH = data.astronaut()[100:400, 100:400]


@dataclass
class Shifted:
    """Crops of a photograph, each further to the right than the last one."""

    step: int
    read: int = 0

    def image(self, sample: Sample, rows: slice, columns: slice) -> Pixels:
        self.read += 1
        left = self.step * int(sample.image_path.stem)
        return np.ascontiguousarray(PHOTOGRAPH[50:242, left : left + 192][rows, columns])


def run(folder: Path, source: Shifted, images: int, stages: dict[str, Any] | None = None) -> Run:
    split = Split(tuple(Sample("train", Path(f"{number}.png"), None, 0) for number in range(images)))
    settings = SimpleNamespace(stages=stages or {})
    return cast(
        "Run", SimpleNamespace(folder=RunFolder(folder), source=source, split=split, grid=GRID, settings=settings)
    )


def test_places_are_kept_and_nothing_is_said_of_parts_that_lie_still(tmp_path: Path) -> None:
    source = Shifted(0)
    assert record_placement(run(tmp_path, source, IMAGES + 9)) is None
    assert source.read == IMAGES
    placement = read_placement(RunFolder(tmp_path))
    assert placement is not None
    assert (placement.compared, placement.images, placement.size) == (IMAGES, IMAGES, GRID.image_size)


def test_parts_that_lie_apart_are_noted(tmp_path: Path) -> None:
    note = record_placement(run(tmp_path, Shifted(5), 5))
    assert note is not None
    assert note.startswith(
        "Parts lie up to 10.0 pixels and 0.0 degrees from the middle of their places in the training"
    )


def test_aligned_images_are_not_looked_at(tmp_path: Path) -> None:
    source = Shifted(5)
    assert record_placement(run(tmp_path, source, 5, {"alignment": "Rigid"})) is None
    assert source.read == 0
    assert read_placement(RunFolder(tmp_path)) is None


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    record_placement(run(tmp_path, Shifted(0), 2))
    path = RunFolder(tmp_path).placement_file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=r"placement\.npz"):
        read_placement(RunFolder(tmp_path))
