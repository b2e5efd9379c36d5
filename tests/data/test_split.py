from __future__ import annotations

import gc
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import pandas as pd
import pytest
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder, MVTecAD
from PIL import Image

from anomalib_tiled.data.datamodule import keep_generated, split_once
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import DataError, RunFolderError

Rows = list[tuple[str, int]]


class Tables(AnomalibDataModule):
    """A data module of which only the tables of images are there."""

    def __init__(self, train: Rows, val: Rows, test: Rows, mode: str) -> None:
        super().__init__(train_batch_size=1, eval_batch_size=1, num_workers=0, val_split_mode=mode)
        self.train_data, self.val_data, self.test_data = map(self.dataset, (train, val, test))

    def dataset(self, rows: Rows) -> AnomalibDataset:
        dataset = AnomalibDataset()
        dataset._samples = pd.DataFrame(rows, columns=["image_path", "label_index"])  # the images are not there
        return dataset

    def setup(self, stage: str | None = None) -> None:
        """Leave the subsets as they are."""

    def _setup(self, _stage: str | None = None) -> None:
        """Never called."""


def fake(train: Rows, val: Rows, test: Rows, *, mode: str = "none") -> AnomalibDataModule:
    return Tables(train, val, test, mode)


def test_every_image_of_the_data_module_with_what_is_known_of_it(datamodule: Folder, image_folder: Path) -> None:
    split = split_once(datamodule)
    assert {sample.image_path for sample in split.subset("train")} == set((image_folder / "good").iterdir())
    assert {(sample.label, sample.mask_path) for sample in split.subset("train")} == {(0, None)}
    bad = {sample.image_path: sample for sample in split.subset("test") if sample.label == 1}
    assert set(bad) == {image_folder / "bad" / "0.png", image_folder / "bad" / "1.png"}
    assert bad[image_folder / "bad" / "1.png"].mask_path == image_folder / "masks" / "1.png"
    assert split.has_masks


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


@pytest.mark.parametrize(
    ("val", "test", "shared"),
    [
        ([("a", 0)], [], "1 are in train and val, for example .*a"),
        ([], [("b", 0), ("a", 0)], "2 are in train and test, for example .*a"),
        ([("c", 1)], [("c", 1)], "1 are in val and test, for example .*c"),
    ],
)
def test_an_image_in_two_subsets(val: list[tuple[str, int]], test: list[tuple[str, int]], shared: str) -> None:
    with pytest.raises(DataError, match=f"An image must be in one subset only, but {shared}. Check the folders"):
        split_once(fake([("a", 0), ("b", 0)], val, test))


def test_the_same_path_written_differently_is_the_same_image() -> None:
    with pytest.raises(DataError, match="1 are in train and test"):
        split_once(fake([("a", 0)], [], [(str(Path("a").absolute()), 0)]))


def test_paths_are_absolute_so_that_commands_work_from_anywhere() -> None:
    assert split_once(fake([("a", 0)], [], [])).samples[0].image_path == Path("a").absolute()


def test_validation_may_be_the_test_images_if_that_is_documented() -> None:
    assert split_once(fake([("a", 0)], [("c", 1)], [("c", 1)], mode="same_as_test")).calibrated_on_test
    with pytest.raises(DataError, match="1 are in train and test"):
        split_once(fake([("a", 0)], [], [("a", 0)], mode="same_as_test"))


@pytest.mark.parametrize("train", [[], [("a", 1)]])
def test_there_must_be_a_normal_training_image(train: list[tuple[str, int]]) -> None:
    with pytest.raises(DataError, match="There must be at least one normal training image"):
        split_once(fake(train, [], [("b", 0)]))


def test_images_of_unknown_label() -> None:
    split = split_once(fake([("a", 0)], [], [("b", -1)]))
    assert split.subset("test")[0].label is None


def test_a_data_module_that_finds_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The data module Folder could not be set up: "):
        split_once(Folder("tiny", root=tmp_path, normal_dir="none"))


def test_a_mask_that_is_missing_is_named(image_folder: Path) -> None:
    (image_folder / "masks" / "1.png").unlink()
    folders = {"normal_dir": "good", "abnormal_dir": "bad", "mask_dir": "masks"}
    with pytest.raises(DataError, match=r"bad/1\.png has none: there is no .*masks/1\.\*"):
        split_once(Folder("tiny", root=image_folder, **folders))


def test_a_data_module_that_tried_to_download_says_where_it_looked(tmp_path: Path) -> None:
    datamodule = MVTecAD(root=tmp_path / "nowhere")
    datamodule.prepare_data = Mock(side_effect=URLError("no network"))
    message = "MVTecAD could not be set up: <urlopen error no network> .* Its images are not in .*nowhere, so it tr"
    with pytest.raises(DataError, match=message):
        split_once(datamodule)


def test_generated_images_are_kept_when_anomalib_removes_them(image_folder: Path, tmp_path: Path) -> None:
    for path in (image_folder / "good").iterdir():  # anomalib's noise needs at least 32 pixels
        Image.open(path).resize((64, 64)).save(path)
    datamodule = Folder("tiny", root=image_folder, normal_dir="good", test_split_mode="synthetic", test_split_ratio=0.5)
    split = split_once(datamodule)
    roots = {Path(data.root) for data in (datamodule.val_data, datamodule.test_data)}
    kept = keep_generated(split, datamodule, tmp_path / "filled", tmp_path / "kept")
    assert not (tmp_path / "kept").exists(), "that is what it will be called"
    (tmp_path / "filled").rename(tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == len(roots), "copied once, also if both subsets share them"
    del datamodule
    gc.collect()
    assert not any(root.exists() for root in roots)
    assert len(kept.samples) == len(split.samples)
    assert all(sample.image_path.is_file() for sample in kept.samples)
    assert all(sample.mask_path is None or sample.mask_path.is_file() for sample in kept.samples)
    assert kept.subset("train") == split.subset("train")


def test_without_generated_images_nothing_is_copied(datamodule: Folder, tmp_path: Path) -> None:
    split = split_once(datamodule)
    assert keep_generated(split, datamodule, tmp_path / "kept") == split
    assert not (tmp_path / "kept").exists()
