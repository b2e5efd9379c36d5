"""Metrics of image predictions, fed batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, cast

import anomalib.metrics
import numpy as np
import torch
from anomalib.metrics import AnomalibMetric, Evaluator, create_anomalib_metric
from scipy import ndimage
from torchmetrics import Metric

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.stages import curves
from anomalib_tiled.stages.distribution import ExactScores, ScoreCounts, ScoreDistribution

if TYPE_CHECKING:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

    from anomalib_tiled.config import MetricSettings

Curve = Callable[[ScoreCounts], "float | None"]
Results = dict[str, "float | None"]

IMAGE_CURVES: dict[str, Curve] = {"AUROC": curves.auroc, "AUPR": curves.aupr, "F1Max": curves.f1_max}
PIXEL_CURVES: dict[str, Curve] = {**IMAGE_CURVES, "AUPRO": curves.aupro}
F1_SCORE = "F1Score"

SCORES = {"image": ("pred_score", "gt_label"), "pixel": ("anomaly_map", "gt_mask")}
"""Fields of a batch that a metric of scores compares."""

DECISIONS = {"image": ("pred_label", "gt_label"), "pixel": ("pred_mask", "gt_mask")}
"""Fields of a batch that a metric of decisions compares."""


@dataclass
class Decisions:
    """Counts of decisions against the truth, for the F1 score."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    def add(self, predicted: NDArray[np.bool_], anomalous: NDArray[np.bool_]) -> None:
        """Count decisions of any shape."""
        hits = int(np.count_nonzero(predicted & anomalous))
        self.true_positives += hits
        self.false_positives += int(np.count_nonzero(predicted)) - hits
        self.false_negatives += int(np.count_nonzero(anomalous)) - hits

    def f1_score(self) -> float | None:
        """F1 score; ``None`` if nothing is anomalous."""
        if not self.true_positives + self.false_negatives:
            return None
        wrong = self.false_positives + self.false_negatives
        return 2 * self.true_positives / (2 * self.true_positives + wrong)


class Measurements:
    """Metrics of a stream of predictions.

    AUROC, AUPR, AUPRO, F1Max and F1Score are computed from counts, so memory does not grow with the number of images.
    Any other metric of anomalib or torchmetrics is fed batch by batch and keeps what it keeps.

    Args:
        metrics: Names or dotted class paths, for images and for pixels.

    Raises:
        ConfigurationError: There is no metric of that name.
    """

    def __init__(self, metrics: MetricSettings) -> None:
        self._image = _LevelMeasurements("image", metrics.image, IMAGE_CURVES, ExactScores())
        self._pixel = _LevelMeasurements("pixel", metrics.pixel, PIXEL_CURVES, ScoreDistribution())

    def update(self, batch: ImageBatch) -> None:
        """Take in a batch of predictions with labels, and masks where there are any.

        Args:
            batch: Predictions; without labels it is passed over, without masks its pixels are.
        """
        if batch.gt_label is not None and batch.pred_score is not None:
            self._image.update(batch, _numbers(batch.pred_score), batch.pred_label, _flags(batch.gt_label))
        # A model without maps predicts no masks: what stands in its maps is for pictures only.
        if batch.gt_mask is not None and batch.pred_mask is not None and batch.anomaly_map is not None:
            self._pixel.update(batch, _numbers(batch.anomaly_map), batch.pred_mask, _flags(batch.gt_mask))

    def compute(self) -> Results:
        """Give all metrics by name, such as ``image_AUROC``; ``None`` where one is not defined."""
        return {**self._image.compute(), **self._pixel.compute()}


class StreamingEvaluator(Evaluator):
    """Evaluator for anomalib's ``Engine.test`` that keeps counts instead of predictions.

    Args:
        metrics: Names or dotted class paths, for images and for pixels.
    """

    def __init__(self, metrics: MetricSettings) -> None:
        super().__init__()
        self._metrics = metrics
        self._measurements = Measurements(metrics)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        del trainer, pl_module
        self._measurements = Measurements(self._metrics)

    def on_test_batch_end(  # noqa: PLR0913, PLR0917  # Lightning's signature
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch of predictions."""
        del trainer, pl_module, outputs, batch_idx, dataloader_idx
        self._measurements.update(batch)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics; one that is not defined is logged as NaN."""
        del trainer
        for name, value in self._measurements.compute().items():
            pl_module.log(name, float("nan") if value is None else value)


class _LevelMeasurements:
    """Metrics of images or of pixels."""

    def __init__(self, level: str, names: tuple[str, ...], known: dict[str, Curve], scores: ScoreDistribution) -> None:
        self._level = level
        self._names = names
        self._curves = {name: known[name] for name in names if name in known}
        self._others = {name: _other(level, name, known) for name in names if name not in known and name != F1_SCORE}
        self._scores = scores
        self._decisions = Decisions()
        self._needs_regions = "AUPRO" in self._curves

    def update(
        self, batch: ImageBatch, scores: NDArray[np.float32], decided: torch.Tensor | None, anomalous: NDArray[np.bool_]
    ) -> None:
        regions = _region_weights(anomalous) if self._needs_regions and anomalous.any() else None
        self._scores.add(scores, anomalous, regions)
        if decided is not None:
            self._decisions.add(_flags(decided), anomalous)
        for metric in self._others.values():
            metric.update(batch)

    def compute(self) -> Results:
        if self._scores.empty:
            return {}
        counts = self._scores.counts()
        values: dict[str, Callable[[], float | None]] = {
            **{name: partial(curve, counts) for name, curve in self._curves.items()},
            **{name: partial(_value_of, metric) for name, metric in self._others.items()},
            F1_SCORE: self._decisions.f1_score,
        }
        return {f"{self._level}_{name.rpartition('.')[2]}": values[name]() for name in self._names}


def _region_weights(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give 1 / size of its region for each anomalous pixel; pixels that touch at a corner are one region.

    Args:
        masks: Shape (batch, height, width).
    """
    weights = np.zeros(masks.shape)
    for mask, weight in zip(masks, weights, strict=True):
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(regions[mask])
        weight[mask] = 1 / sizes[regions[mask]]
    return weights


def _other(level: str, name: str, known: dict[str, Curve]) -> AnomalibMetric:
    """Make a metric that is not computed from counts."""
    metric_class = _metric_class(name, known)
    if not issubclass(metric_class, AnomalibMetric):  # anomalib's base class is not one of torchmetrics'
        metric_class = create_anomalib_metric(metric_class)
    try:
        metric = metric_class(fields=SCORES[level], prefix=f"{level}_")
        if hasattr(metric, "threshold"):  # judges decisions; it would threshold scores once more, at 0.5
            metric = metric_class(fields=DECISIONS[level], prefix=f"{level}_")
    except (TypeError, ValueError) as error:
        message = f"The metric {name!r} cannot be made without arguments: {error}. Choose another one."
        raise ConfigurationError(message) from error
    return cast("AnomalibMetric", metric)


def _metric_class(name: str, known: dict[str, Curve]) -> type[Metric]:
    module_name, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(module_name) if module_name else anomalib.metrics, class_name)
    except (ImportError, AttributeError):
        found = None
    if isinstance(found, type) and issubclass(found, Metric) and name not in PIXEL_CURVES:
        return found
    allowed = allowed_names(name, [*known, F1_SCORE])
    message = f"There is no metric {name!r}. {allowed} Or give the dotted class path of another one."
    raise ConfigurationError(message)


def _value_of(metric: AnomalibMetric) -> float | None:
    value = metric.compute()
    return None if value is None else float(value)


def _numbers(values: torch.Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy()


def _flags(values: torch.Tensor) -> NDArray[np.bool_]:
    return values.bool().cpu().numpy()
