from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import Folder, ImageItem
from PIL import Image
from torch.utils.data import RandomSampler, SequentialSampler
from torchvision.transforms.v2 import Compose, RandomHorizontalFlip

from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.data.tile_dataset import AreaDataset, Images, TileDataModule
from anomalib_tiled.grid import Size, TileGrid

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
SOURCE = DecodedFiles(GRID.image_size, has_masks=True)
FLIP = RandomHorizontalFlip(p=1.0)


@pytest.fixture
def normal(image_folder: Path) -> Sample:
    return Sample("train", image_folder / "good" / "0.png", None, 0)


@pytest.fixture
def defective(image_folder: Path) -> Sample:
    """Its only defect is the pixel in row 1, column 3: in the tile at the top left."""
    return Sample("test", image_folder / "bad" / "1.png", image_folder / "masks" / "1.png", 1)


def item(sample: Sample, tile: str, source: DecodedFiles = SOURCE, augmentations: object = None) -> ImageItem:
    area = GRID.tile(tile).rows, GRID.tile(tile).columns
    return AreaDataset(source, [sample], area=area, grid=GRID, augmentations=augmentations)[0]


def test_a_tile_is_what_stands_there_in_the_image(defective: Sample) -> None:
    tile = item(defective, "r01_c02")
    pixels = SOURCE.image(defective, slice(4, 8), slice(8, 12))
    assert tile.image.shape == (3, 4, 4)
    torch.testing.assert_close(tile.image.numpy(), pixels.transpose(2, 0, 1).astype(np.float32) / 255)
    assert tile.image_path == str(defective.image_path)
    assert tile.mask_path == str(defective.mask_path)


@pytest.mark.parametrize(("name", "label"), [("r00_c00", 1), ("r00_c01", 0), ("r01_c00", 0)])
def test_the_label_is_that_of_the_tile(defective: Sample, name: str, label: int) -> None:
    tile = item(defective, name)
    assert int(tile.gt_label) == label
    assert int(tile.gt_mask.sum()) == label


def test_without_masks_the_label_is_that_of_the_image(image_folder: Path) -> None:
    sample = Sample("test", image_folder / "bad" / "0.png", None, 1)
    tile = item(sample, "r01_c02", DecodedFiles(GRID.image_size, has_masks=False))
    assert int(tile.gt_label) == 1
    assert tile.gt_mask is None


def test_tiles_have_full_size_and_real_pixels_only(tmp_path: Path) -> None:
    """1030 pixels in tiles of 256 leave 6 over: the last tile is moved back, nothing is padded."""
    Image.new("RGB", (1030, 256), "white").save(tmp_path / "white.png")
    grid = TileGrid(Size(256, 1030), Size(256, 256), Size(256, 256))
    source, samples = DecodedFiles(grid.image_size, has_masks=False), [Sample("train", tmp_path / "white.png", None, 0)]
    for tile in grid.tiles:
        image = AreaDataset(source, samples, area=(tile.rows, tile.columns), grid=grid)[0].image
        assert image.shape == (3, 256, 256)
        assert (image == 1).all()
    assert grid.tiles[-1].columns == slice(774, 1030)


def test_the_whole_image_is_augmented_before_it_is_cut(defective: Sample) -> None:
    right = item(defective, "r00_c02", augmentations=Compose([FLIP]))
    left = item(defective, "r00_c00")
    assert torch.equal(right.image, left.image.flip(2))
    assert torch.equal(right.gt_mask, left.gt_mask.flip(1))
    assert int(right.gt_label) == 1
    assert int(item(defective, "r00_c00", augmentations=FLIP).gt_label) == 0


def test_without_masks_augmentations_get_the_image_alone_as_in_anomalib(normal: Sample) -> None:
    class Darken(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image / 2

    source = DecodedFiles(GRID.image_size, has_masks=False)
    dark = item(normal, "r00_c00", source, Darken())
    torch.testing.assert_close(dark.image, item(normal, "r00_c00").image / 2)


def test_whole_images_come_in_order_a_batch_at_a_time(normal: Sample, defective: Sample) -> None:
    samples = [normal, defective, normal]
    batches = list(Images(SOURCE, tuple(samples), GRID, 2, None))
    assert [len(batch.image) for batch in batches] == [2, 1]
    assert batches[0].image.shape == (2, 3, 8, 12)
    assert batches[0].gt_label.tolist() == [0, 1]
    assert batches[0].gt_mask.sum(dim=(1, 2)).tolist() == [0, 1]
    assert [path for batch in batches for path in batch.image_path] == [str(each.image_path) for each in samples]


def test_images_of_which_less_is_known_are_not_beside_others(
    normal: Sample, defective: Sample, image_folder: Path
) -> None:
    unmasked = Sample("test", image_folder / "bad" / "1.png", None, 1)
    unknown = Sample("test", image_folder / "bad" / "1.png", None, None)
    samples = [normal, defective, unmasked, unknown, unknown, normal, defective, normal, unmasked]
    batches = list(Images(SOURCE, tuple(samples), GRID, 2, None))
    labels = [None if batch.gt_label is None else batch.gt_label.tolist() for batch in batches]
    assert labels == [[0, 1], [1], None, [0, 1], [0], [1]]
    assert [batch.gt_mask is None for batch in batches] == [False, True, True, False, False, True]
    assert [path for batch in batches for path in batch.image_path] == [str(each.image_path) for each in samples]


def test_an_image_stays_anomalous_if_its_defect_is_lost_in_resizing(defective: Sample) -> None:
    grid = TileGrid(Size(2, 3), Size(1, 1), Size(1, 1))
    source = DecodedFiles(grid.image_size, has_masks=True)
    assert not source.mask(defective, slice(0, 2), slice(0, 3)).any()
    (batch,) = Images(source, (defective,), grid, 1, None)
    assert batch.gt_label.tolist() == [1]


def test_the_loaders_of_a_tile(datamodule: Folder) -> None:
    split = split_once(datamodule)
    tiles = TileDataModule(SOURCE, split, grid=GRID, tile=GRID.tiles[0], datamodule=datamodule)
    assert (tiles.name, tiles.train_batch_size) == ("tiny", 2)
    assert isinstance(tiles.train_dataloader().sampler, RandomSampler)
    assert isinstance(tiles.val_dataloader().sampler, SequentialSampler)
    assert [len(loader.dataset) for loader in (tiles.train_dataloader(), tiles.test_dataloader())] == [4, 4]
    labels = torch.cat([batch.gt_label for batch in tiles.test_dataloader()])
    assert int(labels.sum()) == 2


def test_batches_are_of_the_sizes_of_the_data_module(datamodule: Folder) -> None:
    datamodule.train_batch_size, datamodule.eval_batch_size, datamodule.num_workers = 3, 4, 8
    split = split_once(datamodule)
    tiles = TileDataModule(SOURCE, split, grid=GRID, tile=GRID.tiles[0], datamodule=datamodule)
    assert [len(batch.image) for batch in tiles.train_dataloader()] == [3, 1]
    assert [len(batch.image) for batch in tiles.val_dataloader()] == [4]
    assert [len(batch.image) for batch in tiles.test_dataloader()] == [4]
    assert tiles.train_dataloader().num_workers == 0, "reading a tile is faster than handing it over"


def test_tiles_that_share_a_model_are_in_one_loader(datamodule: Folder) -> None:
    datamodule.eval_batch_size = 3
    split, grid = split_once(datamodule), GRID.grouped([["r00_c00", "r00_c02", "r01_c01"]])
    tiles = TileDataModule(SOURCE, split, grid=grid, tile=grid.tiles[0], datamodule=datamodule)
    members = ["r00_c00", "r00_c02", "r01_c01"]
    train = tiles.train_dataloader()
    assert isinstance(train.sampler, RandomSampler)
    samples = split.subset("train")
    assert len(train.dataset) == 3 * len(samples) == 12
    expected = [item(sample, name).image for name in members for sample in samples]
    assert all(torch.equal(train.dataset[index].image, image) for index, image in enumerate(expected))
    assert [len(batch.image) for batch in train] == [2] * 6, "of any tiles"
    labels = [item(sample, name).gt_label for name in members for sample in split.calibration_samples]
    assert torch.cat([batch.gt_label for batch in tiles.val_dataloader()]).tolist() == labels
    assert tiles.validation_labels() == labels
    assert 1 in labels
    assert len(tiles.test_dataloader().dataset) == 12
    assert tiles.train_images == 4


def test_a_shared_model_learns_from_some_tiles_of_each_image(datamodule: Folder) -> None:
    split, members = split_once(datamodule), ["r00_c00", "r00_c02", "r01_c01"]
    grid = GRID.grouped([members])
    samples = split.subset("train")

    def drawn(number: int, seed: int) -> list[set[str]]:
        tiles = TileDataModule(SOURCE, split, grid=grid, tile=grid.tiles[0], datamodule=datamodule)
        tiles.learn_from(number, seed=seed)
        loader = tiles.train_dataloader()
        assert isinstance(loader.sampler, RandomSampler)
        assert sum(len(batch.image) for batch in loader) == min(number, 3) * len(samples)
        assert len(tiles.test_dataloader().dataset) == 12, "all of them"
        images = [each.image for each in loader.dataset]
        known = [{name: item(sample, name).image for name in members} for sample in samples]
        return [{name for name in each if any(torch.equal(image, each[name]) for image in images)} for each in known]

    for number in (1, 2):
        assert [len(names) for names in drawn(number, seed=0)] == [number] * len(samples)
    assert drawn(1, seed=0) == drawn(1, seed=0)
    assert len({str(drawn(1, seed=seed)) for seed in range(4)}) > 1
    for enough in (3, 10):
        assert drawn(enough, seed=0) == [set(members)] * len(samples)


def test_tiles_that_share_a_model_are_validated_by_what_is_known(datamodule: Folder) -> None:
    split, grid = split_once(datamodule), GRID.grouped([["r00_c00", "r00_c01"]])
    first, *others = split.subset("val")
    samples = (*split.subset("train"), *others, replace(first, label=1, mask_path=None))
    tiles = TileDataModule(SOURCE, Split(samples), grid=grid, tile=grid.tiles[0], datamodule=datamodule)
    masked = [batch.gt_mask is not None for batch in tiles.val_dataloader()]
    sizes = [len(batch.image) for batch in tiles.val_dataloader()]
    assert sum(sizes) == 8
    assert sum(size for size, known in zip(sizes, masked, strict=True) if not known) == 2


def test_validation_tiles_have_a_label(datamodule: Folder) -> None:
    split = split_once(datamodule)
    first, *others = split.subset("val")
    split = Split((*split.subset("train"), replace(first, label=None, mask_path=None), *others))
    tiles = TileDataModule(SOURCE, split, grid=GRID, tile=GRID.tiles[0], datamodule=datamodule)
    assert len(tiles.val_dataloader().dataset) == 3
    assert None not in tiles.validation_labels()
    nothing_known = Split(tuple(replace(each, label=None) if each.subset == "val" else each for each in split.samples))
    for without in (nothing_known, Split(split.subset("train"))):
        tiles = TileDataModule(SOURCE, without, grid=GRID, tile=GRID.tiles[0], datamodule=datamodule)
        assert len(tiles.val_dataloader().dataset) == 4, "the training images"
        assert isinstance(tiles.val_dataloader().sampler, SequentialSampler)


def test_each_subset_has_its_own_augmentations(datamodule: Folder) -> None:
    datamodule.train_augmentations = FLIP
    split = split_once(datamodule)
    tiles = TileDataModule(SOURCE, split, grid=GRID, tile=GRID.tiles[0], datamodule=datamodule)
    train, test = tiles.train_dataloader().dataset, tiles.test_dataloader().dataset
    assert torch.equal(train[0].image, item(split.subset("train")[0], "r00_c02").image.flip(2))
    assert torch.equal(test[0].image, item(split.subset("test")[0], "r00_c00").image)
