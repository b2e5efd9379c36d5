"""What tile models say is found again if it is of the same images and models, and as it was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.ensemble.tile_predictions import TilePredictions
from anomalib_tiled.errors import RunFolderError, StageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.system.checksums import Checksum

GRID = TileGrid(Size(4, 6), Size(4, 3), Size(4, 3))
TILE = GRID.tiles[1]
CHECKPOINT, ANOTHER = Checksum(1, "a" * 64), Checksum(1, "b" * 64)
SCORES, MAPS = torch.rand(5), torch.rand(5, 1, 4, 3)


def batches(*, maps: bool = True) -> Iterator[TilePrediction]:
    for part in (slice(0, 3), slice(3, 5)):
        yield TilePrediction(SCORES[part], MAPS[part] if maps else None)


@pytest.fixture
def written(tmp_path: Path) -> TilePredictions:
    predictions = TilePredictions(tmp_path / "raw", GRID, "images")
    predictions.write(TILE, CHECKPOINT, batches())
    return predictions


def maps_of(predictions: TilePredictions) -> Path:
    [path] = predictions.folder.glob(f"{TILE.name}.*.maps")
    return path


@pytest.mark.parametrize(("first", "number"), [(0, 5), (2, 2), (4, 1)])
def test_scores_and_maps_are_read_bit_for_bit(written: TilePredictions, first: int, number: int) -> None:
    assert written.find(TILE, CHECKPOINT)
    read = written.read(TILE, first, number)
    assert torch.equal(read.scores, SCORES[first : first + number])
    assert torch.equal(read.maps, MAPS[first : first + number])


def test_the_room_that_is_needed_is_known_beforehand(written: TilePredictions) -> None:
    needed = TilePredictions.bytes_for(GRID, 5)
    assert len(GRID.tiles) * maps_of(written).stat().st_size == needed


def test_a_model_without_maps(tmp_path: Path) -> None:
    predictions = TilePredictions(tmp_path / "raw", GRID, "images")
    predictions.write(TILE, CHECKPOINT, batches(maps=False))
    assert predictions.find(TILE, CHECKPOINT)
    assert predictions.read(TILE, 1, 2).maps is None
    assert torch.equal(predictions.read(TILE, 1, 2).scores, SCORES[1:3])


def test_what_was_predicted_is_found_by_another_command(written: TilePredictions) -> None:
    later = TilePredictions(written.folder, GRID, "images")
    assert later.find(TILE, CHECKPOINT)
    assert not later.find(GRID.tiles[0], CHECKPOINT)
    assert not later.find(TILE, ANOTHER)


def test_other_images_are_predicted_anew(written: TilePredictions) -> None:
    assert not TilePredictions(written.folder, GRID, "others").find(TILE, CHECKPOINT)


def test_another_checkpoint_replaces_what_was_predicted(written: TilePredictions) -> None:
    early = maps_of(written)
    written.write(TILE, ANOTHER, batches())
    assert written.find(TILE, ANOTHER)
    assert maps_of(written) != early
    assert not early.exists()


def test_a_tile_that_is_trained_again_meanwhile_is_not_mixed(written: TilePredictions) -> None:
    assert written.find(TILE, CHECKPOINT)
    TilePredictions(written.folder, GRID, "images").write(TILE, ANOTHER, batches())
    with pytest.raises(RunFolderError, match=r"has changed while it was read. Was the tile trained again\?"):
        written.read(TILE, 0, 2)


@pytest.mark.parametrize("name", ["json", "maps"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_what_was_damaged_is_predicted_anew(written: TilePredictions, name: str, harm: str) -> None:
    path = maps_of(written) if name == "maps" else written.folder / f"{TILE.name}.json"
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm != "remove":
        content[10] ^= 1
        path.write_bytes(content if harm == "flip" else content[:20])
    assert not TilePredictions(written.folder, GRID, "images").find(TILE, CHECKPOINT)


@pytest.mark.parametrize("change", [lambda scores: scores[:-1], lambda scores: [0.5, *scores[1:]], lambda _: ["x"]])
def test_scores_that_were_altered_are_predicted_anew(
    written: TilePredictions, change: Callable[[list[float]], list[object]]
) -> None:
    path = written.folder / f"{TILE.name}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "scores": change(content["scores"])}))
    assert not TilePredictions(written.folder, GRID, "images").find(TILE, CHECKPOINT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error_and_leaves_nothing(tmp_path: Path, value: float) -> None:
    predictions = TilePredictions(tmp_path / "raw", GRID, "images")
    wrong = TilePrediction(SCORES, torch.where(MAPS.max() == MAPS, value, MAPS))
    with pytest.raises(StageError, match=f"The model of tile {TILE.name} predicts infinities or NaN"):
        predictions.write(TILE, CHECKPOINT, [wrong])
    assert list(predictions.folder.iterdir()) == []
