"""Training a tile, with a model that counts: its one weight falls by one at every step, 3, 2, 1, 0 and so on.

There are 4 training images in batches of 2, so an epoch takes two steps off.
"""

from __future__ import annotations

import errno
import json
import logging
import platform
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import Folder, ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.callbacks import Callback
from PIL import Image

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.ensemble.loaded_models import SavedModels
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError, RunFolderError, StorageError, UnfitLocationError
from anomalib_tiled.grid import Tile
from anomalib_tiled.runs.claims import claim_tile
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.hardware import processor_name
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.termination import Terminated
from anomalib_tiled.training import preparation
from anomalib_tiled.training import train_tile as training
from anomalib_tiled.training.stored_predictions import PredictionJob
from anomalib_tiled.training.train_tile import TrainAndPredict, train_tile
from anomalib_tiled.training.training_images import record_images, recorded_fingerprint

pytestmark = pytest.mark.usefixtures("unchecked")

CHECKPOINT = "lightning.pytorch.callbacks.ModelCheckpoint"

MakeRun = Callable[..., Run]


class Falling(AnomalibModule):
    """Its maps are the true masks times its weight, so a metric is at its best while the weight is positive."""

    validated: list[str] = []  # noqa: RUF012  # of all of them
    trainers: list[dict[str, object]] = []  # noqa: RUF012

    def __init__(self, pre_processor: PreProcessor | bool = True) -> None:  # noqa: FBT001, FBT002
        super().__init__(pre_processor=pre_processor)
        self.weight = torch.nn.Parameter(torch.tensor(3.0))
        self.model = torch.nn.Linear(1, 1)

    def forward(self, batch: torch.Tensor, *args: object) -> InferenceBatch:
        return InferenceBatch(pred_score=self.weight.expand(len(batch)))

    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: ImageBatch, *args: object) -> ImageBatch:
        self.validated.extend(batch.image_path)
        self.log("weight", self.weight, batch_size=1)
        maps = self.weight * batch.gt_mask.float()
        return batch.update(anomaly_map=maps, pred_score=maps.amax(dim=(1, 2)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1)

    trainer_arguments = {"num_sanity_val_steps": 0}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


class Learning(Falling):
    """Learns something from validation tiles."""

    def on_validation_start(self) -> None:
        self.validated.append("start")


class LearningAtTheEnd(Falling):
    def on_validation_epoch_end(self) -> None:
        self.validated.append("end")


class Random(Falling):
    """Draws its first weight, noise, and the order of the images."""

    def __init__(self, pre_processor: PreProcessor | bool = True) -> None:  # noqa: FBT001, FBT002
        super().__init__(pre_processor)
        torch.nn.init.normal_(self.weight.data[None])

    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        return self.weight * (batch.image[0].mean() + torch.randn(()))


class Exact(Falling):
    """Keeps something in double precision."""

    def __init__(self, pre_processor: PreProcessor | bool = True) -> None:  # noqa: FBT001, FBT002
        super().__init__(pre_processor)
        self.register_buffer("exact", torch.zeros(1, dtype=torch.float64))


class Interrupted(Falling):
    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        raise KeyboardInterrupt


class Ended(Falling):
    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        raise Terminated


class Exiting(Falling):
    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        raise SystemExit(3)


class Failing(Falling):
    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        message = "out of luck"
        raise RuntimeError(message)


class Stuck(Falling):
    """Cannot be moved once it is trained."""

    def to(self, *arguments: object, **options: object) -> Stuck:
        if float(self.weight) < 3:
            message = "no room left"
            raise RuntimeError(message)
        return super().to(*arguments, **options)


class Deciding(Falling):
    """Its prediction is one for the whole batch."""

    def forward(self, batch: torch.Tensor, *args: object) -> InferenceBatch:
        assert not self.training, "a prediction is that of a trained model"
        return InferenceBatch(pred_score=self.weight)


class Dividing(Falling):
    """Its prediction of a tile is no number once it is trained."""

    def forward(self, batch: torch.Tensor, *args: object) -> InferenceBatch:
        return InferenceBatch(pred_score=torch.zeros(len(batch)) / (self.weight > 1))


class Undecided(Falling):
    """Has no optimizer, and predicts no number."""

    def forward(self, batch: torch.Tensor, *args: object) -> InferenceBatch:
        return InferenceBatch(pred_score=torch.full((len(batch),), torch.nan))

    def training_step(self, batch: ImageBatch, *args: object) -> None:
        return None

    def configure_optimizers(self) -> None:
        return None


class Talking(Falling):
    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        print("a print")  # noqa: T201  # what models do
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("anomalib.models.talking").info("a record")
        return super().training_step(batch, *args)


class Noting(Callback):
    """Notes what the trainer was made with."""

    def on_fit_start(self, trainer: object, pl_module: Falling) -> None:
        names = ("max_epochs", "gradient_clip_val", "limit_train_batches", "check_val_every_n_epoch", "logger")
        pl_module.trainers.append({name: getattr(trainer, name) for name in names} | {"callback": self})


@pytest.fixture(autouse=True)
def forgotten() -> None:
    Falling.validated.clear()
    Falling.trainers.clear()


@pytest.fixture
def make_run(
    configuration: dict[str, object], datamodule: Folder, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeRun:
    """Make a run on the tiny images; six tiles of 4 x 4 pixels."""
    names = {"normal_dir": "good", "normal_test_dir": "test", "abnormal_dir": "bad", "mask_dir": "masks"}
    data = {"name": "tiny", "root": str(image_folder), **names, "train_batch_size": 2, "val_split_mode": "same_as_test"}

    def make(model: type[AnomalibModule] = Falling, **trainer: object) -> Run:
        changes = {
            "default_root_dir": str(image_folder / "results"),
            "model": {"class_path": f"{__name__}.{model.__name__}"},
            "data": {"class_path": "anomalib.data.Folder", "init_args": data},
            "trainer": {"accelerator": "cpu", "max_epochs": 1, **trainer},
        }
        return preparation.prepare(Settings.from_mapping(configuration | changes))

    (image_folder / "elsewhere").mkdir()
    monkeypatch.chdir(image_folder / "elsewhere")
    return make


def first(run: Run) -> Tile:
    return run.grid.tiles[0]


def weight_of(run: Run, tile: Tile | None = None) -> float:
    checkpoint = torch.load(run.folder.checkpoint(tile or first(run)), weights_only=True)
    return float(checkpoint["state_dict"]["weight"])


def epochs_of(run: Run) -> int:
    return json.loads(run.folder.record_file(first(run)).read_text())["epochs"]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())}


def test_a_trained_tile_leaves_its_checkpoint_record_and_log_and_nothing_else(
    make_run: MakeRun, image_folder: Path
) -> None:
    run = make_run()
    before = files(image_folder)
    train_tile(run.job, first(run))
    folder = run.folder.path.relative_to(image_folder)
    added = {f"{folder}/tiles/r00_c00.ckpt", f"{folder}/tiles/r00_c00.json", f"{folder}/logs/r00_c00.log"}
    assert files(image_folder) - before == added
    assert run.folder.is_done(first(run), run.settings.training_hash)
    assert weight_of(run) == 1
    assert run.folder.threads(run.grid) == torch.get_num_threads()


def test_a_tile_that_is_claimed_is_stored(make_run: MakeRun) -> None:
    run = make_run()
    TrainAndPredict(run.job)(claim_tile(run.folder, first(run)))
    assert run.folder.is_done(first(run), run.settings.training_hash)
    assert not run.folder.claim_file(first(run)).exists()


class Overtaken(Falling):
    """While it is trained, its tile is given to another try."""

    run: list[Run] = []  # noqa: RUF012

    def on_fit_start(self) -> None:
        claim_tile(self.run[0].folder, first(self.run[0]))


@pytest.mark.parametrize("model", [Overtaken, Falling])
def test_a_try_that_has_lost_its_tile_changes_nothing(
    make_run: MakeRun, model: type[Falling], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(model)
    monkeypatch.setattr(Overtaken, "run", [run])
    train_tile(run.job, other := run.grid.tiles[1])
    run.folder.mark_for_training([other])
    run.folder.calibration_file.touch()
    claimed = claim_tile(run.folder, first(run))
    if model is Falling:
        claim_tile(run.folder, first(run))
    before = {path: path.stat().st_mtime_ns for path in (run.folder.path / "tiles").iterdir()}
    with pytest.raises(RunFolderError, match=r"Tile r00_c00 of .* any more: try \d of process .* stores nothing"):
        TrainAndPredict(run.job)(claimed)
    after = {path: path.stat().st_mtime_ns for path in (run.folder.path / "tiles").iterdir()}
    claim = run.folder.claim_file(first(run))
    assert {path for path in after if after[path] != before.get(path)} <= {claim}
    assert before.keys() == after.keys()
    assert run.folder.calibration_file.exists()
    assert run.folder.tile_log(first(run)).exists() == (model is Overtaken), "the other one has not begun"


def test_the_record_is_not_written_if_the_tile_is_lost_at_the_last_moment(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    forget = RunFolder.forget

    def overtaken(folder: RunFolder, tile: Tile) -> None:
        forget(folder, tile)
        claim_tile(folder, tile)

    monkeypatch.setattr(RunFolder, "forget", overtaken)
    with pytest.raises(RunFolderError, match="try 2 of process"):
        train_tile(run.job, first(run), claim=claim_tile(run.folder, first(run)))
    assert not run.folder.has_record(first(run))
    assert run.folder.claim_file(first(run)).exists()


def test_arguments_reach_the_trainer(make_run: MakeRun) -> None:
    given = {"max_epochs": 3, "gradient_clip_val": 7.0, "limit_train_batches": 1, "check_val_every_n_epoch": 2}
    run = make_run(**given, callbacks={"class_path": f"{__name__}.Noting"})
    train_tile(run.job, first(run))
    (noted,) = Falling.trainers
    assert given.items() <= noted.items()
    assert noted["logger"] is None
    assert epochs_of(run) == 3
    assert weight_of(run) == 0, "one step in each of three epochs"


def test_every_tile_has_callbacks_of_its_own(make_run: MakeRun) -> None:
    run = make_run(callbacks=[{"class_path": f"{__name__}.Noting"}])
    for tile in run.grid.tiles[:2]:
        train_tile(run.job, tile)
    one, other = (noted["callback"] for noted in Falling.trainers)
    assert one is not other


def stopping(**arguments: object) -> dict[str, object]:
    return {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": arguments}


@pytest.mark.parametrize("monitor", ["pixel_AUROC", "image_F1Max"])
def test_early_stopping_finds_its_metric(make_run: MakeRun, monitor: str) -> None:
    run = make_run(max_epochs=9, callbacks=[stopping(monitor=monitor, mode="max", patience=1, stopping_threshold=0.9)])
    train_tile(run.job, first(run))
    assert epochs_of(run) == 1, "all defects are found after the first epoch"


def test_early_stopping_stops_when_it_becomes_no_better(make_run: MakeRun) -> None:
    run = make_run(max_epochs=9, callbacks=[stopping(monitor="pixel_AUROC", mode="max", patience=2)])
    train_tile(run.job, first(run))
    assert epochs_of(run) == 3
    assert weight_of(run) == -3, "the last weights"


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint"])
def test_a_metric_of_two_classes_is_not_monitored_where_a_tile_has_one(make_run: MakeRun, name: str) -> None:
    watching = {
        "class_path": f"lightning.pytorch.callbacks.{name}",
        "init_args": {"monitor": "pixel_AUROC", "mode": "max"},
    }
    run = make_run(max_epochs=5, callbacks=[watching])
    tile = run.grid.tile("r01_c02")
    train_tile(run.job, tile)
    assert weight_of(run, tile) == -7, "all five epochs, and the last weights"
    said = f"{name} is not used: pixel_AUROC is not defined, because all validation tiles are of one class."
    assert said in run.folder.tile_log(tile).read_text()


@pytest.mark.parametrize(("mode", "weight"), [("max", 1), ("min", -1)])
def test_a_monitored_checkpoint_gives_the_weights_of_the_best_epoch(
    make_run: MakeRun, mode: str, weight: float
) -> None:
    best = {"class_path": CHECKPOINT, "init_args": {"monitor": "pixel_AUROC", "mode": mode}}
    run = make_run(max_epochs=4, callbacks=[best])
    train_tile(run.job, first(run))
    assert weight_of(run) == weight
    assert epochs_of(run) == 4


@pytest.mark.parametrize("arguments", [{}, {"save_top_k": -1}])
def test_a_checkpoint_that_monitors_nothing_gives_the_last_weights(
    make_run: MakeRun, arguments: dict[str, object]
) -> None:
    run = make_run(max_epochs=3, callbacks=[{"class_path": CHECKPOINT, "init_args": arguments}])
    train_tile(run.job, first(run))
    assert weight_of(run) == -3


@pytest.mark.parametrize(("monitor", "weights"), [({"monitor": "weight", "mode": "max"}, [1, 1]), ({}, [-3, -3])])
def test_checkpoints_of_the_user_go_where_they_are_wanted_and_those_of_the_run_keep_their_names(
    make_run: MakeRun, tmp_path: Path, monitor: dict[str, object], weights: list[float]
) -> None:
    arguments = {"dirpath": str(tmp_path / "own"), "filename": "mine-{epoch}", **monitor}
    run = make_run(max_epochs=3, callbacks=[{"class_path": CHECKPOINT, "init_args": arguments}])
    for tile, weight in zip(run.grid.tiles, weights, strict=False):  # the second finds files of the first
        train_tile(run.job, tile)
        assert weight_of(run, tile) == weight
    assert {path.name for path in (run.folder.path / "tiles").iterdir()} == {
        f"{tile.name}.{ending}" for tile in run.grid.tiles[:2] for ending in ("ckpt", "json")
    }
    assert len(list((tmp_path / "own").glob("mine-*.ckpt"))) == 2


def test_validation_is_left_out_where_nothing_reads_it(make_run: MakeRun) -> None:
    run = make_run(max_epochs=2)
    train_tile(run.job, first(run))
    assert Falling.validated == []


@pytest.mark.parametrize("model", [Learning, LearningAtTheEnd])
def test_a_model_that_learns_from_validation_tiles_sees_them(make_run: MakeRun, model: type[Falling]) -> None:
    run = make_run(model)
    train_tile(run.job, first(run))
    assert [seen for seen in Falling.validated if seen in {"start", "end"}] != []
    assert len([seen for seen in Falling.validated if seen not in {"start", "end"}]) == 4


def test_validation_happens_for_a_callback_that_monitors(make_run: MakeRun) -> None:
    run = make_run(max_epochs=2, callbacks=[stopping(monitor="pixel_AUROC", mode="max")])
    train_tile(run.job, first(run))
    assert len(Falling.validated) == 2 * 4


def test_weights_depend_neither_on_the_order_of_tiles_nor_on_what_was_drawn_before(make_run: MakeRun) -> None:
    one, other = make_run(Random, max_epochs=2), make_run(Random, max_epochs=2)
    tiles = one.grid.tiles[:2]
    for tile in tiles:
        train_tile(one.job, tile)
    torch.manual_seed(99)
    for tile in reversed(tiles):
        train_tile(other.job, tile)
    for tile in tiles:
        assert weight_of(one, tile) == weight_of(other, tile)
    assert weight_of(one, tiles[0]) != weight_of(one, tiles[1]), "they see different pixels"


@pytest.mark.parametrize(("model", "interruption"), [(Interrupted, KeyboardInterrupt), (Ended, Terminated)])
def test_an_interrupt_comes_out_as_one_and_leaves_no_checkpoint(
    make_run: MakeRun, model: type[Falling], interruption: type[BaseException]
) -> None:
    run = make_run(model)
    with pytest.raises(KeyboardInterrupt) as raised:
        train_tile(run.job, first(run))
    assert type(raised.value) is interruption
    assert not files(run.folder.path / "tiles")


def test_an_exit_of_the_model_is_no_interrupt(make_run: MakeRun) -> None:
    run = make_run(Exiting)
    with pytest.raises(SystemExit) as left:
        train_tile(run.job, first(run))
    assert left.value.code == 3
    assert not files(run.folder.path / "tiles")


def test_a_failure_of_the_model_names_its_cause_and_leaves_no_checkpoint(make_run: MakeRun) -> None:
    run = make_run(Failing)
    with pytest.raises(
        UnfitLocationError, match=r"^Failing cannot be fitted on these tiles: RuntimeError: out of luck$"
    ):
        train_tile(run.job, first(run))
    log = run.folder.tile_log(first(run)).read_text()
    assert "Training tile r00_c00 failed.\nTraceback" in log
    assert "RuntimeError: out of luck" in log
    assert not files(run.folder.path / "tiles")


def test_predictions_of_no_use_are_known_after_training_and_leave_no_checkpoint(make_run: MakeRun) -> None:
    run = make_run(Deciding)
    with pytest.raises(ConfigurationError, match="Deciding must give one pred_score for each tile, but gives 1 for 2"):
        train_tile(run.job, first(run))
    assert not list((run.folder.path / "tiles").iterdir())


@pytest.mark.parametrize(
    ("model", "advice"),
    [(Dividing, "other settings, for example a lower learning rate"), (Undecided, "more images")],
)
def test_predictions_that_are_no_numbers_are_known_after_the_first_tile(
    make_run: MakeRun, model: type[Falling], advice: str
) -> None:
    run = make_run(model)
    with pytest.raises(ConfigurationError) as raised:
        train_tile(run.job, first(run))
    assert str(raised.value) == (
        f"{model.__name__} predicts infinities or NaN after it was trained on r00_c00, the first tile, so training "
        f"stopped. Training images: 4. Fit with {advice}."
    )
    assert not list((run.folder.path / "tiles").iterdir())


def test_a_tile_whose_validation_images_give_no_numbers_is_trained_all_the_same(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that is resumed does not train it again and again; the fault is reported when all are trained."""
    monkeypatch.setattr(training, "is_complete", lambda _: True)
    monkeypatch.setattr(training, "_check_prediction", lambda *_: None)
    run = make_run(Dividing)
    TrainAndPredict(run.job)(first(run))
    assert run.folder.is_done(first(run), run.settings.training_hash)
    assert "The model of tile r00_c00 predicts infinities or NaN." in run.folder.tile_log(first(run)).read_text()


def test_a_model_whose_predictions_are_no_numbers_cannot_be_fitted_on_a_later_tile(make_run: MakeRun) -> None:
    run = make_run(Dividing)
    record = run.folder.record_file(run.grid.tiles[1])
    record.parent.mkdir(exist_ok=True)
    record.touch()
    message = r"^Dividing cannot be fitted on these tiles: its predictions are infinities or NaN$"
    with pytest.raises(UnfitLocationError, match=message) as raised:
        train_tile(run.job, first(run))
    assert not raised.value.blank
    assert files(record.parent) == {record.name}


@pytest.mark.parametrize("model", [Failing, Dividing])
def test_where_the_images_show_nothing_other_locations_are_not_to_blame(
    make_run: MakeRun, image_folder: Path, model: type[AnomalibModule]
) -> None:
    for path in (image_folder / "good").iterdir():
        Image.new("RGB", (12, 8), (250, 251, 252)).save(path)
    run = make_run(model)
    shown = "which are blank, or the same in all images: "
    with pytest.raises(
        UnfitLocationError, match=f"^{model.__name__} cannot be fitted on these tiles, {shown}"
    ) as raised:
        train_tile(run.job, first(run))
    assert raised.value.blank


def test_a_tile_that_is_done_stays_as_it_is(make_run: MakeRun) -> None:
    """Its process may have died after it."""
    run = make_run()
    train_tile(run.job, first(run))
    before = run.folder.checkpoint(first(run)).stat()
    train_tile(run.job, first(run))
    assert run.folder.checkpoint(first(run)).stat() == before


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_a_model_is_stored_in_the_precision_that_it_is_loaded_with(make_run: MakeRun, precision: str) -> None:
    run = make_run(Exact, precision=precision)
    train_tile(run.job, first(run))
    weights = torch.load(run.folder.checkpoint(first(run)), weights_only=True)["state_dict"]
    assert (weights["weight"].dtype, weights["exact"].dtype) == (torch.float32, torch.float64)


def test_training_and_predicting_are_two_steps_with_one_model(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "is_complete", lambda _: True)
    monkeypatch.setattr(SavedModels, "load", lambda *_: pytest.fail("a model is loaded"))
    run = make_run()
    model = train_tile(run.job, run.grid.tiles[1])
    assert (model.weight.item(), model.training) == (1, True), "as the training left it"
    assert not run.folder.predictions.exists()
    TrainAndPredict(run.job)(first(run))
    assert [path.name for path in run.folder.predictions.glob("*/*.json")] == ["r00_c00.json"]


def assert_trained_but_not_predicted(run: Run, reason: str) -> None:
    assert run.folder.is_done(first(run), run.settings.training_hash)
    run.check_checkpoints([first(run)])
    log = run.folder.tile_log(first(run)).read_text()
    assert "Tile r00_c00 could not be predicted yet. It is predicted again when all tiles are trained." in log
    assert reason in log


def test_a_tile_that_cannot_be_predicted_yet_is_trained_all_the_same(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        message = "no room for predictions"
        raise RuntimeError(message)

    monkeypatch.setattr(training, "is_complete", lambda _: True)
    monkeypatch.setattr(PredictionJob, "predict", fail)
    run = make_run()
    TrainAndPredict(run.job)(first(run))
    assert_trained_but_not_predicted(run, "RuntimeError: no room for predictions")


@pytest.fixture
def unwritable(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Run]:
    """Make a run whose predictions cannot be written, for a reason of the system."""

    def make(reason: int) -> Run:
        def fail(prediction: PredictionJob, *_: object) -> None:
            with storage_errors(prediction.folder):
                raise OSError(reason, "not written")

        monkeypatch.setattr(training, "is_complete", lambda _: True)
        monkeypatch.setattr(PredictionJob, "predict", fail)
        return make_run()

    return make


def test_predictions_that_must_not_be_written_are_none_of_the_trainings_concern(
    unwritable: Callable[[int], Run],
) -> None:
    run = unwritable(errno.EACCES)
    TrainAndPredict(run.job)(first(run))
    assert_trained_but_not_predicted(run, "raw cannot be written: not written.")


def test_a_full_disk_ends_the_training_though_the_tile_is_stored(unwritable: Callable[[int], Run]) -> None:
    run = unwritable(errno.ENOSPC)
    with pytest.raises(StorageError, match="No space left"):
        TrainAndPredict(run.job)(first(run))
    assert run.folder.to_train(run.grid, run.settings) == run.grid.tiles[1:], "it is not trained again"


def test_a_tile_whose_model_does_not_fit_onto_its_device_any_more_is_trained_all_the_same(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "is_complete", lambda _: True)
    run = make_run(Stuck)
    TrainAndPredict(run.job)(first(run))
    assert_trained_but_not_predicted(run, "RuntimeError: no room left")


def test_a_tile_that_is_trained_again_stays_until_its_checkpoint_is_written(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    train_tile(run.job, first(run))
    run.folder.calibration_file.write_text("{}")
    run.folder.mark_for_training([first(run)])
    before = run.folder.checkpoint(first(run)).stat().st_ino

    def fail(*_: object) -> None:
        message = "out of luck"
        raise RuntimeError(message)

    with monkeypatch.context() as patched:
        patched.setattr(training, "write_tensors", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            train_tile(run.job, first(run))
    assert run.folder.is_done(first(run), run.settings.training_hash)
    assert run.folder.calibration_file.exists()
    assert run.folder.checkpoint(first(run)).stat().st_ino == before
    train_tile(run.job, first(run))
    assert run.folder.checkpoint(first(run)).stat().st_ino != before
    assert not run.folder.calibration_file.exists(), "it was learned from the tile as it was"
    assert not run.folder.is_to_train(first(run), run.settings)


def test_a_record_says_when_and_where_its_checkpoint_was_finished_and_which_images_it_has_seen(
    make_run: MakeRun,
) -> None:
    run = make_run()
    record_images(run, run.grid.tiles)
    train_tile(run.job, first(run))
    record = run.folder.record(first(run))
    assert record.modified == run.folder.checkpoint(first(run)).stat().st_mtime_ns
    assert record.images == recorded_fingerprint(run.folder) != ""
    assert (record.host, record.device) == (platform.node(), processor_name())


def test_what_is_said_meanwhile_stands_in_the_log_of_the_tile_and_not_on_the_screen(
    make_run: MakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(Talking)
    capfd.readouterr()
    train_tile(run.job, first(run))
    assert capfd.readouterr() == ("", "")
    log = run.folder.tile_log(first(run)).read_text()
    for said in ("Initializing Talking model.", "a print", "UserWarning: a warning", "talking: a record"):
        assert said in log
