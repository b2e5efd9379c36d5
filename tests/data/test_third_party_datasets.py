from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from anomalib.data import AnomalibDataModule, DepthItem, Folder, ImageItem
from anomalib.data.datasets.image.folder import FolderDataset
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.errors import DataError

Change = Callable[[ImageItem], Any]

MODULE = '''
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.image.folder import FolderDataset


class Lines(AnomalibDataModule):
    """Knows nothing of masks or modes."""

    def __init__(self, root):
        super().__init__(train_batch_size=2, eval_batch_size=2, num_workers=0, val_split_mode="from_test",
                         test_split_mode="from_dir")
        self.root = root

    def _setup(self, _stage=None):
        folders = {"root": self.root, "normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad"}
        self.train_data = FolderDataset("lines", split="train", **folders)
        self.test_data = FolderDataset("lines", split="test", **folders)
'''


class Own(FolderDataset):
    """Reads as anomalib does, then changes what it read."""

    change: Change = staticmethod(lambda item: item)

    def __getitem__(self, index: int) -> ImageItem:
        return self.change(super().__getitem__(index))


@pytest.fixture
def third_party(image_folder: Path) -> Callable[[Change], AnomalibDataModule]:
    """Make a data module whose data sets change what they read."""

    class ThirdParty(Folder):
        def _setup(self, _stage: str | None = None) -> None:
            super()._setup(_stage)
            for dataset in (self.train_data, self.test_data):
                dataset.__class__ = Own

    def make(change: Change, **arguments: object) -> AnomalibDataModule:
        Own.change = staticmethod(change)
        folders = {"normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad", "mask_dir": "masks"}
        return ThirdParty(name="own", root=image_folder, num_workers=0, **folders, **arguments)

    return make


def test_a_data_module_that_anomalib_does_not_ship(
    image_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("package")
    (folder / "lines_of_a_factory.py").write_text(MODULE)
    monkeypatch.syspath_prepend(folder)
    datamodule = ClassSpec("lines_of_a_factory.Lines", {"root": str(image_folder)}).build(AnomalibDataModule)
    split = split_once(datamodule)
    assert [len(split.subset(name)) for name in ("train", "val", "test")] == [4, 2, 2]
    assert not split.has_masks


def test_reading_in_its_own_way_is_fine_if_it_comes_to_the_same(third_party: Callable[..., AnomalibDataModule]) -> None:
    def with_opencv(item: ImageItem) -> ImageItem:
        pixels = cv2.cvtColor(cv2.imread(item.image_path), cv2.COLOR_BGR2RGB)
        return item.update(in_place=False, image=torch.from_numpy(pixels).permute(2, 0, 1))

    assert len(split_once(third_party(with_opencv)).subset("train")) == 4
    assert split_once(third_party(lambda item: item)).has_masks


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda item: item.update(in_place=False, image=1 - item.image), "another image than its file"),
        (lambda item: item.update(in_place=False, gt_label=torch.tensor(1)), "another label than its samples"),
        (lambda item: item.update(in_place=False, gt_mask=None), "another mask than its file"),
        (lambda item: item.update(in_place=False, gt_mask=torch.ones(8, 12).bool()), "a mask"),
        (
            lambda item: DepthItem(image=item.image, depth_map=item.image, image_path=item.image_path),
            "a DepthItem instead of an ImageItem",
        ),
    ],
)
def test_images_that_are_not_those_of_the_files_are_refused(
    third_party: Callable[..., AnomalibDataModule], change: Change, difference: str
) -> None:
    message = f"Tiles are cut from files, but Own gives {difference}.* for .*png. Save the images that it gives as"
    with pytest.raises(DataError, match=message):
        split_once(third_party(change))


def test_every_image_is_compared(third_party: Callable[..., AnomalibDataModule]) -> None:
    def spoil_the_last(item: ImageItem) -> ImageItem:
        return item.update(in_place=False, image=1 - item.image) if item.image_path.endswith("test/1.png") else item

    with pytest.raises(DataError, match=r"another image than its file for .*test/1\.png"):
        split_once(third_party(spoil_the_last, val_split_mode="none"))


def test_an_image_that_cannot_be_given(third_party: Callable[..., AnomalibDataModule]) -> None:
    message = r"ThirdParty could not be set up: .*heat.*\(AttributeError\)"
    with pytest.raises(DataError, match=message):
        split_once(third_party(lambda item: item.heat))


def test_images_are_compared_before_they_are_augmented(third_party: Callable[..., AnomalibDataModule]) -> None:
    flip = RandomHorizontalFlip(p=1.0)
    assert split_once(third_party(lambda item: item, augmentations=flip)).has_masks


def test_augmentations_that_the_data_module_does_not_name(datamodule: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    flip = Compose([RandomHorizontalFlip()])
    monkeypatch.setattr(Folder, "_update_augmentations", lambda self: setattr(self.train_data, "augmentations", flip))
    with pytest.raises(DataError, match=r"FolderDataset has others: Compose.*Give them to the data module"):
        split_once(datamodule)


def test_images_that_are_generated_without_a_table(datamodule: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TensorDataset(torch.rand(4, 3, 8, 12))
    monkeypatch.setattr(Folder, "train_dataloader", lambda _: DataLoader(dataset))
    with pytest.raises(DataError, match="train_dataloader must load an AnomalibDataset, but loads TensorDataset"):
        split_once(datamodule)


def test_a_table_without_labels(datamodule: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_labels(self: Folder) -> None:
        self.train_data.samples = self.train_data.samples.drop(columns="label_index")

    monkeypatch.setattr(Folder, "_update_augmentations", without_labels)
    with pytest.raises(DataError, match="must have the columns image_path and label_index, but lack label_index"):
        split_once(datamodule)


def test_a_label_that_is_none(datamodule: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_many_classes(self: Folder) -> None:
        self.train_data.samples = self.train_data.samples.assign(label_index=[0, 1, 2, 3])

    monkeypatch.setattr(Folder, "_update_augmentations", of_many_classes)
    with pytest.raises(DataError, match=r"label_index must be 0, 1, or -1 for unknown, but is 2 for .*good/2\.png"):
        split_once(datamodule)
