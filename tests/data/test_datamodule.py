"""What a run takes from a data module: numbers and names, the split, and images that appear later."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder, MVTecAD, Tabular
from PIL import Image

from anomalib_tiled.data.datamodule import appeared, check_numbers, folders_of, keep_generated, split_once
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import ConfigurationError, DataError

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


def test_paths_are_absolute_so_that_commands_work_from_anywhere() -> None:
    assert split_once(fake([("a", 0)], [], [("b", -1)])).subset("test") == (
        Sample("test", Path("b").absolute(), None, None),
    )


def test_validation_may_be_the_test_images_if_that_is_documented() -> None:
    assert split_once(fake([("a", 0)], [("c", 1)], [("c", 1)], mode="same_as_test")).calibrated_on_test
    with pytest.raises(DataError, match="1 are in train and test"):
        split_once(fake([("a", 0)], [], [("a", 0)], mode="same_as_test"))


@pytest.mark.parametrize("train", [[], [("a", 1)]])
def test_there_must_be_a_normal_training_image(train: list[tuple[str, int]]) -> None:
    with pytest.raises(DataError, match="There must be at least one normal training image"):
        split_once(fake(train, [], [("b", 0)]))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_batch_size": 0}, "data.init_args.train_batch_size must be at least 1, but is 0. Raise it."),
        ({"eval_batch_size": 0}, "data.init_args.eval_batch_size must be at least 1, but is 0. Raise it."),
        ({"num_workers": -1}, "data.init_args.num_workers must be at least 0, but is -1. Raise it."),
    ],
)
def test_numbers_with_which_nothing_can_be_loaded(changes: dict[str, int], message: str) -> None:
    check_numbers(Folder(name="parts", normal_dir="good", num_workers=0, train_batch_size=1, eval_batch_size=1))
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        check_numbers(Folder(name="parts", normal_dir="good", **changes))


NO_FOLDERS = ("../../evil", "/evil", "..", ".", "", "a\\b", "a\nb")


@pytest.mark.parametrize("name", NO_FOLDERS)
def test_a_name_that_would_lead_elsewhere(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^data\.init_args\.name must be the name of a folder, .* but is '"):
        folders_of(Folder(name=name, normal_dir="good"))
    if name:  # without a category there is no folder of it
        data = Folder(name="parts", normal_dir="good")
        data.category = name
        with pytest.raises(ConfigurationError, match=r"^data\.init_args\.category must be the name of a folder"):
            folders_of(data)


@pytest.mark.parametrize("name", ["parts 2", ".hidden", "...", "teile_ä"])
def test_any_other_name_is_a_folder_below_that_of_all_runs(name: str, tmp_path: Path) -> None:
    data = Folder(name=name, normal_dir="good")
    assert folders_of(data) == [name]
    data.category = name
    assert folders_of(data) == [name, name]
    assert tmp_path.joinpath(*folders_of(data)).resolve().parent.parent == tmp_path.resolve()


def draw(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(root / name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("good", "ok", "bad/crack", "masks/crack"):
        draw(tmp_path / "parts", *(f"{folder}/{number}.png" for number in range(4)))
    return tmp_path / "parts"


def parts(root: Path, val: str = "none", test: str = "from_dir", **more: object) -> Folder:
    folders = {"normal_dir": ["good"], "normal_test_dir": "ok", "abnormal_dir": "bad", "mask_dir": "masks"}
    modes = {"val_split_mode": val, "test_split_mode": test}
    return Folder("parts", root=root, num_workers=0, **{**folders, **modes, **more})


def split_of(datamodule: AnomalibDataModule, kept: Path) -> Split:
    return keep_generated(split_once(datamodule), datamodule, kept)


@pytest.mark.parametrize(
    ("val", "test"),
    [("none", "none"), ("same_as_test", "from_dir"), ("from_test", "synthetic"), ("synthetic", "from_dir")],
)
def test_images_that_come_after_the_split_are_counted_whatever_was_left_out_of_it(
    root: Path, tmp_path: Path, val: str, test: str
) -> None:
    split = split_of(parts(root, val, test), tmp_path / "kept")
    assert appeared(split, parts(root, val, test)) is None
    draw(root, "good/new/4.png")
    assert appeared(split, parts(root, val, test)) == (1, root / "good/new/4.png")
    (root / "good" / "5.tif").write_bytes((root / "good" / "0.png").read_bytes())
    (root / "good" / "notes.txt").touch()
    assert appeared(split, parts(root, val, test)) == (2, root / "good/5.tif")


def paths_of(split: Split) -> list[Path]:
    return [path for sample in split.samples for path in (sample.image_path, *sample.masks)]


def test_folders_keep_the_names_of_their_mounts(root: Path, tmp_path: Path) -> None:
    """Anomalib follows links, but they may lead elsewhere on another machine."""
    (tmp_path / "mount").symlink_to(tmp_path, target_is_directory=True)
    (root / "better").symlink_to(root / "good", target_is_directory=True)
    mounted = tmp_path / "mount" / "parts"
    data = parts(mounted, abnormal_dir=str(mounted / "bad"), normal_dir=["better"])
    split, plain = split_once(data), split_once(parts(root))
    assert {path.relative_to(mounted).parts[0] for path in paths_of(split)} == {"better", "ok", "bad", "masks"}
    followed = [Path(os.path.realpath(path)) for path in paths_of(split)]
    assert followed == paths_of(plain)
    draw(root, "good/9.png")
    for earlier in (split, plain):
        assert appeared(earlier, data) == (1, mounted / "better/9.png")
    rows = {"image_path": ["good/0.png", "bad/crack/0.png"], "label_index": [0, 1], "split": ["train", "test"]}
    table = Tabular("t", {**rows, "mask_path": ["", "masks/crack/0.png"]}, root=mounted, num_workers=0)
    assert all(path.is_relative_to(mounted) for path in paths_of(split_once(table)))


def test_defects_and_normal_test_images(root: Path, tmp_path: Path) -> None:
    split = split_of(parts(root), tmp_path / "kept")
    draw(root, "bad/hole/0.png", "ok/9.png", "masks/crack/9.png", "elsewhere/0.png")
    number, _ = appeared(split, parts(root)) or (0, None)
    assert number == 2, "a defect without a mask is one; a mask is none"
    assert appeared(split, parts(root, extensions=(".bmp",))) is None, "only endings that the user names"


def test_the_layout_of_mvtec(tmp_path: Path) -> None:
    for folder in ("train/good", "test/good", "test/bent"):
        draw(tmp_path / "part", f"{folder}/0.png", f"{folder}/1.png")
    draw(tmp_path / "part", "ground_truth/bent/0_mask.png", "ground_truth/bent/1_mask.png")

    def data() -> MVTecAD:
        return MVTecAD(tmp_path, "part", num_workers=0, val_split_mode="same_as_test")

    split = split_once(data())
    assert appeared(split, data()) is None
    draw(tmp_path / "part", "test/cut/0.png")
    assert appeared(split, data()) == (1, tmp_path / "part/test/cut/0.png")


def test_images_beside_those_of_a_table_are_none_of_the_run(root: Path) -> None:
    samples = {"image_path": ["good/0.png"], "label_index": [0], "split": ["train"]}
    modes = {"val_split_mode": "none", "test_split_mode": "none"}
    data = Tabular("t", {**samples, "mask_path": [""]}, root=root, num_workers=0, **modes)
    assert appeared(split_once(data), data) is None
