"""Weights that no training changes are stored once."""

from __future__ import annotations

import os
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from anomalib.models import Padim
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs import checkpoints
from anomalib_tiled.runs.checkpoints import (
    SHARED,
    Restorer,
    Sharing,
    VerifiedCheckpoints,
    check_shared,
    checkpoint_of,
    read_checkpoint,
    restore,
    tensors_of,
    write_tensors,
)
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system import checksums
from anomalib_tiled.system.checksums import Checksum


@cache
def untrained() -> Padim:
    """Make a model once: that takes a second."""
    seed_everything(3, verbose=False)
    arguments = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "n_features": 20, "pre_trained": False}
    return Padim(**arguments, post_processor=False, evaluator=False, visualizer=False)


def fresh() -> Padim:
    return deepcopy(untrained())


def other() -> Padim:
    """A model with other weights."""
    changed = fresh()
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(1)
    return changed


def store(model: AnomalibModule, sharing: Sharing, path: Path) -> None:
    torch.save(sharing.stripped(checkpoint_of(model)), path)


def trained(model: Padim, value: float) -> Padim:
    model.model.gaussian.mean = torch.full((20, 4), value)
    model.model.gaussian.inv_covariance = torch.full((4, 20, 20), value)
    return model


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Folder with the checkpoints of two tiles."""
    for number in (1, 2):
        model = fresh()
        sharing = Sharing(tmp_path, model)
        store(trained(model, float(number)), sharing, tmp_path / f"tile{number}.ckpt")
    return tmp_path


def test_what_training_leaves_as_it_was_is_in_a_file_of_its_own(tiles: Path) -> None:
    [shared] = tiles.glob("shared-*.ckpt")
    weights = torch.load(shared, weights_only=True)
    assert {"model.idx", "model.feature_extractor.feature_extractor.conv1.weight"} < set(weights)
    for number in (1, 2):
        own = torch.load(tiles / f"tile{number}.ckpt", weights_only=True)
        assert set(own["state_dict"]) == {"model.gaussian.mean", "model.gaussian.inv_covariance"}
        assert own[SHARED] == {"file": shared.name, "names": list(weights)}


def test_the_checksum_is_taken_while_writing(tmp_path: Path) -> None:
    checksum = write_tensors(checkpoint_of(fresh()), tmp_path / "tile.ckpt")
    assert checksum == Checksum.of(tmp_path / "tile.ckpt")
    assert checksum.size > 1_000_000


def test_a_lack_of_room_is_the_error_of_the_system(tmp_path: Path, limited_files: None) -> None:
    with pytest.raises(OSError, match="File too large"):
        write_tensors({"weights": torch.zeros(100_000)}, tmp_path / "tile.ckpt")


def test_a_model_gets_its_own_weights_and_those_it_shares(tiles: Path) -> None:
    model, expected = other(), trained(fresh(), 2.0)
    for number in (1, 2):  # the same object becomes that of one tile after the other
        restore(model, read_checkpoint(tiles / f"tile{number}.ckpt", Padim))
    weights, again = expected.state_dict(), model.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_tile_with_other_weights_keeps_its_own(tiles: Path) -> None:
    model = fresh()
    sharing = Sharing(tiles, model)
    changed = next(name for name, _ in model.named_parameters())
    with torch.no_grad():
        model.get_parameter(changed).mul_(2)
    store(model, sharing, tiles / "tile3.ckpt")
    assert changed in torch.load(tiles / "tile3.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(
        read_checkpoint(tiles / "tile3.ckpt", Padim)["state_dict"][changed], model.get_parameter(changed)
    )
    assert len(list(tiles.glob("shared-*.ckpt"))) == 1


def test_a_model_that_is_trained_as_a_whole_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "WORTH_SHARING", 10**9)
    model = fresh()
    store(model, Sharing(tmp_path, model), tmp_path / "tile.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["tile.ckpt"]
    assert SHARED not in torch.load(tmp_path / "tile.ckpt", weights_only=True)


def test_what_is_read_is_a_checkpoint_of_lightning(tiles: Path) -> None:
    torch.save(read_checkpoint(tiles / "tile2.ckpt", Padim), tiles / "whole.ckpt")
    model = Padim.load_from_checkpoint(tiles / "whole.ckpt", pre_trained=False)
    weights, again = trained(fresh(), 2.0).state_dict(), model.state_dict()
    assert model.model.n_features == 20
    assert model.post_processor is None
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_shared_weights_that_were_changed_or_removed_are_never_used(tiles: Path) -> None:
    [path] = tiles.glob("shared-*.ckpt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=f"{path} was changed"):
        check_shared(tiles)
    with pytest.raises(RunFolderError, match=f"{path} was changed"):
        Sharing(tiles, fresh())
    path.unlink()
    with pytest.raises(RunFolderError, match=f"{path} is missing"):
        read_checkpoint(tiles / "tile1.ckpt", Padim)


def test_what_is_written_lies_in_the_order_in_which_it_is_used(tmp_path: Path) -> None:
    model = fresh()
    model.model.gaussian.inv_covariance = torch.rand(4, 20, 20).mT  # as an inverse comes
    store(model, Sharing(tmp_path, fresh()), tmp_path / "tile.ckpt")
    weights = read_checkpoint(tmp_path / "tile.ckpt", Padim)["state_dict"]
    assert all(value.is_contiguous() for value in weights.values())
    assert torch.equal(weights["model.gaussian.inv_covariance"], model.model.gaussian.inv_covariance)


def large(value: float, places: int = 900) -> Padim:
    """A model with 1.4 MB of its own."""
    model = trained(fresh(), value)
    model.model.gaussian.inv_covariance = value * torch.rand(places, 20, 20, generator=torch.manual_seed(0)).mT
    return model


def in_file(tensor: torch.Tensor) -> bool:
    return not tensor.untyped_storage().resizable()


def test_large_weights_are_read_out_of_the_file_and_are_the_same(tmp_path: Path) -> None:
    for number in (1, 2):
        store(large(number), Sharing(tmp_path, fresh()), tmp_path / f"tile{number}.ckpt")
    model, expected = large(0.0), other()
    model.model.gaussian.inv_covariance = model.model.gaussian.inv_covariance.contiguous()
    for number in (1, 2):
        with torch.inference_mode():
            Restorer().restore_from(model, tmp_path / f"tile{number}.ckpt")
        restore(expected, read_checkpoint(tmp_path / f"tile{number}.ckpt", Padim))
        weights = expected.state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name])
            assert value.stride() == weights[name].stride()
            assert in_file(value) == (name == "model.gaussian.inv_covariance")


def test_who_keeps_the_weights_of_a_tile_keeps_them_and_what_tiles_share_is_there_once(tmp_path: Path) -> None:
    for number in (1, 2):
        store(trained(fresh(), float(number)), Sharing(tmp_path, fresh()), tmp_path / f"tile{number}.ckpt")
    model, restorer, kept = other(), Restorer(), []
    for number in (1, 2):
        restorer.restore_from(model, tmp_path / f"tile{number}.ckpt")
        kept.append({name: tensor.data for name, tensor in tensors_of(model)})
    for number, weights in zip((1, 2), kept, strict=True):
        expected = trained(fresh(), float(number)).state_dict()
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
    [shared] = tmp_path.glob("shared-*.ckpt")
    once = set(torch.load(shared, weights_only=True))
    assert {name for name in kept[0] if kept[0][name].is_set_to(kept[1][name])} == once


def test_weights_in_another_order_are_copied(tmp_path: Path) -> None:
    """Sums of them in that order may differ in the last bit."""
    store(large(1.0), Sharing(tmp_path, fresh()), tmp_path / "tile.ckpt")
    model = large(0.0)
    before = model.model.gaussian.inv_covariance.stride()
    Restorer().restore_from(model, tmp_path / "tile.ckpt")
    after = model.model.gaussian.inv_covariance
    assert torch.equal(after, large(1.0).model.gaussian.inv_covariance)
    assert after.stride() == before != after.contiguous().stride()
    assert not in_file(after)


def test_what_a_model_does_to_its_weights_stays_with_it(tmp_path: Path) -> None:
    store(large(1.0), Sharing(tmp_path, fresh()), tmp_path / "tile.ckpt")
    checksum, model = Checksum.of(tmp_path / "tile.ckpt"), other()
    restore(model, read_checkpoint(tmp_path / "tile.ckpt", Padim))
    Restorer().restore_from(model, tmp_path / "tile.ckpt")
    assert in_file(model.model.gaussian.inv_covariance)
    model.model.gaussian.inv_covariance.zero_()
    model.model.feature_extractor.requires_grad_(requires_grad=False)
    next(model.model.feature_extractor.parameters()).zero_()
    assert Checksum.of(tmp_path / "tile.ckpt") == checksum
    Restorer().restore_from(model, tmp_path / "tile.ckpt")
    assert torch.equal(model.model.gaussian.inv_covariance, large(1.0).model.gaussian.inv_covariance)
    assert torch.equal(*(next(each.model.feature_extractor.parameters()) for each in (model, fresh())))


def test_a_model_that_reads_out_of_a_file_may_become_larger(tmp_path: Path) -> None:
    places = (900, 100)
    for number in places:
        store(large(1.0, number), Sharing(tmp_path, fresh()), tmp_path / f"tile{number}.ckpt")
    model = large(1.0)
    model.model.gaussian.inv_covariance = model.model.gaussian.inv_covariance.contiguous()
    for number in (*places, *places):
        Restorer().restore_from(model, tmp_path / f"tile{number}.ckpt")
        assert torch.equal(model.model.gaussian.inv_covariance, large(1.0, number).model.gaussian.inv_covariance)


TILE = TileGrid(Size(4, 4), Size(4, 4), Size(4, 4)).tiles[0]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run with one tile, which is no real checkpoint."""
    folder = RunFolder(tmp_path)
    path = folder.checkpoint(TILE)
    path.parent.mkdir()
    path.write_bytes(b"trained")
    folder.write_record(TILE, TileRecord(1.0, 1, "", Checksum.of(path)))
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that are read for their checksum."""
    read: list[Path] = []
    of = checksums.Checksum.of
    monkeypatch.setattr(checksums.Checksum, "of", lambda path: read.append(path) or of(path))
    return read


def load(checkpoints: VerifiedCheckpoints) -> bytes:
    with checkpoints.of(TILE) as path:
        return path.read_bytes()


def test_a_checkpoint_is_read_for_its_checksum_once(folder: RunFolder, read: list[Path]) -> None:
    checkpoints = VerifiedCheckpoints(folder)
    assert {load(checkpoints) for _ in range(3)} == {b"trained"}
    assert read == [folder.checkpoint(TILE)]


def test_one_that_was_trained_again_does_not_join_those_of_before(folder: RunFolder) -> None:
    checkpoints, path = VerifiedCheckpoints(folder), folder.checkpoint(TILE)
    load(checkpoints)
    path.write_bytes(b"trained again")
    folder.write_record(TILE, TileRecord(1.0, 1, "", Checksum.of(path)))
    with pytest.raises(RunFolderError, match=r"Tile r00_c00 of .* was trained again meanwhile\. Load the run again\."):
        load(checkpoints)
    assert load(VerifiedCheckpoints(folder)) == b"trained again"


def test_one_that_is_changed_after_it_was_used_is_not_used_again(folder: RunFolder) -> None:
    checkpoints, path = VerifiedCheckpoints(folder), folder.checkpoint(TILE)
    load(checkpoints)
    path.write_bytes(b"changed")
    with pytest.raises(RunFolderError, match="was changed after it was finished"):
        load(checkpoints)


def test_a_lack_of_memory_is_not_the_fault_of_a_checkpoint(folder: RunFolder) -> None:
    lack = torch.OutOfMemoryError("CUDA out of memory.")
    message = "Padim cannot be made"
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out"), VerifiedCheckpoints(folder).of(TILE):
        raise ConfigurationError(message) from lack
    other = ValueError("no")
    again = r"cannot be loaded: no .*Train the tile again"
    with pytest.raises(RunFolderError, match=again), VerifiedCheckpoints(folder).of(TILE):
        raise ConfigurationError(message) from other


def test_only_a_checkpoint_with_another_size_or_time_is_read_for_its_checksum(
    folder: RunFolder, read: list[Path]
) -> None:
    path = folder.checkpoint(TILE)
    folder.write_record(TILE, TileRecord(1.0, 1, "", Checksum.of(path), path.stat().st_mtime_ns))
    read.clear()
    assert load(VerifiedCheckpoints(folder)) == b"trained"
    assert not read, "it has the size and time of its record"
    os.utime(path, (1, 1))  # as if it had been copied
    checkpoints = VerifiedCheckpoints(folder)
    for _ in range(2):
        checkpoints.check([TILE])
        load(checkpoints)
    assert read == [path]
    path.write_bytes(b"untrue!")
    message = (
        r"r00_c00\.ckpt was changed after it was finished\. Train the tile again: `anomalib .* --tiles r00_c00`\.$"
    )
    with pytest.raises(RunFolderError, match=message):
        checkpoints.check([TILE])


def test_shared_weights_are_checked_with_the_checkpoints(folder: RunFolder) -> None:
    shared = folder.path / "tiles" / "shared-0a1b.ckpt"
    shared.write_bytes(b"others")
    with pytest.raises(RunFolderError, match=r"shared-0a1b\.ckpt was changed .*: restore it, or fit a new run\.$"):
        VerifiedCheckpoints(folder).check([TILE])
