"""What callbacks may monitor: what `metrics` names, three metrics in any case, and what the model logs itself.

The images are those of `image_folder`: 8 x 12 pixels, six tiles; the defects of bad/0 and bad/1 lie in the first row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.config.settings import ClassSpec, MetricSettings, Settings
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError, TiledError, TrainingError
from anomalib_tiled.training import preparation
from anomalib_tiled.training.monitors import check_monitored
from anomalib_tiled.training.train_tile import train_tile

Fitting = Callable[..., Run]


pytestmark = pytest.mark.usefixtures("unchecked")


class Falling(AnomalibModule):
    """Its maps are the true masks times its one weight, which falls from 3 by one at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))
        self.model = torch.nn.Linear(1, 1)

    def forward(self, batch: torch.Tensor, *args: object) -> InferenceBatch:
        return InferenceBatch(pred_score=self.weight.expand(len(batch)))

    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        self.log("train_loss", self.weight.detach())
        return self.weight.sum()

    def validation_step(self, batch: ImageBatch, *args: object) -> ImageBatch:
        maps = self.weight * self._truth(batch)
        return batch.update(anomaly_map=maps, pred_score=maps.amax(dim=(1, 2)))

    @staticmethod
    def _truth(batch: ImageBatch) -> torch.Tensor:
        return torch.zeros(len(batch.image), 4, 4) if batch.gt_mask is None else batch.gt_mask.float()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1)

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


class Mapless(Falling):
    """Gives scores only."""

    def validation_step(self, batch: ImageBatch, *args: object) -> ImageBatch:
        return batch.update(pred_score=self.weight * batch.gt_label.float())


class Diverging(Falling):
    """Its scores are no numbers once its weight is not positive."""

    def validation_step(self, batch: ImageBatch, *args: object) -> ImageBatch:
        return batch.update(pred_score=torch.zeros(len(batch.image)) / (self.weight > 0))


class Coarse(Falling):
    """Its maps are smaller than the tiles, and it gives no scores."""

    def validation_step(self, batch: ImageBatch, *args: object) -> ImageBatch:
        return batch.update(anomaly_map=torch.nn.functional.max_pool2d(self._truth(batch), 2))


class Unwilling(Falling):
    def training_step(self, batch: ImageBatch, *args: object) -> torch.Tensor:
        message = "out of luck"
        raise RuntimeError(message)


def watching(monitor: str, name: str = "EarlyStopping", **arguments: object) -> dict[str, object]:
    arguments = {"monitor": monitor, "mode": "max", **arguments}
    return {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments}


def configured(settings: Settings, monitor: str, model: type[Falling] = Falling, **data: object) -> Settings:
    """Monitor something in a training of at most nine epochs of one step."""
    callbacks = [watching(monitor, patience=1)]
    arguments = {"accelerator": "cpu", "max_epochs": 9, "num_sanity_val_steps": 2, "callbacks": callbacks}
    images = {**settings.data.init_args, **data}
    return replace(
        settings,
        model=ClassSpec(f"{__name__}.{model.__name__}"),
        trainer=arguments,
        data=replace(settings.data, init_args=images),
        metrics=MetricSettings(("AUROC", "F1Score"), ("AUPRO",)),
    )


def first_tile(settings: Settings) -> Run:
    """Train the tile that both defects lie in."""
    run = preparation.prepare(settings)
    train_tile(run.job, run.grid.tiles[0])
    return run


def epochs(run: Run) -> int:
    return json.loads(run.folder.record_file(run.grid.tiles[0]).read_text())["epochs"]


def refused(settings: Settings) -> str:
    """Say why a configuration is refused before there is a run folder."""
    with pytest.raises(TiledError) as raised:
        preparation.prepare(settings)
    assert type(raised.value) is ConfigurationError
    assert not list(Path(settings.default_root_dir).glob("*/*/v*"))
    return str(raised.value)


NAMED = {
    "image_F1Score": {},
    "pixel_AUPRO": {},
    "image_Recall": {"image": ({"class_path": "torchmetrics.classification.BinaryRecall", "name": "Recall"},)},
    "pixel_F2": {"pixel": ({"class_path": "BinaryFBetaScore", "init_args": {"beta": 2.0}, "name": "F2"},)},
}


@pytest.mark.parametrize(("monitor", "metrics"), NAMED.items(), ids=NAMED)
def test_what_metrics_names_can_be_monitored(settings: Settings, monitor: str, metrics: dict[str, tuple]) -> None:
    """All defects are found while the weight is positive, after two epochs; the third is no better."""
    settings = configured(settings, monitor)
    stopped = first_tile(replace(settings, metrics=replace(settings.metrics, **metrics)))
    assert epochs(stopped) == 2


def test_maps_may_be_smaller_than_tiles_and_scores_left_out(settings: Settings) -> None:
    assert epochs(first_tile(configured(settings, "image_AUROC", Coarse))) == 2
    assert epochs(first_tile(configured(settings, "pixel_AUPRO", Coarse))) == 2


def test_what_the_model_logs_can_be_monitored(settings: Settings) -> None:
    assert epochs(first_tile(configured(settings, "train_loss"))) == 2


def test_only_what_is_monitored_is_measured_besides_three_metrics(settings: Settings) -> None:
    settings = configured(settings, "image_F1Score")
    run = first_tile(replace(settings, trainer={**settings.trainer, "logger": True, "log_every_n_steps": 1}))
    [table] = run.folder.path.rglob("metrics.csv")
    with table.open(newline="") as file:
        names = {name for name in next(csv.reader(file)) if name.startswith(("image_", "pixel_"))}
    assert names == {f"{level}_{name}" for level in ("image", "pixel") for name in ("AUROC", "AUPR", "F1Max")} | {
        "image_F1Score"
    }


UNKNOWN = {
    "image_Beauty": "EarlyStopping monitors 'image_Beauty', which Falling does not log and metrics does not name. ",
    "F1Score": "Did you mean 'image_F1Score'? ",
    "AUROC": "Did you mean 'image_AUROC'? ",
    "val_loss": "Did you mean 'train_loss'? ",
    "pixel_F1Score": "and metrics does not name. Add F1Score to metrics.pixel, or monitor something else. Allowed: ",
}
ALLOWED = (
    "Allowed: image_AUPR, image_AUROC, image_F1Max, image_F1Score, pixel_AUPR, pixel_AUPRO, pixel_AUROC, pixel_F1Max, "
    "train_loss."
)


@pytest.mark.parametrize(("monitor", "message"), UNKNOWN.items(), ids=UNKNOWN)
def test_what_nothing_gives_is_refused_with_what_is_allowed(settings: Settings, monitor: str, message: str) -> None:
    told = refused(configured(settings, monitor))
    assert message in told
    assert told.endswith(ALLOWED)


def test_a_checkpoint_that_monitors_what_nothing_gives_is_refused_too(settings: Settings) -> None:
    settings = configured(settings, "train_loss")
    callbacks = [watching("train_loss"), watching("val_loss", "ModelCheckpoint")]
    told = refused(replace(settings, trainer={**settings.trainer, "callbacks": callbacks}))
    assert told.startswith("ModelCheckpoint monitors 'val_loss', which Falling does not log")


@pytest.mark.parametrize("monitor", ["pixel_AUROC", "pixel_AUPRO"])
def test_pixels_need_masks(settings: Settings, monitor: str) -> None:
    assert refused(configured(settings, monitor, mask_dir=None)) == (
        f"EarlyStopping monitors '{monitor}', which needs masks of validation images, but there are none. Give the "
        "data module masks (mask_dir), or monitor a metric of images, such as image_AUROC."
    )


@pytest.mark.parametrize("monitor", ["image_AUROC", "pixel_AUPRO"])
def test_metrics_need_anomalous_images(settings: Settings, monitor: str) -> None:
    assert refused(configured(settings, monitor, val_split_mode="none")).startswith(
        f"EarlyStopping monitors '{monitor}', which needs anomalous validation images, but there are none. "
    )


def test_what_no_image_could_give_is_not_allowed(settings: Settings) -> None:
    assert refused(configured(settings, "val_loss", val_split_mode="none")).endswith("Allowed: train_loss.")


def test_a_model_without_maps_is_not_monitored_by_them(settings: Settings) -> None:
    with pytest.raises(ConfigurationError) as raised:
        first_tile(configured(settings, "pixel_AUPRO", Mapless))
    assert str(raised.value) == (
        "EarlyStopping monitors 'pixel_AUPRO', but Mapless gives no anomaly maps. Did you mean 'image_AUPR'? "
        "Allowed: image_AUPR, image_AUROC, image_F1Max."
    )


def test_scores_that_are_no_numbers_end_the_training(settings: Settings) -> None:
    """It is for the callback to say what happens then."""
    run = preparation.prepare(configured(settings, "image_AUROC", Diverging))
    train_tile(run.job, run.grid.tiles[0])
    assert epochs(run) == 2


def test_a_metric_that_is_not_defined_fails_the_tile(settings: Settings) -> None:
    """AUPIMO takes more normal pixels than these tiles have."""
    settings = configured(settings, "pixel_AUPIMO")
    settings = replace(settings, metrics=MetricSettings((), ("AUPIMO",)))
    message = "EarlyStopping monitors 'pixel_AUPIMO', which must be a number, but is not defined for these"
    with pytest.raises(TrainingError, match=message):
        first_tile(settings)


PROBABILITIES = {"class_path": "BinaryCalibrationError", "name": "Error"}
HALF = {"class_path": "BinaryRecall", "init_args": {"threshold": 0.5}, "name": "Recall"}


@pytest.mark.parametrize(("metric", "message"), [(PROBABILITIES, "probabilities"), (HALF, "without a threshold")])
def test_what_needs_normalized_scores_cannot_be_monitored(
    settings: Settings, metric: dict[str, object], message: str
) -> None:
    monitor = f"image_{metric['name']}"
    settings = replace(configured(settings, monitor), metrics=MetricSettings((metric,), ()))
    told = refused(settings)
    beginning = f"EarlyStopping monitors '{monitor}', but scores keep the scale of the model while a tile is trained. "
    assert told.startswith(beginning)
    assert message in told


def test_a_model_that_cannot_be_tried_says_why(settings: Settings) -> None:
    assert refused(configured(settings, "train_loss", Unwilling)) == (
        "Callbacks monitor a value that is no metric, so Unwilling was trained on one batch to list the values that it "
        "logs. That failed: RuntimeError: out of luck"
    )


def test_masks_of_some_images_are_enough(settings: Settings, image_folder: Path) -> None:
    """A defect of unknown place takes nothing from the others."""
    run = preparation.prepare(configured(settings, "pixel_AUPRO"))
    masked = [sample for sample in run.split.samples if sample.masks]
    samples = [replace(sample, mask_path=None) if sample in masked[1::2] else sample for sample in run.split.samples]
    partly = replace(run, split=replace(run.split, samples=tuple(samples)))
    train_tile(partly.job, run.grid.tiles[0])
    assert epochs(partly) == 2


def test_a_run_that_goes_on_is_checked_too(settings: Settings) -> None:
    run = preparation.prepare(configured(settings, "train_loss"))
    changed = replace(run, settings=configured(run.settings, "val_loss"))
    with pytest.raises(ConfigurationError, match="monitors 'val_loss', which Falling does not log"):
        check_monitored(changed.job)
