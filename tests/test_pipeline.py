"""Before and after the work: what a failure leaves behind, and how far a run is."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled import pipeline, preparation
from anomalib_tiled.config import CacheSettings, ClassSpec, MetricSettings, Settings
from anomalib_tiled.errors import ConfigurationError, DataError, RunFolderError, StorageError, TiledError, TrainingError
from anomalib_tiled.grid import Tile
from anomalib_tiled.lock import locked
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.run import Run
from anomalib_tiled.run_folder import RunFolder, TileRecord
from anomalib_tiled.seals import Seal

TILES = ["r00_c00", "r00_c01", "r00_c02", "r01_c00", "r01_c01", "r01_c02"]


class Untrained(AnomalibModule):
    """Is made, and said to be trained."""

    def __init__(self, number: int = 1) -> None:
        super().__init__(pre_processor=False)
        self.model = torch.nn.Linear(number, 1)

    def training_step(self, batch: ImageBatch, *args: object) -> None:
        return None

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


@pytest.fixture
def settings(configuration: dict[str, object], image_folder: Path) -> Settings:
    """Settings of a run on the tiny images, six tiles."""
    folders = {"normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad", "mask_dir": "masks"}
    data = {"name": "tiny", "root": str(image_folder), **folders, "val_split_mode": "same_as_test", "num_workers": 0}
    changes = {
        "default_root_dir": str(image_folder / "results"),
        "model": {"class_path": f"{__name__}.Untrained"},
        "data": {"class_path": "anomalib.data.Folder", "init_args": data},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
        "cache": None,
    }
    settings = Settings.from_mapping(configuration | changes)
    return replace(settings, tiling=replace(settings.tiling, image_size=None))


def left_behind(settings: Settings) -> list[Path]:
    """Files, links and runs in the folder of all runs."""
    found = Path(settings.default_root_dir).rglob("*")
    return [path for path in found if path.is_symlink() or path.is_file() or path.name.startswith("v")]


def record(folder: RunFolder, *names: str) -> None:
    """Note tiles as trained."""
    configuration = folder.settings().training_hash
    for each in pipeline.status(folder):
        if each.tile.name in names:
            path = folder.checkpoint(each.tile)
            path.parent.mkdir(exist_ok=True)
            path.touch()
            folder.write_record(each.tile, TileRecord(1.0, 1, configuration, Seal.of(path)))


def states(folder: RunFolder) -> list[tuple[str, str]]:
    return [(each.state, each.detail) for each in pipeline.status(folder)]


def test_a_prepared_run_holds_all_that_training_needs(settings: Settings, image_folder: Path) -> None:
    folder = preparation.prepare(settings)
    assert folder.path == image_folder / "results" / "Untrained" / "tiny" / "v0"
    assert {path.name for path in folder.path.iterdir()} == {
        "config.yaml",
        "split.csv",
        "origins.json",
        "seals.json",
        "logs",
    }
    assert folder.settings().tiling.image_size == (8, 12), "that of the images"
    assert replace(folder.settings(), tiling=settings.tiling) == settings
    assert "Initializing Untrained model." in folder.log_file.read_text()
    assert [each.tile.name for each in pipeline.status(folder)] == TILES


def test_the_split_is_drawn_from_the_seed(settings: Settings) -> None:
    splitting = {**settings.data.init_args, "val_split_mode": "from_test", "val_split_ratio": 0.5}
    drawing = replace(settings, data=replace(settings.data, init_args=splitting))
    splits = []
    for seed in (1, 1, 2, 3, 4, 5):
        torch.manual_seed(len(splits))  # whatever was drawn before
        splits.append(preparation.prepare(replace(drawing, seed_everything=seed)).split_file.read_text())
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1


NO_CLASS = ClassSpec("anomalib_tiled.stages.merging.Gaussian", {"sigma": -1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merging": NO_CLASS}, "Gaussian cannot be made with {'sigma': -1}"),
        ({"trainer": {"accelerator": "warp"}}, "The trainer refuses its arguments"),
        ({"model": ClassSpec(f"{__name__}.Untrained", {"number": -1})}, "Untrained cannot be made with {'number': -1}"),
        (
            {"workers": ClassSpec("anomalib_tiled.training.workers.LocalWorkers", {"processes": 0})},
            "must be at least 1",
        ),
        ({"metrics": MetricSettings(({"class_path": "AUROC", "init_args": {"max_fpr": 1}},))}, "no argument 'max_fpr'"),
    ],
)
def test_what_cannot_be_made_leaves_nothing_behind(settings: Settings, change: dict[str, object], message: str) -> None:
    with pytest.raises(TiledError, match=message):
        preparation.prepare(replace(settings, **change))
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
    before = preparation.prepare(settings)

    def fail(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "open_source", fail)
        with pytest.raises(failure):
            preparation.prepare(settings)
    assert sorted(path.name for path in before.path.parent.iterdir()) == ["latest", "v0"]
    assert (before.path.parent / "latest").resolve() == before.path.resolve()
    assert preparation.prepare(settings).path.name == "v1"


def test_a_tile_is_missing_done_or_failed(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    assert states(folder) == [("missing", "")] * 6
    record(folder, "r00_c01")
    folder.write_failure(pipeline.status(folder)[2].tile, "RuntimeError: out of luck")
    assert states(folder)[:4] == [
        ("missing", ""),
        ("done", ""),
        ("failed", "RuntimeError: out of luck"),
        ("missing", ""),
    ]


def test_a_tile_that_failed_once_and_then_was_trained_is_done(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    folder.write_failure(pipeline.status(folder)[2].tile, "RuntimeError: out of luck")
    record(folder, "r00_c02")
    assert states(folder)[2] == ("done", "")


def test_a_tile_of_another_configuration_is_not_passed_over(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    record(folder, "r00_c02")
    folder.config_file.write_text(replace(folder.settings(), seed_everything=8).to_yaml())
    with pytest.raises(RunFolderError, match=r"Tile r00_c02 in .* was trained with another configuration"):
        pipeline.status(folder)


def fails(run: Run, tile: Tile) -> None:
    """Stand in for the training; all tiles of the first row fail for one reason, one of the second for another."""
    reasons = dict.fromkeys(TILES[:3], "out of luck") | {"r01_c01": "out of money"}
    if tile.name in reasons:
        raise RuntimeError(reasons[tile.name])
    record(run.folder, tile.name)


def test_tiles_that_failed_are_gathered_by_their_reasons(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = preparation.prepare(settings)
    monkeypatch.setattr(pipeline, "train_tile", fails)
    with pytest.raises(TrainingError) as raised:
        pipeline.fit(folder, Observers())
    assert str(raised.value).splitlines() == [
        "4 tiles could not be trained; all others are done.",
        f"r00_c00, r00_c01, r00_c02: RuntimeError: out of luck (log: {folder.path / 'logs' / 'r00_c00.log'})",
        f"r01_c01: RuntimeError: out of money (log: {folder.path / 'logs' / 'r01_c01.log'})",
        f"Mend the cause, then go on with `anomalib tiled fit --ckpt_dir {folder.path}`.",
    ]
    assert [state for state, _ in states(folder)] == ["failed", "failed", "failed", "done", "failed", "done"]
    assert not folder.calibration_file.exists()


def test_what_is_wrong_with_the_configuration_is_not_tried_on_every_tile(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: Run, tile: Tile) -> None:
        message = "The model cannot be used."
        raise ConfigurationError(message)

    monkeypatch.setattr(pipeline, "train_tile", refuse)
    folder = preparation.prepare(settings)
    with pytest.raises(ConfigurationError, match=r"^The model cannot be used\.$"):
        pipeline.fit(folder, Observers())
    assert [state for state, _ in states(folder)] == ["failed", *["missing"] * 5]


def test_only_missing_tiles_are_trained(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tried = preparation.prepare(settings), []

    def stop(run: Run, tile: Tile) -> None:
        tried.append(tile.name)
        raise StorageError

    record(folder, *TILES[:4])
    monkeypatch.setattr(pipeline, "train_tile", stop)
    with pytest.raises(StorageError):
        pipeline.fit(folder, Observers())
    assert tried == ["r01_c01"], "a full disk stops all"


def test_forgotten_tiles_are_missing_again(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    record(folder, *TILES)
    pipeline.forget(folder, ["r00_c01", "r01_c02"])
    assert [state for state, _ in states(folder)] == ["done", "missing", "done", "done", "done", "missing"]


def test_a_tile_that_is_not_there_cannot_be_forgotten(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    record(folder, *TILES)
    with pytest.raises(ConfigurationError, match=r"--tiles names 'r1_c1', but the grid has no such tile. Did you mean"):
        pipeline.forget(folder, ["r00_c01", "r1_c1"])
    assert [state for state, _ in states(folder)] == ["done"] * 6, "all or nothing"


def test_two_fits_in_one_folder(settings: Settings) -> None:
    folder = preparation.prepare(settings)
    with (
        locked(folder.path),
        pytest.raises(RunFolderError, match=rf"is being fitted by process {os.getpid()} on {platform.node()} since"),
    ):
        pipeline.fit(folder, Observers())


def test_without_test_images_there_is_nothing_to_measure(settings: Settings) -> None:
    arguments = {name: settings.data.init_args[name] for name in ("name", "root", "normal_dir", "num_workers")}
    training_only = {**arguments, "test_split_mode": "none", "val_split_mode": "none"}
    folder = preparation.prepare(replace(settings, data=replace(settings.data, init_args=training_only)))
    with pytest.raises(
        DataError, match=r"There must be test images, but there are none\. Set the data module's test_s"
    ):
        pipeline.test(folder, Observers(), data=None, output=None)
