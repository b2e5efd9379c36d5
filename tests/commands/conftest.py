"""Crops of photographs with painted defects, and a run on them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import yaml
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_tiled.cli.main import main
from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble import loaded_models
from anomalib_tiled.grid import Size
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, write_json

SIZE = (112, 150)
DEFECT = 14

Command = Callable[..., int]
Configure = Callable[..., Path]


def paint_photographs(root: Path, *, train: int = 8, test: int = 4) -> None:
    """Write crops of one place of a photograph; light, noise and the place differ a little from crop to crop."""
    random = np.random.default_rng(0)
    grey = skimage.data.brick().astype(float)

    def write(folder: str, number: int, pixels: np.ndarray) -> None:
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / f"{number:03d}.png")

    def crop() -> np.ndarray:
        top, left = random.integers(0, 3, size=2)
        area = grey[100 + top : 100 + top + SIZE[0], 60 + left : 60 + left + SIZE[1]]
        return np.clip(area * random.uniform(0.95, 1.05) + random.normal(0, 3, SIZE), 0, 255).astype(np.uint8)

    for number in range(train):
        write("good", number, crop())
    for number in range(test):
        write("good_test", number, crop())
        damaged, mask = crop(), np.zeros(SIZE, np.uint8)
        top, left = random.integers(0, SIZE[0] - DEFECT), random.integers(0, SIZE[1] - DEFECT)
        stripes = np.indices((DEFECT, DEFECT)).sum(axis=0) % 6 < 3
        damaged[top : top + DEFECT, left : left + DEFECT] = np.where(stripes, 250, 5)
        mask[top : top + DEFECT, left : left + DEFECT] = 255
        write("bad", number, damaged)
        write("mask", number, mask)


def settings(root: Path, results: Path) -> dict[str, Any]:
    """Give a configuration: neither photographs nor tiles are square, tiles overlap, the last one is moved back."""
    return {
        "seed_everything": 1,
        "default_root_dir": str(results),
        "tiling": {"tile_size": [64, 72], "stride": [40, 56]},
        "model": {
            "class_path": "Padim",
            "init_args": {"pre_trained": False, "layers": ["layer1", "layer2"], "n_features": 20},
        },
        "data": {
            "class_path": "Folder",
            "init_args": {
                "name": "photographs",
                "root": str(root),
                "normal_dir": "good",
                "normal_test_dir": "good_test",
                "abnormal_dir": "bad",
                "mask_dir": "mask",
                "val_split_mode": "same_as_test",
                "train_batch_size": 4,
                "num_workers": 0,
            },
        },
        "metrics": {"image": ["AUROC", "F1Score"], "pixel": ["AUROC", "F1Score", "AUPRO"]},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},  # others start in seconds
    }


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of crops of a brick wall."""
    root = tmp_path_factory.mktemp("photographs")
    paint_photographs(root)
    return root


@pytest.fixture
def configure(photographs: Path, tmp_path: Path) -> Configure:
    """Write a configuration, some settings changed by their dotted names."""

    def write(root: Path = photographs, **changes: object) -> Path:
        configuration = settings(root, tmp_path / "results")
        for name, value in changes.items():
            *groups, last = name.split("__")
            mapping = configuration
            for group in groups:
                mapping = mapping.setdefault(group, {})
            mapping[last] = value
        path = tmp_path / "configuration.yaml"
        path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def finished_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder after `train`; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    configuration = folder / "configuration.yaml"
    configuration.write_text(yaml.safe_dump(settings(photographs, folder / "results")), encoding="utf-8")
    assert main(["train", "--config", str(configuration)]) == 0
    return folder / "results" / "Padim" / "photographs" / "v0"


@pytest.fixture(scope="session")
def finished_sharing(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a run whose nine tiles share two models."""
    folder = tmp_path_factory.mktemp("sharing")
    configuration, halves = (
        folder / "configuration.yaml",
        {"class_path": "Grid", "init_args": {"rows": 1, "columns": 2}},
    )
    content = settings(photographs, folder / "results") | {"assignment": halves}
    (configuration := folder / "configuration.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["train", "--config", str(configuration)]) == 0
    return folder / "results" / "Padim" / "photographs" / "v0"


@pytest.fixture(scope="session")
def noted_again() -> Callable[[Path], None]:
    """Note that a run was made with its present configuration and files, as somebody who knows the format would."""

    def note(run: Path) -> None:
        folder = RunFolder(run)
        settings = folder.settings()
        for record in (run / "tiles").glob("r*_c*.json"):
            checkpoint = vars(Checksum.of(record.with_suffix(".ckpt")))
            write_json(record, read_json(record) | {"configuration": settings.training_hash, "checkpoint": checkpoint})
        calibration = read_json(folder.calibration_file)
        write_json(folder.calibration_file, calibration | {"configuration": settings.calibration_hash})
        for path in (folder.calibration_file, folder.validation_scores_file):
            folder.note_checksum(path)

    return note


@pytest.fixture(scope="session")
def checkpoints() -> Callable[[Path], dict[str, Checksum]]:
    """Say what the checkpoints of a run are like, by their names."""
    return lambda run: {path.name: Checksum.of(path) for path in (run / "tiles").glob("*.ckpt")}


@pytest.fixture(scope="module")
def models() -> dict[Path, AnomalibModule]:
    """Tile models that were loaded before: loading them is most of what a command on small images takes."""
    return {}


@pytest.fixture
def kept_models(models: dict[Path, AnomalibModule], monkeypatch: pytest.MonkeyPatch) -> None:
    load = loaded_models.load_tile_model

    def load_once(spec: ClassSpec, tile_size: Size, checkpoint: Path) -> AnomalibModule:
        if checkpoint not in models:
            models[checkpoint] = load(spec, tile_size, checkpoint)
        return models[checkpoint]

    monkeypatch.setattr(loaded_models, "load_tile_model", load_once)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def predict(finished_run: Path, output: Path, kept_models: None) -> Command:
    """Predict with the finished run into the output folder; what is given are further arguments."""

    def command(*arguments: str | Path, run: Path = finished_run) -> int:
        return main(["predict", "--ckpt_dir", str(run), "--output", str(output), *map(str, arguments)])

    return command


@pytest.fixture
def new(photographs: Path, tmp_path: Path) -> Path:
    """Folder of images that belong to no data set: two with a defect, one without, names alike."""
    for source, target in {"bad/000": "left/000", "good_test/000": "left/001", "bad/001": "right/000"}.items():
        path = tmp_path / "new" / f"{target}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photographs / f"{source}.png", path)
    return tmp_path / "new"
