"""A run opened from its folder; tile models are played by one that gives the brightness."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, InferenceBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything
from PIL import Image
from torchvision.transforms.v2 import Identity

from anomalib_tiled.config.settings import ClassSpec, Settings, TilingSettings
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.cache import DecodedFiles, ImageCache
from anomalib_tiled.data.datamodule import split_once
from anomalib_tiled.ensemble import loaded_models
from anomalib_tiled.ensemble import run as module
from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_model import load_tile_model
from anomalib_tiled.ensemble.validation_scores import NormalScores, ValidationScores
from anomalib_tiled.errors import DataError, GridError, RunFolderError
from anomalib_tiled.grid import Size
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.runs.tile_record import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import write_json
from anomalib_tiled.training.preparation import prepare

Arguments = dict[str, Any]


class Brightness(AnomalibModule):
    def __init__(self) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        return InferenceBatch(anomaly_map=images.mean(dim=1, keepdim=True))

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


@pytest.fixture
def arguments(image_folder: Path) -> Arguments:
    """Arguments of a data module of the tiny images."""
    folders = {"normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad", "mask_dir": "masks"}
    sizes = {"train_batch_size": 2, "eval_batch_size": 3, "num_workers": 0, "val_split_mode": "same_as_test"}
    return {"name": "tiny", "root": str(image_folder), **folders, **sizes}


@pytest.fixture
def folder(
    configuration: dict[str, object],
    arguments: Arguments,
    image_folder: Path,
    make_run: Callable[[Path, Settings], RunFolder],
) -> RunFolder:
    """Folder of a run before its first tile."""
    changes = {
        "model": {"class_path": "anomalib.models.Padim", "init_args": {"layers": ["layer1"], "n_features": 10}},
        "trainer": {"accelerator": "cpu"},
        "data": {"class_path": "anomalib.data.Folder", "init_args": arguments},
        "cache": {"directory": str(image_folder / "cache")},
        "thresholding": {**configuration["thresholding"], "stage": "image"},
    }
    run = make_run(image_folder / "runs" / "v0", Settings.from_mapping(configuration | changes))
    split_once(Folder(**arguments)).write(run.split_file)
    run.note_checksum(run.split_file)
    return run


@pytest.fixture
def trained(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Note tiles as trained, by name; all of them if none is given."""
    monkeypatch.setattr(loaded_models, "load_tile_model", lambda spec, tile_size, checkpoint: Brightness())
    monkeypatch.setattr(loaded_models, "reload_tile_model", lambda *_: None)

    def note(*names: str) -> None:
        settings = folder.settings()
        for tile in grid_of(settings.tiling).tiles:
            if not names or tile.name in names:
                path = folder.checkpoint(tile)
                path.parent.mkdir(exist_ok=True)
                path.touch()
                folder.write_record(tile, TileRecord(1.0, 1, settings.training_hash, Checksum.of(path)))

    return note


def test_a_run_is_what_its_folder_says(folder: RunFolder) -> None:
    run = Run.open(folder)
    assert run.settings == folder.settings()
    assert (run.grid.image_size, run.grid.tile_size, run.grid.stride) == (Size(8, 12), Size(4, 4), Size(4, 4))
    assert [len(run.split.subset(name)) for name in ("train", "val", "test")] == [4, 4, 4]
    assert (run.datamodule.name, run.datamodule.eval_batch_size) == ("tiny", 3)


def test_a_package_that_is_gone_is_named_before_anything_is_made(folder: RunFolder) -> None:
    origin = {"class_path": "factory.Median", "package": "factory", "version": "1.2"}
    write_json(folder.origins_file, {"scoring": origin})
    with pytest.raises(RunFolderError, match=r"not installed now\. Install it: pip install factory==1\.2"):
        Run.open(folder)


def test_a_package_of_another_version_is_noted(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    origin = {"class_path": "numpy.ndarray", "package": "numpy", "version": "0.1"}
    write_json(folder.origins_file, {"scoring": origin})
    Run.open(folder)
    assert "The run was made with numpy 0.1, but" in caplog.text


def test_images_are_decoded_beforehand_only_where_it_pays(folder: RunFolder, image_folder: Path) -> None:
    assert isinstance(Run.open(folder).source, DecodedFiles)
    assert not (image_folder / "cache").exists()
    assert isinstance(Run.open(folder).with_cache().source, ImageCache)
    assert isinstance(Run.open(folder).source, ImageCache), "once it is there it is used"


def test_a_run_without_cache_decodes_on_the_fly(folder: RunFolder, image_folder: Path) -> None:
    folder.config_file.write_text(replace(folder.settings(), cache=None).to_yaml())
    assert isinstance(Run.open(folder).with_cache().source, DecodedFiles)
    assert not (image_folder / "cache").exists()


@pytest.mark.parametrize(
    ("eval_batch_size", "pixels_at_once", "expected"),
    [
        (3, 2**22, [3, 1]),
        (32, 2**22, [4]),
        (32, 3 * 96, [3, 1]),
        (32, 3 * 96 - 1, [2, 2]),
        (2, 3 * 96, [2, 2]),
        (32, 95, [1, 1, 1, 1]),
    ],
)
def test_only_so_many_pixels_are_in_memory_whatever_the_batch_size(
    folder: RunFolder, eval_batch_size: int, pixels_at_once: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", pixels_at_once)
    run = Run.open(folder)
    run.datamodule.eval_batch_size = eval_batch_size
    assert [len(batch.image) for batch in run.images("test")] == expected


@pytest.mark.parametrize(("free", "expected"), [(4 * 256 * 96 * 3, 3), (4 * 256 * 96 * 3 - 4, 2), (1, 1)])
def test_without_a_budget_as_many_images_come_together_as_there_is_memory_for(
    folder: RunFolder, free: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: free)
    run = Run.open(folder)
    run.datamodule.eval_batch_size = 32
    assert run.batch_size == expected
    monkeypatch.setattr(module, "available_memory", lambda: 10**12)
    assert run.batch_size == expected, "batches stay as large as they were"
    given = replace(run, settings=replace(run.settings, memory_budget=256 * 96 * 4))
    assert given.batch_size == 4, "a budget that is given holds, whatever is free"


def test_an_image_for_which_there_is_too_little_memory_is_warned_of(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 128 * 96)
    assert Run.open(folder).memory_remark() is None
    monkeypatch.setattr(module, "available_memory", lambda: 128 * 96 - 1)
    assert str(Run.open(folder).memory_remark()).startswith("Predicting an image of 8 x 12 pixels takes about")


def test_a_large_image_comes_alone(folder: RunFolder) -> None:
    run = Run.open(folder)
    large = replace(run, grid=grid_of(TilingSettings(tile_size=2048, image_size=(4096, 4096))))
    large.datamodule.eval_batch_size = 32
    assert large.images("test").batch_size == 1


def test_images_are_whole_and_in_the_order_of_the_split(folder: RunFolder) -> None:
    run = Run.open(folder)
    batches = list(run.images("test"))
    paths = [path for batch in batches for path in batch.image_path]
    assert paths == [str(sample.image_path) for sample in run.split.subset("test")]
    assert all(batch.image.shape[1:] == (3, 8, 12) and batch.gt_mask.shape[1:] == (8, 12) for batch in batches)


def test_each_subset_has_the_augmentations_that_are_meant_for_it(folder: RunFolder) -> None:
    run = Run.open(folder)
    run.datamodule.val_augmentations, run.datamodule.test_augmentations = Identity(), None
    assert [run.images(name).augmentations is None for name in ("calibration", "test")] == [False, True]


@pytest.mark.parametrize("mode", ["from_test", "from_train", "synthetic"])
def test_tiles_and_commands_see_the_same_images_whatever_the_random_state(
    configuration: dict[str, object], arguments: Arguments, image_folder: Path, mode: str
) -> None:
    for path in image_folder.glob("*/*.png"):  # anomalib's synthetic defects need at least 32 pixels
        image = Image.open(path).resize((48, 48))
        for each in (path, path.with_stem(f"{path.stem}_again")):
            image.save(each)
    del arguments["normal_test_dir"]
    changes = {
        "data": {
            "class_path": "anomalib.data.Folder",
            "init_args": arguments | {"val_split_mode": mode, "test_split_ratio": 0.5},
        },
        "tiling": {"image_size": [48, 48], "tile_size": 24, "stride": None},
        "default_root_dir": str(image_folder / "runs"),
        "model": {"class_path": "anomalib.models.Padim", "init_args": {"pre_trained": False, "n_features": 5}},
        "cache": None,
    }
    folder = prepare(Settings.from_mapping(configuration | changes)).folder
    seen = set()
    for state in range(6):
        seed_everything(state)
        run = Run.open(folder)
        for tile in run.grid.tiles:
            data = run.job.tile_data(tile)
            loaders = data.train_dataloader(), data.val_dataloader(), run.images("test")
            paths = [frozenset(path for batch in loader for path in batch.image_path) for loader in loaders]
            assert not paths[0] & (paths[1] | paths[2])
            seen.add(tuple(paths))
    assert len(seen) == 1


def test_missing_tiles_are_named(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained("r00_c00", "r00_c02", "r01_c00", "r01_c01")
    message = (
        f"^{folder.path} lacks 2 tiles: r00_c01, r01_c02. Train them: `anomalib tiled fit --ckpt_dir {folder.path}`.$"
    )
    run = Run.open(folder)
    for load in (run.ensemble, run.calibrated_ensemble):
        with pytest.raises(RunFolderError, match=message):
            load()


def test_a_run_that_is_not_calibrated_says_so(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    with pytest.raises(RunFolderError, match=r"calibration.json is missing. Calibrate: .*fit --ckpt_dir"):
        Run.open(folder).calibrated_ensemble()


def calibration_of(folder: RunFolder, level: object) -> dict[str, object]:
    """What fit writes."""
    return {"configuration": folder.settings().calibration_hash, "image": level, "tiles": {}, "notes": []}


def test_a_run_that_was_calibrated_otherwise_says_so(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    write_json(folder.calibration_file, calibration_of(folder, None))
    folder.note_checksum(folder.calibration_file)
    Run.open(folder).calibrated_ensemble()
    stages = {**folder.settings().stages, "seam_smoothing": ClassSpec("anomalib_tiled.stages.seams.GaussianSeams")}
    folder.config_file.write_text(replace(folder.settings(), stages=stages).to_yaml())
    with pytest.raises(
        RunFolderError,
        match=r"calibration\.json was made with another config\.yaml\..* Calibrate: ",
    ):
        Run.open(folder).calibrated_ensemble()


def test_validation_scores_of_another_configuration_are_refused(folder: RunFolder) -> None:
    assert Run.open(folder).validation_scores() is None
    none = NormalScores(np.zeros(0), np.zeros(0))
    ValidationScores(none, none, "another").write(folder.validation_scores_file)
    with pytest.raises(RunFolderError, match=r"scores\.npz was made with another config\.yaml.*Calibrate: "):
        Run.open(folder).validation_scores()


def test_a_checkpoint_that_cannot_be_loaded_is_named(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    run = Run.open(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loaded_models, "load_tile_model", load_tile_model)
        with pytest.raises(
            RunFolderError, match=r"r00_c00\.ckpt cannot be loaded: .* Train the tile again: .*r00_c00`"
        ):
            run.ensemble()(torch.rand(1, 3, 8, 12))


def test_a_checkpoint_that_was_altered_is_never_loaded(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    path = folder.checkpoint(grid_of(folder.settings().tiling).tiles[1])
    path.write_bytes(b"12")
    with pytest.raises(RunFolderError, match=r"r00_c01.ckpt had 0 bytes .* has 2 now. Train the tile again: "):
        Run.open(folder).ensemble()
    folder.write_record(
        grid_of(folder.settings().tiling).tiles[1],
        TileRecord(1.0, 1, folder.settings().training_hash, Checksum.of(path)),
    )
    path.write_bytes(b"21")
    with pytest.raises(RunFolderError, match=r"r00_c01.ckpt was changed after it was finished. Train the tile again"):
        Run.open(folder).ensemble()(torch.rand(1, 3, 8, 12))


@pytest.mark.parametrize("change", [lambda text: text[:-9], lambda text: text.replace("train", "test", 1)])
def test_a_split_that_was_altered_is_never_used(folder: RunFolder, change: Callable[[str], str]) -> None:
    folder.split_file.write_text(change(folder.split_file.read_text()))
    with pytest.raises(RunFolderError, match=r"split.csv (was changed|had \d+ bytes).*lists the training images: rest"):
        Run.open(folder)


def test_a_calibration_that_was_altered_is_never_used(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    write_json(folder.calibration_file, calibration_of(folder, None))
    folder.note_checksum(folder.calibration_file)
    text = folder.calibration_file.read_text()
    folder.calibration_file.write_text(text.replace("image", "imago"))
    with pytest.raises(RunFolderError, match=r"calibration.json was changed after it was finished. Calibrate: "):
        Run.open(folder).calibrated_ensemble()


def test_the_ensemble_predicts_with_what_the_run_holds(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    learned = {"threshold": 0.25, "normalization": {"minimum": 0.0, "maximum": 1.0, "threshold": 0.25}}
    write_json(folder.calibration_file, calibration_of(folder, {"scores": learned, "maps": learned}))
    folder.note_checksum(folder.calibration_file)
    ensemble = Run.open(folder).calibrated_ensemble()
    assert not ensemble.training
    prediction = ensemble(torch.stack([torch.full((3, 8, 12), 0.125), torch.full((3, 8, 12), 0.5)]))
    assert prediction.pred_label.tolist() == [False, True]
    torch.testing.assert_close(prediction.pred_score, torch.tensor([0.375, 0.75]))
    assert prediction.pred_mask[1].all()


def test_without_calibration_predictions_are_raw(folder: RunFolder, trained: Callable[..., None]) -> None:
    trained()
    images = torch.rand(2, 3, 8, 12)
    prediction = Run.open(folder).ensemble()(images)
    torch.testing.assert_close(prediction.anomaly_map, images.mean(dim=1, keepdim=True))
    assert prediction.pred_label is None
    assert Run.open(folder).ensemble(Calibration()).calibration == Calibration()


def test_other_images_take_the_place_of_the_runs_own(folder: RunFolder, arguments: Arguments, tmp_path: Path) -> None:
    others = tmp_path / "others"
    for name in ("good", "test", "bad", "masks"):
        shutil.copytree(tmp_path / name, others / name)
    Image.new("RGB", (24, 16), "white").save(others / "test" / "0.png")
    run = Run.open(folder).with_cache()
    other = run.with_images_of(Folder(**(arguments | {"root": str(others), "eval_batch_size": 1})))
    samples = other.split.subset("test")
    assert all(sample.image_path.is_relative_to(others) for sample in samples)
    assert isinstance(other.source, DecodedFiles), "they are needed once"
    assert (other.grid, other.folder, other.settings) == (run.grid, run.folder, run.settings)
    (white,) = (batch for batch in other.images("test") if batch.image_path[0].endswith("test/0.png"))
    assert white.image.shape == (1, 3, 8, 12), "resized to the size that the run was trained with"
    assert (white.image == 1).all()


def test_other_images_that_are_not_there(folder: RunFolder, arguments: Arguments, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The data module Folder could not be set up: Path does not exist"):
        Run.open(folder).with_images_of(Folder(**(arguments | {"root": str(tmp_path / "nowhere")})))


def test_the_grid_of_a_configuration() -> None:
    grid = grid_of(TilingSettings(tile_size=(4, 6), image_size=(8, 12), stride=2))
    assert (grid.image_size, grid.tile_size, grid.stride) == (Size(8, 12), Size(4, 6), Size(2, 2))
    assert grid_of(TilingSettings(tile_size=(4, 6), image_size=12)).stride == Size(4, 6), "no overlap"


def test_a_grid_that_does_not_fit() -> None:
    with pytest.raises(GridError, match="tile height is 9 pixels, image height is 8 pixels"):
        grid_of(TilingSettings(tile_size=9, image_size=(8, 12)))


def test_the_configuration_of_a_run_holds_the_size_of_its_images() -> None:
    with pytest.raises(RunFolderError, match=r"must hold tiling\.image_size, but it does not\. Restore it, or fit"):
        grid_of(TilingSettings(tile_size=4))
