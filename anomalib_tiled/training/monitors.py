"""Values that callbacks monitor while a tile is trained, and the metrics that are measured for them."""

from __future__ import annotations

import logging
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from anomalib.engine import Engine
from anomalib.metrics import Evaluator

from anomalib_tiled.config.settings import MetricSettings
from anomalib_tiled.ensemble.tile_model import in_size
from anomalib_tiled.errors import ConfigurationError, TiledError, TrainingError, allowed_names
from anomalib_tiled.results.class_metrics import COUNTED, read_metrics
from anomalib_tiled.results.metrics import Measurements
from anomalib_tiled.stages.distribution import ExactScores, ScoreDistribution
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.stages.workers import MEMORY_SETTINGS
from anomalib_tiled.system.out_of_memory import advising_on_memory
from anomalib_tiled.training.trainer import interrupts_raised, trainer_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anomalib.data import AnomalibDataModule, ImageBatch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.data.tile_dataset import TileDataModule
    from anomalib_tiled.ensemble.tile_job import TileJob

logger = logging.getLogger(__name__)

ALWAYS = ("AUROC", "AUPR", "F1Max")
"""Metrics that callbacks can always monitor, also if ``metrics`` does not name them."""

LEVELS = ("image", "pixel")

TRAINING_MEMORY_ADVICE = f"Fit a new run with a smaller {MEMORY_SETTINGS}."
"""Advice if there is too little memory to train a tile."""


def monitors_of(callbacks: Iterable[Callback]) -> dict[str, str]:
    """Map each monitored value to the name of the callback that monitors it."""
    return {monitor: type(each).__name__ for each in callbacks if (monitor := _monitor_of(each)) is not None}


def measured_for(callbacks: Iterable[Callback], metrics: MetricSettings) -> MetricSettings | None:
    """Give the metrics to measure after each epoch; ``None`` if no callback monitors any.

    Args:
        callbacks: The callbacks.
        metrics: Metrics of the configuration; only those that a callback monitors are measured.
    """
    known, monitored = _measurable(metrics), monitors_of(callbacks)
    if known.keys().isdisjoint(monitored):
        return None
    measured = {name: each for name, each in known.items() if name in monitored or each in ALWAYS}
    return MetricSettings(
        **{level: tuple(each for name, each in measured.items() if name.startswith(f"{level}_")) for level in LEVELS}
    )


def without_undefined(callbacks: Sequence[Callback], data: TileDataModule, metrics: MetricSettings) -> list[Callback]:
    """Leave out callbacks whose metric needs normal and anomalous tiles if the tile has only one class.

    Such a metric stays 0 in every epoch: it would stop the training early, or select the first epoch.

    Args:
        callbacks: The callbacks.
        data: The images of the tile.
        metrics: Metrics of the configuration.
    """
    known = _measurable(metrics)
    watching = [each for each in callbacks if _monitor_of(each) in known]
    levels = {str(_monitor_of(each)).partition("_")[0] for each in watching}
    alike = {level for level in levels if len(set(data.validation_labels(pixels=level == "pixel"))) <= 1}
    left_out = [each for each in watching if str(_monitor_of(each)).startswith(tuple(alike))]
    for each in left_out:
        text = "%s is not used: %s is not defined, because all validation tiles are of one class."
        logger.info(text, type(each).__name__, _monitor_of(each))
    return [each for each in callbacks if each not in left_out]


def check_monitored(job: TileJob) -> None:
    """Refuse callbacks that monitor a value which nothing measures or logs.

    If a monitored value is no metric, one batch of one tile is trained, to see which values the model logs.

    Raises:
        ConfigurationError: A monitored value does not exist, is not defined on these images, or cannot be measured.
    """
    settings = job.settings
    if not (monitored := monitors_of(trainer_arguments(settings.trainer)["callbacks"])):
        return
    known = _measurable(settings.metrics)
    lacking = {level: _lacking(level, job.data.split) for level in LEVELS}
    for monitor in (each for each in monitored if each in known):
        if reason := lacking[monitor.partition("_")[0]]:
            message = f"{monitored[monitor]} monitors {monitor!r}, which needs {reason}"
            raise ConfigurationError(message)
        _check_scale(settings, monitored[monitor], monitor)
    if not (unknown := [monitor for monitor in monitored if monitor not in known]):
        return
    allowed = {name for name in known if not lacking[name.partition("_")[0]]} | _logged_names(job)
    for monitor in unknown:
        if monitor not in allowed:
            message = (
                f"{monitored[monitor]} monitors {monitor!r}, which {settings.model.name} does not log and metrics does "
                f"not name. {_choice(monitor, allowed)}"
            )
            raise ConfigurationError(message)


def _choice(monitor: str, allowed: set[str]) -> str:
    """List what can be monitored, after the setting that would allow the value, or the nearest name."""
    level, _, name = monitor.partition("_")
    if name in COUNTED.get(level, ()):
        return f"Add {name} to metrics.{level}, or monitor something else. Allowed: {', '.join(sorted(allowed))}."
    meant = f"image_{monitor}"
    return allowed_names(meant if meant in allowed else monitor, allowed)


def _logged_names(job: TileJob) -> set[str]:
    """Train and validate with one batch of a tile, and give the names that the model logs.

    Raises:
        ConfigurationError: The training failed.
    """
    data = job.tile_data(job.grid.models[0])
    arguments = {**trainer_arguments(job.settings.trainer), "callbacks": [], "logger": False, "fast_dev_run": True}
    try:
        with TemporaryDirectory() as workspace, interrupts_raised(), advising_on_memory(TRAINING_MEMORY_ADVICE):
            engine = Engine(default_root_dir=workspace, **arguments)
            engine.fit(job.fresh_models.model(), datamodule=cast("AnomalibDataModule", data))
    except TiledError:
        raise
    except Exception as error:  # a model may raise anything
        message = (
            f"Callbacks monitor a value that is no metric, so {job.settings.model.name} was trained on one batch to "
            f"list the values that it logs. That failed: {type(error).__name__}: {error}"
        )
        raise ConfigurationError(message) from error
    return set(engine.trainer.callback_metrics)


class TileEvaluator(Evaluator):
    """Measures the validation tiles after each epoch, so that callbacks can monitor the metrics.

    Scores have the scale of the model. Metrics of decisions are measured at the threshold that F1AdaptiveThreshold
    finds for the tiles of that epoch.

    Args:
        metrics: Metrics to measure.
        monitored: Names of callbacks by the value that they monitor.
    """

    def __init__(self, metrics: MetricSettings, monitored: Mapping[str, str]) -> None:
        super().__init__()
        self._metrics, self._monitored = metrics, monitored
        self._batches: list[SimpleNamespace] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the batches of the last epoch."""
        del trainer, pl_module
        self._batches = []

    def on_validation_batch_end(  # noqa: PLR0913, PLR0917  # Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep scores and ground truth of a batch."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._batches.append(_kept(batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics.

        Raises:
            ConfigurationError: A callback monitors pixels, but the model gives no anomaly maps.
            TrainingError: A monitored metric is not defined.
        """
        if trainer.sanity_checking:  # on a few tiles only
            return
        finite = all(map(_is_finite, self._batches))
        measured = _measured(self._metrics, self._batches) if finite else {}
        for name in _measurable(self._metrics):
            value = measured.get(name) if finite else float("nan")
            if isinstance(value, (int, float)):
                pl_module.log(name, value)
                if trainer.barebones:  # such a trainer logs nothing
                    trainer.callback_metrics[name] = torch.tensor(value)
            elif name in self._monitored:
                self._refuse(name, pl_module, value)
        self._batches = []

    def _refuse(self, monitor: str, model: LightningModule, value: object) -> None:
        watching = f"{self._monitored[monitor]} monitors {monitor!r}"
        if monitor.startswith("pixel_") and all(each.anomaly_map is None for each in self._batches):
            allowed = [name for name in _measurable(self._metrics) if name.startswith("image_")]
            message = f"{watching}, but {type(model).__name__} gives no anomaly maps. {allowed_names(monitor, allowed)}"
            raise ConfigurationError(message)
        found = "a list of numbers" if isinstance(value, list) else "not defined"
        message = f"{watching}, which must be a number, but is {found} for these validation tiles. Monitor another one."
        raise TrainingError(message)


def _monitor_of(callback: Callback) -> str | None:
    monitor = getattr(callback, "monitor", None)
    return monitor if isinstance(monitor, str) else None


def _measurable(metrics: MetricSettings) -> dict[str, str | dict[str, object]]:
    """Give the metrics that can be measured on tiles, as ``metrics`` writes them, by the names of their results."""
    found: dict[str, str | dict[str, object]] = {}
    for level in LEVELS:
        given = getattr(metrics, level)
        found |= {f"{level}_{name}": name for name in ALWAYS}
        found |= {f"{level}_{spec.name}": each for spec, each in zip(read_metrics(level, given), given, strict=True)}
    return found


def _lacking(level: str, split: Split) -> str:
    """Say what the validation images lack for metrics of a level; "" if they lack nothing."""
    images = split.calibration_samples if split.calibration_subset == "val" else ()
    if not any(sample.label == 1 for sample in images):
        return (
            "anomalous validation images, but there are none. Give the data module some (val_split_mode), or monitor "
            "a value that the model logs, such as train_loss."
        )
    if level == "pixel" and not any(sample.masks for sample in images):
        return (
            "masks of validation images, but there are none. Give the data module masks (mask_dir), or monitor a "
            "metric of images, such as image_AUROC."
        )
    return ""


def _check_scale(settings: Settings, callback: str, monitor: str) -> None:
    """Refuse a metric that needs normalized scores: tiles are measured before normalization.

    Raises:
        ConfigurationError: The metric needs normalized scores.
    """
    level, given = monitor.partition("_")[0], _measurable(settings.metrics)[monitor]
    [spec] = read_metrics(level, [given])
    watching = f"{callback} monitors {monitor!r}, but scores keep the scale of the model while a tile is trained."
    if "threshold" in spec.init_args and settings.normalization.stage != "none":
        message = f"{watching} Monitor a metric without a threshold, such as {level}_F1Max."
        raise ConfigurationError(message)
    try:
        Measurements(MetricSettings(**{level: (given,), ({*LEVELS} - {level}).pop(): ()}), raw=True)
    except ConfigurationError as error:
        message = f"{watching} {error} Or monitor another, such as {level}_AUROC."
        raise ConfigurationError(message) from error


def _kept(batch: ImageBatch) -> SimpleNamespace:
    """Keep predictions and ground truth of a batch, in the shapes of tile predictions."""
    maps, scores = batch.anomaly_map, batch.pred_score
    if maps is not None:
        maps = in_size(maps.detach(), cast("torch.Tensor", batch.image))[:, 0].cpu()
    if scores is None and maps is not None:
        scores = maps.amax(dim=(1, 2))
    return SimpleNamespace(
        pred_score=None if scores is None else scores.detach().reshape(-1).cpu(),
        anomaly_map=maps,
        gt_label=None if batch.gt_label is None else batch.gt_label.cpu(),
        gt_mask=None if batch.gt_mask is None else batch.gt_mask.cpu(),
        pred_label=None,
        pred_mask=None,
    )


def _is_finite(batch: SimpleNamespace) -> bool:
    return all(bool(each.isfinite().all()) for each in (batch.pred_score, batch.anomaly_map) if each is not None)


def _measured(metrics: MetricSettings, batches: Iterable[SimpleNamespace]) -> dict[str, object]:
    """Apply the thresholds to the tiles, and measure."""
    batches = [*batches]
    _decide(batches, ("pred_score", "gt_label", "pred_label"), ExactScores())
    _decide(batches, ("anomaly_map", "gt_mask", "pred_mask"), ScoreDistribution())
    measurements = Measurements(metrics, raw=True)
    for batch in batches:
        measurements.update(cast("ImageBatch", batch))
    return dict(measurements.compute())


def _decide(batches: Iterable[SimpleNamespace], fields: tuple[str, str, str], seen: ScoreDistribution) -> None:
    """Label values above the threshold with the best F1 score as anomalous."""
    values, truth, decided = fields
    known = [each for each in batches if getattr(each, values) is not None and getattr(each, truth) is not None]
    for batch in known:
        seen.add(getattr(batch, values).float().numpy(), np.asarray(getattr(batch, truth), dtype=bool))
    if known:
        threshold = F1AdaptiveThreshold().learn(seen)
        for batch in known:
            setattr(batch, decided, getattr(batch, values) > threshold)
