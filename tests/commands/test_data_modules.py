"""Whole commands on other data modules than folders."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_tiled.cli.main import main

Configure = Callable[..., Path]

PACKAGE = '''
from anomalib.data import Tabular


class Walls(Tabular):
    """A table of walls."""
'''


@pytest.mark.slow
def test_a_third_partys_table_below_a_relative_root_with_images_of_unknown_label(
    configure: Configure, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted(str(path.relative_to(photographs)) for path in photographs.glob("*/*.png"))
    images = [name for name in names if not name.startswith("mask")]
    labels = [-1 if name.endswith("bad/003.png") else int(name.startswith("bad")) for name in images]
    judged = list(zip(images, labels, strict=True))
    samples = {
        "image_path": images,
        "label_index": labels,
        "label": ["abnormal" if label else "normal" for label in labels],
        "split": ["train" if name.startswith("good/") else "test" for name in images],
        "mask_path": [f"mask/{Path(name).name}" if label == 1 else "" for name, label in judged],
    }
    arguments = {"name": "table", "root": photographs.name, "samples": samples, "val_split_mode": "same_as_test"}
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "walls_of_houses.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.chdir(photographs.parent)
    data = {"class_path": "walls_of_houses.Walls", "init_args": arguments | {"num_workers": 0}}
    assert main(["fit", "--config", str(configure(data=data, tiling={"tile_size": [112, 75]}))]) == 0
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "results" / "Padim" / "table" / "v0"
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["image_AUROC"] == 1.0
    assert metrics["pixel_AUROC"] > 0.9


@pytest.mark.slow
def test_images_with_several_masks_and_a_test_set_without_labels(
    configure: Configure, photographs: Path, tmp_path: Path
) -> None:
    loco, private = tmp_path / "loco" / "wall", tmp_path / "ad2" / "wall"
    for source, target in {"good": "train", "good_test": "test"}.items():
        shutil.copytree(photographs / source, loco / target / "good")
    shutil.copytree(photographs / "good_test", loco / "validation" / "good")
    for path in (loco / "validation" / "good").iterdir():  # anomalib knows an image by its path only
        with Image.open(path) as image:
            image.rotate(180).save(path)
    shutil.copytree(photographs / "bad", loco / "test" / "structural_anomalies")
    for path in (photographs / "mask").iterdir():
        folder = loco / "ground_truth" / "structural_anomalies" / path.stem
        folder.mkdir(parents=True)
        with Image.open(path) as image:
            left, right = np.asarray(image).copy(), np.asarray(image).copy()
        middle = int(np.flatnonzero(left.any(axis=0)).mean())
        left[:, middle:], right[:, :middle] = 0, 0
        for name, half in {"000.png": left, "001.png": right}.items():
            Image.fromarray(half).save(folder / name)
    data = {"class_path": "MVTecLOCO", "init_args": {"root": str(loco.parent), "category": "wall", "num_workers": 0}}
    assert main(["train", "--config", str(configure(data=data, tiling__stride=None))]) == 0
    run = tmp_path / "results" / "Padim" / "MVTecLOCO" / "wall" / "v0"
    assert json.loads((run / "metrics.json").read_text())["pixel_AUROC"] > 0.9
    for folder in ("train/good", "validation/good", "test_public/good"):
        shutil.copytree(photographs / "good_test", private / folder)
    shutil.copytree(photographs / "bad", private / "test_private")
    other = ["--data", "MVTecAD2", "--data.root", str(private.parent), "--data.category", "wall"]
    output = ["--data.test_type", "private", "--data.num_workers", "0", "--output", str(tmp_path / "private")]
    assert main(["test", "--ckpt_dir", str(run), *other, *output]) == 0
    with (tmp_path / "private" / "scores.csv").open() as file:
        assert {row["gt_label"] for row in csv.DictReader(file)} == {""}
