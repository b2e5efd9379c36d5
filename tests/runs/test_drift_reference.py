"""The file with the normal images that a run was calibrated with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.drift_reference import DriftReference
from anomalib_tiled.runs.run_folder import RunFolder


def reference(images: int = 3, tiles: int = 2) -> DriftReference:
    numbers = np.arange(images, dtype=np.float64)
    return DriftReference(
        "val",
        "fingerprint",
        numbers / 8,
        {"brightness": numbers / 4},
        {f"r00_c0{tile}": np.where(numbers == tile, np.nan, numbers) for tile in range(tiles)},
        {},
    )


@pytest.mark.parametrize(("images", "tiles"), [(3, 2), (0, 2), (3, 0)])
def test_what_is_written_is_read(tmp_path: Path, images: int, tiles: int) -> None:
    written, folder = reference(images, tiles), RunFolder(tmp_path)
    written.write(folder)
    read = DriftReference.read(folder)
    assert (read.subset, read.configuration) == ("val", "fingerprint")
    assert read.scores.tolist() == written.scores.tolist()
    for mine, other in ((read.appearance, written.appearance), (read.tiles, written.tiles), (read.regions, {})):
        assert list(mine) == list(other)
        for name in mine:
            assert np.array_equal(mine[name], other[name], equal_nan=True)


def test_a_run_of_an_earlier_version_is_calibrated_again(tmp_path: Path) -> None:
    expected = (
        rf"an earlier version has calibrated the run\. Calibrate again: `anomalib tiled fit --ckpt_dir {tmp_path}`"
    )
    with pytest.raises(RunFolderError, match=expected):
        DriftReference.read(RunFolder(tmp_path))


def test_a_changed_file_is_not_used(tmp_path: Path) -> None:
    reference().write(folder := RunFolder(tmp_path))
    content = bytearray(folder.drift_reference_file.read_bytes())
    content[40] ^= 1
    folder.drift_reference_file.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"drift_reference\.npz was changed .* Calibrate again: `anomalib tiled"):
        DriftReference.read(folder)


def test_a_file_of_another_form_is_not_used(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    np.savez(folder.drift_reference_file, scores=np.zeros(3))
    folder.note_checksum(folder.drift_reference_file)
    with pytest.raises(RunFolderError, match=r"drift_reference\.npz cannot be read .* Calibrate again: "):
        DriftReference.read(folder)
