"""What tile models say is found again if it is of the same images and models, and as it was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
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


def values_of(predictions: TilePredictions) -> Path:
    [path] = predictions.folder.glob(f"{TILE.name}.*.values")
    return path


@pytest.mark.parametrize(("first", "number"), [(0, 5), (2, 2), (4, 1)])
def test_scores_and_maps_are_read_bit_for_bit(written: TilePredictions, first: int, number: int) -> None:
    assert written.find(TILE, CHECKPOINT)
    read = written.read(TILE, first, number)
    assert torch.equal(read.scores, SCORES[first : first + number])
    assert torch.equal(read.maps, MAPS[first : first + number])


def test_the_room_that_is_needed_is_known_beforehand(written: TilePredictions) -> None:
    needed = TilePredictions.bytes_for(GRID, 5)
    assert len(GRID.tiles) * values_of(written).stat().st_size == needed


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
    early = values_of(written)
    written.write(TILE, ANOTHER, batches())
    assert written.find(TILE, ANOTHER)
    assert values_of(written) != early
    assert not early.exists()


def test_a_tile_that_is_trained_again_meanwhile_is_not_mixed(written: TilePredictions) -> None:
    assert written.find(TILE, CHECKPOINT)
    TilePredictions(written.folder, GRID, "images").write(TILE, ANOTHER, batches())
    with pytest.raises(RunFolderError, match=r"has changed while it was read. Was the tile trained again\?"):
        written.read(TILE, 0, 2)


@pytest.mark.parametrize("name", ["json", "values"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_what_was_damaged_is_predicted_anew(written: TilePredictions, name: str, harm: str) -> None:
    path = values_of(written) if name == "values" else written.folder / f"{TILE.name}.json"
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm != "remove":
        content[10] ^= 1
        path.write_bytes(content if harm == "flip" else content[:20])
    assert not TilePredictions(written.folder, GRID, "images").find(TILE, CHECKPOINT)


def later(written: TilePredictions) -> TilePredictions:
    """The same predictions, as another command sees them."""
    return TilePredictions(written.folder, GRID, "images")


def test_a_file_with_the_time_of_its_record_is_not_read_for_its_checksum(
    written: TilePredictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Path] = []
    check = Checksum.check
    monkeypatch.setattr(Checksum, "check", lambda self, path, advice: checked.append(path) or check(self, path, advice))
    assert later(written).find(TILE, CHECKPOINT)
    assert checked == []
    values_of(written).touch()
    assert later(written).find(TILE, CHECKPOINT, compare=False)
    assert checked == []
    assert later(written).find(TILE, CHECKPOINT)
    assert checked == [values_of(written)]


def test_many_tiles_are_found_with_one_look(written: TilePredictions) -> None:
    first, second = (tile.name for tile in GRID.tiles)
    assert later(written).find_all({first: CHECKPOINT, second: CHECKPOINT}) == {second}
    assert later(written).find_all({first: CHECKPOINT, second: ANOTHER}) == set()
    written.write(GRID.tiles[0], ANOTHER, batches())
    written.write_index()
    found = later(written)
    assert found.find_all({first: ANOTHER, second: CHECKPOINT}) == {first, second}
    assert found.has_found(TILE)
    assert torch.equal(found.read(TILE, 0, 5).maps, MAPS)
    values_of(written).write_bytes(b"cut")
    assert later(written).find_all({first: ANOTHER, second: CHECKPOINT}) == {first}


def test_predictions_of_a_folder_that_is_not_there_are_missing(tmp_path: Path) -> None:
    assert TilePredictions(tmp_path / "none", GRID, "images").find_all({TILE.name: CHECKPOINT}) == set()


def test_a_record_of_an_earlier_version_is_predicted_anew(written: TilePredictions) -> None:
    earlier = {
        "checkpoint": CHECKPOINT.sha256,
        "images": "images",
        "scores": SCORES.tolist(),
        "scores_sha256": "",
        "maps": {"size": 240, "sha256": ""},
    }
    (written.folder / f"{TILE.name}.json").write_text(json.dumps(earlier))
    assert not later(written).find(TILE, CHECKPOINT)
    written.write(TILE, CHECKPOINT, batches())
    assert later(written).find(TILE, CHECKPOINT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error_and_leaves_nothing(tmp_path: Path, value: float) -> None:
    predictions = TilePredictions(tmp_path / "raw", GRID, "images")
    wrong = TilePrediction(SCORES, torch.where(MAPS.max() == MAPS, value, MAPS))
    with pytest.raises(StageError, match=f"The model of tile {TILE.name} predicts infinities or NaN"):
        predictions.write(TILE, CHECKPOINT, [wrong])
    assert list(predictions.folder.iterdir()) == []
