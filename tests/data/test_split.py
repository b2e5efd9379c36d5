from __future__ import annotations

from pathlib import Path

import pytest
from anomalib.data import Folder

from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import RunFolderError


def test_validation_on_the_test_images_is_noticed(datamodule: Folder) -> None:
    split = split_once(datamodule)
    assert [sample.image_path for sample in split.subset("val")] == [s.image_path for s in split.subset("test")]
    assert split.calibrated_on_test
    assert split.calibration_subset == "val"


def test_without_validation_images_stages_learn_from_the_training_images(image_folder: Path) -> None:
    split = split_once(
        Folder("tiny", root=image_folder, normal_dir="good", test_split_mode="none", val_split_mode="none")
    )
    assert split.calibration_subset == "train"
    assert not split.calibrated_on_test
    assert not split.has_masks


def test_a_split_survives_being_written_and_read(tmp_path: Path) -> None:
    split = Split(
        (
            Sample("train", Path("/a, b.png"), None, 0),
            Sample("val", Path('/c "d".png'), Path("/mask ü.png"), 1),
            Sample("test", Path("/e.png"), None, None),
        )
    )
    split.write(tmp_path / "split.csv")
    assert Split.parse((tmp_path / "split.csv").read_bytes(), tmp_path / "split.csv") == split
    assert (tmp_path / "split.csv").read_text().splitlines()[0] == "subset,image_path,mask_path,label"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("subset,image_path,mask_path\ntrain,a,b\n", "KeyError"),
        ("subset,image_path,mask_path,label\ntrain,a,,one\n", "ValueError"),
        ("subset,image_path,mask_path,label\ntraining,a,,1\n", "'training' is none of train, val, test"),
        ("subset,image_path,mask_path,label\ntrain\n", "TypeError"),
    ],
)
def test_a_split_that_was_changed(tmp_path: Path, content: str, reason: str) -> None:
    message = rf"must have the columns subset, image_path, mask_path, label, but was changed \(.*{reason}.*\)\. Fit"
    with pytest.raises(RunFolderError, match=message):
        Split.parse(content.encode(), tmp_path / "split.csv")
