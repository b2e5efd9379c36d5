"""Masks go to the images that they are called after, whatever anomalib makes of the order of their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anomalib.data import AnomalibDataModule, AnomalibDataset, Folder, Kolektor, MVTecAD, MVTecLOCO, Tabular
from PIL import Image

from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.split import Split
from anomalib_tiled.errors import DataError

FOLDERS = {"name": "f", "normal_dir": "good", "normal_test_dir": "ok", "num_workers": 0}


def draw(root: Path, *names: str, value: int = 9) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(root / name)


def masks_of(split: Split, root: Path) -> dict[str, str]:
    """Give the mask of each anomalous image, by their paths below a folder."""
    return {
        sample.image_path.relative_to(root).as_posix(): sample.masks[0].relative_to(root).as_posix()
        for sample in split.samples
        if sample.label == 1
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path, *(f"good/{number}.png" for number in range(4)), "ok/0.png", "ok/1.png")
    return tmp_path


def fit_folder(root: Path, abnormal: str | Sequence[str], mask: str | Sequence[str], **more: str) -> Split:
    return split_once(Folder(root=root, abnormal_dir=abnormal, mask_dir=mask, **FOLDERS, **more))


@pytest.mark.parametrize("mode", ["same_as_test", "from_test"])
def test_folders_whose_masks_sort_otherwise(folder: Path, mode: str) -> None:
    for kind in ("crack", "crack_big"):
        draw(folder, *(f"bad/{kind}/{number}.png" for number in range(3)))
        draw(folder, *(f"gt/{kind}_mask/{number}.png" for number in range(3)))
    pairs = {f"bad/{kind}/{n}.png": f"gt/{kind}_mask/{n}.png" for kind in ("crack", "crack_big") for n in range(3)}
    lists = (["bad/crack", "bad/crack_big"], ["gt/crack_mask", "gt/crack_big_mask"])
    for abnormal, mask in (lists, ("bad", "gt"), (lists[0], "gt"), ("bad", lists[1]), ("bad", ["gt", "gt/crack_mask"])):
        assert masks_of(fit_folder(folder, abnormal, mask, val_split_mode=mode), folder) == pairs


def test_numbers_without_zeros_before_them(folder: Path) -> None:
    draw(folder, *(f"bad/{number}.png" for number in range(12)), *(f"masks/{number}_mask.png" for number in range(12)))
    split = fit_folder(folder, "bad", "masks")
    assert masks_of(split, folder) == {f"bad/{number}.png": f"masks/{number}_mask.png" for number in range(12)}
    assert split.has_masks


def test_the_order_of_lists_tells_where_names_do_not(folder: Path) -> None:
    draw(folder, "x/one/0.png", "x/two/0.png", "m/beta/0.png", "m/alpha/0.png")
    pairs = masks_of(fit_folder(folder, ["x/one", "x/two"], ["m/beta", "m/alpha"]), folder)
    assert pairs == {"x/one/0.png": "m/beta/0.png", "x/two/0.png": "m/alpha/0.png"}


@pytest.mark.parametrize(
    ("abnormal", "mask"),
    [
        (["a/bad", "b/bad"], ["b/gt", "a/gt"]),
        (["bad_crack", "bad_crack_big"], ["gt_crack_big", "gt_crack"]),
        (["bad1", "bad10"], ["mask10", "mask1"]),
        (["bad/Crack", "bad/Hole"], ["gt/hole", "gt/crack"]),
    ],
)
def test_lists_whose_order_contradicts_their_names(folder: Path, abnormal: list[str], mask: list[str]) -> None:
    draw(folder, *(f"{each}/0.png" for each in (*abnormal, *mask)))
    message = rf"so on, but .*{abnormal[0]} has the position of .*{mask[0]} and the name of .*{mask[1]}\. Change the"
    with pytest.raises(DataError, match=message):
        fit_folder(folder, abnormal, mask)
    assert masks_of(fit_folder(folder, abnormal, mask[::-1]), folder) == {
        f"{abnormal[0]}/0.png": f"{mask[1]}/0.png",
        f"{abnormal[1]}/0.png": f"{mask[0]}/0.png",
    }


def test_an_image_without_a_mask_in_its_folder(folder: Path) -> None:
    draw(folder, "bad/a/0.png", "bad/b/0.png", "gt/a/0.png", "gt/b/1.png")
    for abnormal, mask in ((["bad/a", "bad/b"], ["gt/a", "gt/b"]), ("bad", "gt")):
        with pytest.raises(DataError, match=r"but .*bad/b/0\.png has none: (there is no|no file in) .*gt/b"):
            fit_folder(folder, abnormal, mask)


def test_an_image_is_no_mask(folder: Path) -> None:
    draw(folder, "bad/0.png", "bad/0_mask.png")
    with pytest.raises(DataError, match=r"bad/0\.png has none: no file in .*bad has its name"):
        fit_folder(folder, "bad", "bad")


def test_the_layout_of_mvtec_without_zeros_before_numbers(tmp_path: Path) -> None:
    draw(tmp_path, *(f"part/train/good/{number}.png" for number in range(4)), "part/test/good/0.png")
    pairs = {}
    for kind in ("bent", "cut"):
        pairs |= {f"part/test/{kind}/{n}.png": f"part/ground_truth/{kind}/{n}_mask.png" for n in (1, 2, 10)}
    draw(tmp_path, *pairs, *pairs.values())
    datamodule = MVTecAD(root=tmp_path, category="part", num_workers=0)
    assert masks_of(split_once(datamodule), tmp_path) == pairs
    (tmp_path / "part/ground_truth/cut/10_mask.png").unlink()
    with pytest.raises(DataError, match=r"cut/10\.png has none: there is no .*ground_truth/cut/10_mask\.\*"):
        split_once(MVTecAD(root=tmp_path, category="part", num_workers=0))


class OwnWay(Folder):
    """A data module of a third party that finds its images as Folder does."""

    def _setup(self, _stage: str | None = None) -> None:
        super()._setup(_stage)


def test_a_class_made_from_folder(folder: Path) -> None:
    draw(folder, "bad/2.png", "bad/10.png", "masks/2_mask.png", "masks/10_mask.png", "masks/1_mask.png")
    pairs = {"bad/2.png": "masks/2_mask.png", "bad/10.png": "masks/10_mask.png"}
    assert masks_of(split_once(OwnWay(root=folder, abnormal_dir="bad", mask_dir="masks", **FOLDERS)), folder) == pairs
    for kind in ("crack", "crack_big"):
        draw(folder, f"worse/{kind}/0.png", f"gt/{kind}_mask/0.png")
    data = OwnWay(root=folder, abnormal_dir="worse", mask_dir="gt", **FOLDERS)
    assert masks_of(split_once(data), folder) == {
        "worse/crack/0.png": "gt/crack_mask/0.png",
        "worse/crack_big/0.png": "gt/crack_big_mask/0.png",
    }
    data = OwnWay(root=folder / "none", **FOLDERS)
    with pytest.raises(DataError, match="OwnWay could not be set up: Path does not exist"):
        split_once(data)


class Swapped(AnomalibDataModule):
    """A data module of a third party that joins images and masks by position."""

    def __init__(self, pairs: dict[str, str], train: str) -> None:
        super().__init__(train_batch_size=1, eval_batch_size=1, num_workers=0, test_split_mode="from_dir")
        self.pairs, self.train = pairs, train

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data, self.test_data = AnomalibDataset(), AnomalibDataset()
        columns = ["image_path", "label_index", "mask_path", "split"]
        rows = [[image, 1, mask, "test"] for image, mask in self.pairs.items()]
        for dataset, content in ((self.train_data, [[self.train, 0, "", "train"]]), (self.test_data, rows)):
            dataset.samples = pd.DataFrame(content, columns=columns)
            dataset.samples.attrs["task"] = "segmentation"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"bad/1.png": "gt/10_mask.png", "bad/10.png": "gt/1_mask.png"}, False),
        ({"bad/crack/0.png": "gt/crack_big/0.png", "bad/crack_big/0.png": "gt/crack/0.png"}, False),
        ({"bad/1.png": "gt/x.png", "bad/10.png": "gt/y.png"}, True),
        ({"bad/1.png": "gt/1.png", "bad/10.png": "gt/10.png"}, True),
    ],
)
def test_pairs_of_a_third_party_stay_unless_names_tell_others(
    folder: Path, given: dict[str, str], *, kept: bool
) -> None:
    draw(folder, *given, *given.values())
    absolute = {str(folder / image): str(folder / mask) for image, mask in given.items()}
    found = masks_of(split_once(Swapped(absolute, str(folder / "good/0.png"))), folder)
    first, second = given.values()
    assert found == (given if kept else dict(zip(given, (second, first), strict=True)))


def test_pairs_that_are_written_down_stay(folder: Path) -> None:
    draw(folder, "bad/0.png", "bad/1.png", "m/0.png", "m/1.png")
    samples = {
        "image_path": ["good/0.png", "bad/0.png", "bad/1.png"],
        "label_index": [0, 1, 1],
        "split": ["train", "test", "test"],
        "mask_path": ["", "m/1.png", "m/0.png"],
    }
    split = split_once(Tabular("t", samples, root=folder, num_workers=0, val_split_mode="none"))
    assert masks_of(split, folder) == {"bad/0.png": "m/1.png", "bad/1.png": "m/0.png"}


def test_labels_that_come_from_the_masks_of_other_images(tmp_path: Path) -> None:
    """The mask of part 10 has a defect; anomalib gives it to part 1, and trains on part 10."""
    for number in range(12):
        draw(tmp_path, f"kos01/Part{number}.jpg")
        draw(tmp_path, f"kos01/Part{number}_label.bmp", value=255 if number == 10 else 0)
    with pytest.raises(DataError, match=r"but .*Part10\.jpg gets .*label\.bmp instead of .*Part10_label\.bmp"):
        split_once(Kolektor(root=tmp_path, num_workers=0))


def test_names_that_only_folders_could_pair(tmp_path: Path) -> None:
    for number in range(12):
        draw(tmp_path, f"kos01/Part{number}.jpg")
        draw(tmp_path, f"kos01/Part{number}_label.bmp", value=255 if number == 1 else 0)
    with pytest.raises(
        DataError, match=r"Kolektor could not be set up: .* It joins images and masks by position\. Pad"
    ):
        split_once(Kolektor(root=tmp_path, num_workers=0))


def test_several_masks_of_an_image_stay_together(tmp_path: Path) -> None:
    for split in ("train/good", "validation/good", "test/good", "test/logical"):
        draw(tmp_path, f"part/{split}/1.png", f"part/{split}/10.png")
    draw(tmp_path, *(f"part/ground_truth/logical/{image}/{mask}.png" for image in (1, 10) for mask in (0, 1)))
    split = split_once(MVTecLOCO(root=tmp_path, category="part", num_workers=0))
    found = {sample.image_path.stem: {mask.parent.name for mask in sample.masks} for sample in split.subset("test")}
    assert found["1"] == {"1"}
    assert found["10"] == {"10"}
