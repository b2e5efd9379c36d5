"""What alignment is worth: drawn parts, shifted and turned, with defects that no aligner and no test knows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from anomalib_tiled.cli.main import main

pytestmark = pytest.mark.slow

SIDE = 128
SHIFT, TURN = 0.08, 3.0
"""Largest shift as a fraction of the side, and largest rotation in degrees, to either side."""

Pixels = np.ndarray


def part() -> Pixels:
    """Draw a plate with holes, slots and printed lines, larger than an image."""
    random, size = np.random.default_rng(5), 2 * SIDE
    image = np.full((size, size, 3), (70, 75, 70), np.uint8)
    cv2.rectangle(image, (80, 84), (176, 172), (150, 160, 165), -1)
    for x, y in ((92, 96), (164, 96), (92, 160), (164, 160), (128, 112)):
        cv2.circle(image, (x, y), 6, (30, 30, 35), -1, cv2.LINE_AA)
    for number in range(14):
        x, y = random.integers(86, 164), random.integers(90, 164)
        colour = tuple(int(each) for each in random.integers(40, 250, 3))
        cv2.rectangle(image, (int(x), int(y)), (int(x) + 4 + number % 7, int(y) + 3 + number % 4), colour, -1)
    cv2.line(image, (100, 150), (150, 128), (220, 210, 60), 2, cv2.LINE_AA)
    return image


def damaged(image: Pixels, random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Draw a scratch, a stain or a dent on the part; give the mask, too."""
    mask = np.zeros(image.shape[:2], np.uint8)
    x, y = (int(each) for each in random.integers((92, 94), (160, 160)))
    match random.integers(3):
        case 0:
            angle = random.uniform(0, np.pi)
            end = round(x + 14 * np.cos(angle)), round(y + 14 * np.sin(angle))
            cv2.line(mask, (x, y), end, 255, 2)
            value = np.array([245, 245, 250])
        case 1:
            cv2.ellipse(mask, (x, y), (6, 4), random.uniform(0, 180), 0, 360, 255, -1)
            value = np.array([20, 40, 110])
        case _:
            cv2.circle(mask, (x, y), 5, 255, -1)
            value = np.array([10, 10, 10])
    faint = (image * 0.6 + value * 0.4).astype(np.uint8)
    return np.where(mask[..., None] > 0, faint, image), mask


def photograph(image: Pixels, how: Pixels, random: np.random.Generator | None) -> Pixels:
    """Take the middle of a drawing as it lies under a camera; with noise and other light, if there is a generator."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP if random else cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    taken = cv2.warpAffine(image, how, (SIDE, SIDE), flags=flags)
    if random is None:
        return taken
    noisy = taken * random.uniform(0.96, 1.04) + random.normal(0, 2, taken.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def draw(root: Path, *, moved: bool) -> None:
    """Write 20 training images, 12 normal test images and 16 damaged ones; the same ones, whether they are moved."""
    light, place, defects = (np.random.default_rng(seed) for seed in (1, 2, 3))
    plate = part()
    for folder, count in {"good": 20, "good_test": 12, "bad": 16}.items():
        for number in range(count):
            x, y = place.uniform(-SHIFT, SHIFT, 2) * SIDE * moved
            turn = place.uniform(-TURN, TURN) * moved
            how = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), turn, 1)
            how[:, 2] += SIDE / 2 + x, SIDE / 2 + y
            image, mask = damaged(plate, defects) if folder == "bad" else (plate, None)
            for name, pixels, random in ((folder, image, light), ("mask", mask, None)):
                if pixels is not None:
                    (root / name).mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(root / name / f"{number:03d}.png"), photograph(pixels, how, random))


def measure(root: Path, images: Path, alignment: dict[str, Any] | None) -> dict[str, float]:
    """Train and test a run; give its metrics."""
    folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
    data = {"name": images.name, "root": str(images), **folders, "val_split_mode": "same_as_test", "num_workers": 0}
    padim = {"backbone": "resnet18", "pre_trained": False, "layers": ["layer1", "layer2"], "n_features": 40}
    name = "aligned" if alignment else "plain"
    configuration = {
        "seed_everything": 1,
        "default_root_dir": str(root / name),
        "tiling": {"tile_size": 64, "stride": 32},
        "model": {"class_path": "Padim", "init_args": padim},
        "data": {"class_path": "Folder", "init_args": {**data, "train_batch_size": 8}},
        "metrics": {"image": ["AUROC"], "pixel": ["AUROC", "AUPRO"]},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        "visualize": False,
        "alignment": alignment,
    }
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
    assert main(["train", "--config", str(path)]) == 0
    run = root / name / "Padim" / images.name / "v0"
    return json.loads((run / "metrics.json").read_text())


def test_alignment_gives_moved_parts_the_quality_of_parts_that_lie_still(tmp_path: Path) -> None:
    draw(tmp_path / "still", moved=False)
    draw(tmp_path / "moved", moved=True)
    still = measure(tmp_path, tmp_path / "still", None)
    plain = measure(tmp_path, tmp_path / "moved", None)
    aligned = measure(tmp_path, tmp_path / "moved", {"class_path": "Rigid"})
    assert still["image_AUROC"] > 0.95
    assert aligned["image_AUROC"] >= 0.98 * still["image_AUROC"]
    assert plain["image_AUROC"] < 0.8 * still["image_AUROC"]
    assert aligned["pixel_AUPRO"] > plain["pixel_AUPRO"]
    found = list(csv.DictReader((tmp_path / "aligned" / "Padim" / "moved" / "v0" / "alignment.csv").open()))
    assert not [row for row in found if row["reason"]]
    assert max(abs(float(row["rotation"])) for row in found) > 1
