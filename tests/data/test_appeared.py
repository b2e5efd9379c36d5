from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from anomalib.data import AnomalibDataModule, Folder, MVTecAD, Tabular
from PIL import Image

from anomalib_tiled.data.datamodule import appeared, keep_generated, split_once
from anomalib_tiled.data.split import Split


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
    return Folder("parts", root=root, num_workers=0, **folders, **modes, **more)


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


def test_defects_and_normal_test_images(root: Path, tmp_path: Path) -> None:
    split = split_of(parts(root), tmp_path / "kept")
    draw(root, "bad/hole/0.png", "ok/9.png", "masks/crack/9.png", "elsewhere/0.png")
    number, _ = appeared(split, parts(root)) or (0, None)
    assert number == 2, "a defect without a mask is one; a mask is none"
    assert appeared(split, parts(root, extensions=(".bmp",))) is None, "only endings that the user names"


def test_folders_that_have_gone_are_no_error(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(parts(root), tmp_path / "kept")
    shutil.move(root, tmp_path / "moved")
    assert appeared(split, parts(root)) is None
    monkeypatch.chdir(tmp_path / "moved")
    assert appeared(split, parts(Path())) is None, "other folders of the same names"


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
