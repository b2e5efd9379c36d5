"""Checkpoints are compared to their checksums once, and blamed only for what they are to blame for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder, TileRecord
from anomalib_tiled.runs.verified_checkpoints import VerifiedCheckpoints
from anomalib_tiled.system import checksums
from anomalib_tiled.system.checksums import Checksum

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
