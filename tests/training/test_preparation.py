"""Before a run: what it needs is there, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from anomalib_tiled.config.settings import CacheSettings, ClassSpec, MetricSettings, Settings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.split import Split
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError, DataError, StorageError, TiledError
from anomalib_tiled.training import preparation


def left_behind(settings: Settings) -> list[Path]:
    """Files, links and runs in the folder of all runs."""
    found = Path(settings.default_root_dir).rglob("*")
    return [path for path in found if path.is_symlink() or path.is_file() or path.name.startswith("v")]


def test_a_prepared_run_holds_all_that_training_needs(settings: Settings, image_folder: Path) -> None:
    folder = preparation.prepare(settings).folder
    assert folder.path == image_folder / "results" / "Untrained" / "tiny" / "v0"
    assert {path.name for path in folder.path.iterdir()} == {
        "config.yaml",
        "split.csv",
        "split.table",
        "origins.json",
        "seals.json",
        "logs",
        "fit.lock",
    }
    assert folder.settings().tiling.image_size == (8, 12), "that of the images"
    assert replace(folder.settings(), tiling=settings.tiling) == settings
    assert "Initializing Untrained model." in folder.log_file.read_text()
    assert (
        folder.missing(grid_of(folder.settings().tiling), folder.settings()) == grid_of(folder.settings().tiling).tiles
    )


def test_names_of_images_may_be_of_any_bytes(settings: Settings, image_folder: Path) -> None:
    for folder in ("good", "bad", "masks"):
        (image_folder / folder / "0.png").rename(image_folder / folder / os.fsdecode(b"0\xfc.png"))
    folder = preparation.prepare(replace(settings, cache=CacheSettings(str(image_folder / "cache")))).folder
    split = Split.parse(folder.split_file.read_bytes(), folder.split_file)
    odd = [sample for sample in split.samples if "\udcfc" in str(sample.image_path)]
    assert {sample.image_path.parent.name for sample in odd} == {"good", "bad"}
    assert all(path.is_file() for sample in odd for path in (sample.image_path, *sample.masks))
    Run.open(folder).with_cache()
    assert folder.split_file.read_bytes().count(b"0\xfc.png") == 5


@pytest.mark.slow
def test_the_split_is_drawn_from_the_seed(settings: Settings) -> None:
    splitting = {**settings.data.init_args, "val_split_mode": "from_test", "val_split_ratio": 0.5}
    drawing = replace(settings, data=replace(settings.data, init_args=splitting))
    splits = []
    for seed in (1, 1, 2, 3, 4, 5):
        torch.manual_seed(len(splits))  # whatever was drawn before
        splits.append(preparation.prepare(replace(drawing, seed_everything=seed)).folder.split_file.read_text())
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1


def test_another_program_may_write_the_configuration_of_a_run_again(settings: Settings) -> None:
    folder = preparation.prepare(settings).folder
    before = folder.settings()
    folder.config_file.write_text(yaml.safe_dump(yaml.safe_load(folder.config_file.read_text())))  # sorts all names
    assert folder.settings().training_hash == before.training_hash
    assert folder.settings().calibration_hash == before.calibration_hash


NO_CLASS = ClassSpec("anomalib_tiled.stages.merging.Gaussian", {"sigma": -1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merging": NO_CLASS}, "Gaussian cannot be made with {'sigma': -1}"),
        ({"trainer": {"accelerator": "warp"}}, "The trainer refuses its arguments"),
        (
            {"workers": ClassSpec("anomalib_tiled.workers.local.LocalWorkers", {"processes": 0})},
            "must be at least 1",
        ),
        (
            {"metrics": MetricSettings(({"class_path": "AUROC", "init_args": {"max_fpr": 1}},))},
            "Option 'max_fpr' is not accepted",
        ),
    ],
)
def test_what_cannot_be_made_leaves_nothing_behind(settings: Settings, change: dict[str, object], message: str) -> None:
    stages = {name: each for name, each in change.items() if name in settings.stages}
    fields = {name: each for name, each in change.items() if name not in stages}
    with pytest.raises(TiledError, match=message):
        preparation.prepare(replace(settings, **fields, stages={**settings.stages, **stages}))
    assert left_behind(settings) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [({"name": "../../evil"}, "name must be the name of a folder"), ({"eval_batch_size": 0}, "must be at least 1")],
)
def test_data_that_cannot_be_used_is_known_before_images_are_looked_for(
    settings: Settings, image_folder: Path, argument: dict[str, object], message: str
) -> None:
    (image_folder / "good" / "0.png").write_bytes(b"damaged")
    data = replace(settings.data, init_args={**settings.data.init_args, **argument})
    with pytest.raises(ConfigurationError, match=message):
        preparation.prepare(replace(settings, data=data))
    assert left_behind(settings) == []
    assert not [*image_folder.rglob("evil")]


def test_a_model_that_cannot_be_made_leaves_nothing_behind(settings: Settings) -> None:
    model = replace(settings.model, init_args={"number": -1})
    with pytest.raises(TiledError, match=r"Untrained cannot be made with \{'number': -1\}"):
        preparation.prepare(replace(settings, model=model))
    assert left_behind(settings) == []


def test_a_damaged_image_leaves_nothing_behind_though_it_is_found_last(settings: Settings, image_folder: Path) -> None:
    path = image_folder / "good" / "3.png"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"good/3\.png is damaged"):
        preparation.prepare(replace(settings, cache=CacheSettings()))
    assert left_behind(settings) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_a_failure_at_the_very_end_leaves_the_runs_before_as_they_were(
    settings: Settings, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = preparation.prepare(settings).folder

    def fail(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "open_source", fail)
        with pytest.raises(failure):
            preparation.prepare(settings)
    assert sorted(path.name for path in before.path.parent.iterdir()) == ["latest", "v0"]
    assert (before.path.parent / "latest").resolve() == before.path.resolve()
    assert preparation.prepare(settings).folder.path.name == "v1"


def test_a_disk_that_is_full_at_the_very_end_leaves_nothing_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def full(path: Path, mode: str = "r", **arguments: object) -> object:
        if mode == "ab":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, mode, **arguments)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(StorageError, match=r"No space left on the disk while writing .*/v0/logs/run\.log"):
        preparation.prepare(settings)
    assert left_behind(settings) == []


def test_images_that_lose_something_are_known_before_any_work(settings: Settings, image_folder: Path) -> None:
    said = []
    preparation.prepare(settings, said.append)
    assert said == []
    deep = np.full((8, 12), 1000, np.uint16)
    Image.fromarray(deep).save(image_folder / "good" / "0.png")
    (image_folder / "good" / "1.png").write_bytes((image_folder / "good" / "1.png").read_bytes()[:-60])
    with pytest.raises(DataError, match="damaged"):
        preparation.prepare(settings, said.append)
    assert said == ["warning: 1 images have more than 8 bits per channel: anomalib reads values above 255 as white."]
