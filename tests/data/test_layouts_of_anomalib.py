"""Data modules of anomalib and of third parties: the same images, labels and masks as their own data sets give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anomalib.data
import numpy as np
import pytest
import torch
from anomalib.data import AnomalibDataModule, Folder, ImageItem, MVTecAD2
from lightning.pytorch import seed_everything
from PIL import Image

from anomalib_tiled.data.cache import open_source
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.data.images import common_size
from anomalib_tiled.data.split import SUBSETS, Split, Subset
from anomalib_tiled.data.tile_dataset import AreaDataset, TileDataModule
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import Size, TileGrid

SIZE = Size(12, 18)
GRID = TileGrid(SIZE, Size(8, 8), Size(8, 8))
PERLIN = Size(64, 64)
"""Smallest square that anomalib paints synthetic defects on, with room to spare."""

VAL_MODES = ("none", "same_as_test", "from_train", "from_test", "synthetic", "from_dir")
TEST_MODES = ("none", "from_dir", "synthetic")


@dataclass
class Painter:
    """Writes images of random pixels, and masks with one random block."""

    root: Path
    size: Size = SIZE
    drawn: int = 0

    def images(self, *names: str) -> None:
        """Write each image that is named."""
        for name in names:
            self.write(name, np.random.default_rng(self.drawn).integers(0, 256, (*self.size, 3)))

    def masks(self, *names: str) -> None:
        """Write each mask that is named."""
        for name in names:
            mask = np.zeros(self.size)
            top, left = np.random.default_rng(self.drawn).integers(0, 8, size=2)
            mask[top : top + 3, left : left + 3] = 200
            self.write(name, mask)

    def write(self, name: str, pixels: np.ndarray) -> None:
        """Write pixels in the format of the name."""
        self.drawn += 1
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(self.root / name)


@pytest.fixture
def paint(tmp_path: Path) -> Painter:
    return Painter(tmp_path)


def four(pattern: str, start: int = 0) -> list[str]:
    return [pattern.format(f"{number:03d}") for number in range(start, start + 4)]


def mvtec(paint: Painter) -> dict[str, Any]:
    paint.images(*four("part/train/good/{}.png"), *four("part/test/good/{}.png"), *four("part/test/bent/{}.png"))
    paint.masks(*four("part/ground_truth/bent/{}_mask.png"))
    return {"category": "part"}


def loco(paint: Painter) -> dict[str, Any]:
    for folder in ("train/good", "validation/good", "test/good", "test/logical_anomalies"):
        paint.images(*four(f"part/{folder}/{{}}.png"))
    for number in ("000", "001", "002"):
        paint.masks(f"part/ground_truth/logical_anomalies/{number}/000.png")
        paint.masks(f"part/ground_truth/logical_anomalies/{number}/001.png")
    paint.masks("part/ground_truth/logical_anomalies/003/000.png")
    return {"category": "part"}


def mvtec2(paint: Painter) -> dict[str, Any]:
    for folder in ("train/good", "validation/good", "test_public/good", "test_public/bad"):
        paint.images(*four(f"can/{folder}/{{}}.png"))
    paint.images(*four("can/test_private/{}.png"), *four("can/test_private_mixed/{}.png", 4))
    paint.masks(*four("can/test_public/ground_truth/bad/{}_mask.png"))
    return {"category": "can"}


def btech(paint: Painter) -> dict[str, Any]:
    paint.images(*four("01/train/ok/{}.bmp"), *four("01/test/ok/{}.bmp"), *four("01/test/ko/{}.bmp"))
    paint.masks(*four("01/ground_truth/ko/{}.png"))
    return {"category": "01"}


def kolektor(paint: Painter) -> dict[str, Any]:
    paint.images(*four("kos01/Part{}.jpg"), *four("kos02/Part{}.jpg"))
    paint.masks("kos01/Part000_label.bmp", "kos02/Part001_label.bmp")
    for item, numbers in {"kos01": "123", "kos02": "023"}.items():
        for number in numbers:
            paint.write(f"{item}/Part00{number}_label.bmp", np.zeros(SIZE))
    return {}


def autovi(paint: Painter) -> dict[str, Any]:
    paint.images(
        *four("tank_screw/train/good/{}.png"),
        *four("tank_screw/test/good/{}.png"),
        *four("tank_screw/test/bent/{}.png"),
    )
    paint.masks(*four("tank_screw/ground_truth/bent/{}/0000.png"))
    return {"category": "tank_screw"}


def bmad(paint: Painter) -> dict[str, Any]:
    paint.images(*four("Brain/train/good/{}.png"))
    for split in ("valid", "test"):
        paint.images(*four(f"Brain/{split}/good/img/{{}}.png"), *four(f"Brain/{split}/Ungood/img/{{}}.png"))
        paint.masks(*four(f"Brain/{split}/Ungood/label/{{}}.png"))
    return {"category": "Brain"}


def datumaro(paint: Painter) -> dict[str, Any]:
    names = [*four("{}.png"), *four("{}.png", 4), *four("{}.png", 8)]
    paint.images(*(f"images/default/{name}" for name in names))
    items = [
        {"image": {"path": name}, "annotations": [{"label_id": int(place >= 8)}]} for place, name in enumerate(names)
    ]
    labels = {"label": {"labels": [{"name": "Normal"}, {"name": "Anomalous"}]}}
    (paint.root / "annotations").mkdir()
    (paint.root / "annotations" / "default.json").write_text(json.dumps({"categories": labels, "items": items}))
    return {}


def folder(paint: Painter, *, masks: bool = True) -> dict[str, Any]:
    paint.images(*four("good/{}.png"), *four("test/{}.png"), *four("bad/{}.png"))
    arguments = {"name": "f", "normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad"}
    if masks:
        paint.masks(*four("mask/{}.png"))
    return arguments | ({"mask_dir": "mask"} if masks else {})


def several_folders(paint: Painter) -> dict[str, Any]:
    for place in ("a", "b"):
        paint.images(*four(f"{place}/good/{{}}.png"), *four(f"{place}/test/{{}}.png"), *four(f"{place}/bad/{{}}.png"))
        paint.masks(*four(f"{place}/mask/{{}}.png"))
    names = {"normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad", "mask_dir": "mask"}
    return {"name": "f", **{key: [f"a/{name}", f"b/{name}"] for key, name in names.items()}}


def table(paint: Painter) -> dict[str, Any]:
    folder(paint)
    images = [*four("good/{}.png"), *four("test/{}.png"), *four("bad/{}.png")]
    return {
        "name": "t",
        "samples": {
            "image_path": images,
            "label_index": [0] * 8 + [1] * 4,
            "split": ["train"] * 4 + ["test"] * 8,
            "mask_path": [""] * 8 + four("mask/{}.png"),
        },
    }


LAYOUTS: dict[str, tuple[str, Callable[[Painter], dict[str, Any]]]] = {
    "MVTecAD": ("MVTecAD", mvtec),
    "MVTecLOCO": ("MVTecLOCO", loco),
    "MVTecAD2": ("MVTecAD2", mvtec2),
    "MVTecAD2 private": ("MVTecAD2", lambda paint: mvtec2(paint) | {"test_type": "private"}),
    "BTech": ("BTech", btech),
    "Kolektor": ("Kolektor", kolektor),
    "AutoVI": ("AutoVI", autovi),
    "BMAD": ("BMAD", bmad),
    "Datumaro": ("Datumaro", datumaro),
    "Folder": ("Folder", folder),
    "Folder without masks": ("Folder", lambda paint: folder(paint, masks=False)),
    "Folder of several": ("Folder", several_folders),
    "Tabular": ("Tabular", table),
}


def build(name: str, paint: Painter, **changes: object) -> AnomalibDataModule:
    class_name, layout = LAYOUTS[name]
    sizes = {"train_batch_size": 2, "eval_batch_size": 3, "num_workers": 0}
    arguments = {"root": paint.root, **sizes, **layout(paint), **changes}
    return getattr(anomalib.data, class_name)(**arguments)


def shown(datamodule: AnomalibDataModule, subset: Subset) -> list[ImageItem]:
    """What anomalib's own loop is shown of a subset, in order."""
    if not hasattr(datamodule, f"{subset}_data"):
        return []
    dataset = getattr(datamodule, f"{subset}_dataloader")().dataset
    return [dataset[index] for index in range(len(dataset))]


def check_same(ours: ImageItem, theirs: ImageItem) -> None:
    assert Path(ours.image_path) == Path(theirs.image_path).absolute()
    assert torch.equal(ours.image, theirs.image), "bit for bit"
    assert (ours.gt_label, theirs.gt_label) == (None, None) or int(ours.gt_label) == int(theirs.gt_label)
    if theirs.gt_mask is not None and ours.gt_mask is None:
        assert not theirs.gt_mask.any(), "an empty mask, where no defect has one"
    elif ours.gt_mask is not None:
        assert torch.equal(ours.gt_mask.bool(), theirs.gt_mask.bool())


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_labels_and_masks_are_those_of_the_data_module(name: str, paint: Painter, tmp_path: Path) -> None:
    datamodule = build(name, paint)
    split = split_once(datamodule)
    assert common_size(split, None) == SIZE
    split.write(tmp_path / "split.csv")
    assert Split.parse((tmp_path / "split.csv").read_bytes(), tmp_path / "split.csv") == split
    whole = slice(0, SIZE.height), slice(0, SIZE.width)
    for source in (open_source(split, GRID, tmp_path / "cache"), open_source(split, GRID, None)):
        for subset in SUBSETS:
            ours = AreaDataset(source, split.subset(subset), area=whole, grid=GRID)
            theirs = shown(datamodule, subset)
            assert len(ours) == len(theirs)
            for index, item in enumerate(theirs):
                check_same(ours[index], item)
    assert {sample.label for sample in split.subset("train")} == {0}
    assert split.has_masks == (name not in {"Folder without masks", "Datumaro"} and "private" not in name)


@pytest.mark.parametrize("name", ["MVTecLOCO", "Datumaro"])
def test_tiles_are_cut_from_what_the_data_module_gives(name: str, paint: Painter, tmp_path: Path) -> None:
    datamodule = build(name, paint)
    split = split_once(datamodule)
    source = open_source(split, GRID, tmp_path / "cache")
    for tile in GRID.tiles:
        tiles = TileDataModule(source, split, grid=GRID, tile=tile, datamodule=datamodule)
        cut = [item for batch in tiles.test_dataloader() for item in batch]
        for ours, whole in zip(cut, shown(datamodule, "test"), strict=True):
            assert torch.equal(ours.image, whole.image[:, tile.rows, tile.columns])
            if split.has_masks:
                mask = whole.gt_mask.bool()[tile.rows, tile.columns]
                assert torch.equal(ours.gt_mask.bool(), mask)
                assert int(ours.gt_label) == int(mask.any())


def test_what_is_tested_on_is_what_the_data_module_loads_for_testing(paint: Painter) -> None:
    public = split_once(build("MVTecAD2", paint))
    assert [sample.label for sample in public.subset("test")].count(0) == 4, "normal ones too"
    assert len(public.subset("val")) == 4
    private = split_once(MVTecAD2(paint.root, "can", num_workers=0, test_type="private_mixed"))
    assert {sample.image_path.parent.name for sample in private.subset("test")} == {"test_private_mixed"}
    assert {sample.label for sample in private.subset("test")} == {None}


FOLDERS = {
    "all folders": ("normal_test_dir", "abnormal_dir", "mask_dir"),
    "no normal test images": ("abnormal_dir", "mask_dir"),
    "normal images only": (),
}


@pytest.mark.parametrize("given", FOLDERS)
@pytest.mark.parametrize("test_split_mode", TEST_MODES)
def test_every_way_to_split_works(given: str, test_split_mode: str, tmp_path: Path) -> None:
    paint = Painter(tmp_path, PERLIN)
    arguments = folder(paint)
    paint.images(*four("good/{}.png", 4))
    kept = {key: value for key, value in arguments.items() if key in {"name", "normal_dir", *FOLDERS[given]}}
    for val_split_mode in VAL_MODES:
        modes = {"test_split_mode": test_split_mode, "val_split_mode": val_split_mode}
        datamodule = Folder(root=tmp_path, num_workers=0, **kept, **modes, test_split_ratio=0.5)
        if (given, test_split_mode, val_split_mode) == ("normal images only", "none", "from_test"):
            with pytest.raises(DataError, match="enough images for val_split_mode from_test, test_split_mode none"):
                split_once(datamodule)  # there are no test images to take them from
            continue
        split = split_once(datamodule)
        paths = {name: {sample.image_path for sample in split.subset(name)} for name in SUBSETS}
        assert paths["train"]
        assert not paths["train"] & (paths["val"] | paths["test"]), "a test image is never trained on"
        assert bool(paths["val"]) == (
            val_split_mode in {"from_train", "from_test", "synthetic"}
            or (val_split_mode == "same_as_test" and bool(paths["test"]))
        )
        assert split.calibration_samples
        for sample in split.samples:
            assert sample.image_path.is_file()
            assert all(mask.is_file() for mask in sample.masks)


@pytest.mark.parametrize("mode", ["from_train", "synthetic"])
def test_the_seed_of_the_data_module_decides_whatever_the_random_state(mode: str, tmp_path: Path) -> None:
    arguments = folder(Painter(tmp_path, PERLIN))
    del arguments["normal_test_dir"]
    kept = []
    for state in (1, 2):
        seed_everything(state)
        split = split_once(
            Folder(root=tmp_path, num_workers=0, **arguments, val_split_mode=mode, test_split_ratio=0.5, seed=3)
        )
        kept.append([sample for sample in split.samples if sample.image_path.is_relative_to(tmp_path / "good")])
    trained = [[sample for sample in samples if sample.subset == "train"] for samples in kept]
    assert trained[0] == trained[1]


def test_the_same_image_behind_a_link_is_the_same_image(paint: Painter) -> None:
    paint.images(*four("good/{}.png"), *four("bad/{}.png"))
    (paint.root / "test").mkdir()
    (paint.root / "test" / "other.png").symlink_to(paint.root / "good" / "000.png")
    with pytest.raises(DataError, match="1 are in train and val, for example"):
        split_once(Folder("f", "good", paint.root, "bad", "test", num_workers=0, val_split_mode="same_as_test"))


def test_relative_roots_blanks_and_linked_folders(
    paint: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = Painter(tmp_path / "my images (new)")
    arguments = folder(inside)
    (tmp_path / "link").symlink_to(inside.root)
    monkeypatch.chdir(tmp_path)
    for root in ("my images (new)", "link", "./link/../link"):
        split = split_once(Folder(root=root, num_workers=0, **arguments))
        assert all(sample.image_path.is_absolute() and sample.image_path.is_file() for sample in split.samples)
    monkeypatch.chdir("/")
    assert all(sample.image_path.is_file() for sample in split.samples)


def test_masks_named_for_normal_images_are_left_alone_as_in_anomalib(paint: Painter) -> None:
    """BTech names masks of its training images that are not there."""
    datamodule = build("BTech", paint)
    split = split_once(datamodule)
    assert all(datamodule.train_data.samples["mask_path"])
    assert {sample.masks for sample in split.samples if sample.label == 0} == {()}


def test_loco_has_its_own_validation_images_and_several_masks_of_an_image(paint: Painter) -> None:
    split = split_once(build("MVTecLOCO", paint))
    masks = {sample.image_path.stem: sample.masks for sample in split.subset("test") if sample.label == 1}
    assert [len(masks[name]) for name in ("000", "001", "002", "003")] == [2, 2, 2, 1]
    assert {sample.image_path.parent.parent.name for sample in split.subset("val")} == {"validation"}
    assert split.has_masks
