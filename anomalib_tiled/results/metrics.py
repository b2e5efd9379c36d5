"""Metrics of image predictions, updated batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from anomalib.metrics import Evaluator
from scipy import ndimage

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.uninspected import hidden_images, seen_pixels, uninspected_pixels
from anomalib_tiled.results.class_metrics import ClassMetric, Value, read_metrics
from anomalib_tiled.stages import curves
from anomalib_tiled.stages.distribution import ExactScores, ScoreCounts, ScoreDistribution

if TYPE_CHECKING:
    from anomalib.data import ImageBatch
    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import MetricSettings, Plain, Settings
    from anomalib_tiled.grid import TileGrid
    from anomalib_tiled.results.class_metrics import MetricSpec

Curve = Callable[[ScoreCounts], "float | None"]
Results = dict[str, Value]

CURVES: dict[str, Curve] = {
    "AUROC": curves.auroc,
    "AUPR": curves.aupr,
    "F1Max": curves.f1_max,
    "AUPRO": curves.aupro,
}
TOUCHING = np.ones((3, 3))
"""Pixels that touch at a corner are one region."""


@dataclass
class Decisions:
    """Counts of decisions against the truth, for the F1 score."""

    hits: int = 0
    wrong: int = 0
    anomalous: int = 0

    def add(self, predicted: NDArray[np.bool_], anomalous: NDArray[np.bool_]) -> None:
        """Count decisions of any shape."""
        self.hits += int(np.count_nonzero(predicted & anomalous))
        self.wrong += int(np.count_nonzero(predicted != anomalous))
        self.anomalous += int(np.count_nonzero(anomalous))

    def merge(self, other: Decisions) -> None:
        """Add other decisions."""
        self.hits += other.hits
        self.wrong += other.wrong
        self.anomalous += other.anomalous

    def f1_score(self) -> float | None:
        """F1 score; ``None`` if nothing is anomalous."""
        return 2 * self.hits / (2 * self.hits + self.wrong) if self.anomalous else None


@dataclass
class ImageCounts:
    """Number of images behind the metrics.

    Args:
        normal: Images without an anomaly.
        anomalous: Images with one.
    """

    normal: int = 0
    anomalous: int = 0

    def __str__(self) -> str:
        """The numbers in words."""
        return f"{self.normal} normal, {self.anomalous} anomalous"

    def merge(self, other: ImageCounts) -> None:
        """Add other images."""
        self.normal += other.normal
        self.anomalous += other.anomalous

    def add(self, anomalous: NDArray[np.bool_]) -> None:
        """Count images by their labels, shape (batch,), or masks, shape (batch, height, width)."""
        found = int(anomalous.reshape(len(anomalous), -1).any(axis=1).sum())
        self.anomalous += found
        self.normal += len(anomalous) - found


class Measurements:
    """Metrics of a stream of predictions.

    AUROC, AUPR, AUPRO, F1Max and F1Score are computed from counts, so memory does not grow with the number of images.
    Any other metric, or one with arguments, is updated batch by batch; its class decides how much memory it takes.

    Args:
        metrics: Names, class paths and arguments, for images and for pixels.
        raw: Whether scores keep the scale of the model, instead of lying between 0 and 1.
        uninspected: Pixels that no model sees, shape (height, width); ``None`` if there are none. Counts leave them
            out; other metrics count them as normal.

    Attributes:
        out_of_scope: Number of images of which nothing counts: all defects are hidden, or all pixels.

    Raises:
        ConfigurationError: There is no metric of that name, or it refuses its arguments.
    """

    def __init__(
        self, metrics: MetricSettings, *, raw: bool = False, uninspected: NDArray[np.bool_] | None = None
    ) -> None:
        self._image = _LevelMeasurements("image", metrics.image, ExactScores(), raw=raw)
        self._pixel = _LevelMeasurements("pixel", metrics.pixel, ScoreDistribution(), raw=raw, uninspected=uninspected)
        self.out_of_scope = 0

    @classmethod
    def of(cls, settings: Settings, grid: TileGrid | None = None) -> Measurements:
        """Make the metrics of a configuration.

        Args:
            settings: The configuration.
            grid: Its grid, if it is known which locations have a model.
        """
        uninspected = None if grid is None else uninspected_pixels(grid)
        return cls(settings.metrics, raw=settings.normalization.stage == "none", uninspected=uninspected)

    def update(self, batch: ImageBatch, hidden: torch.Tensor | None = None) -> None:
        """Take in a batch of predictions with labels and, if there are any, masks.

        Args:
            batch: Predictions. Without labels the batch is skipped; without masks only its pixels are.
            hidden: Pixels that do not count, shape (batch or 1, 1, height, width); ``None`` if all do. Counts leave
                them out; other metrics count them as normal, with the lowest score of their image.
        """
        out = None if hidden is None else _flags(hidden.squeeze(1))
        masks = None if batch.gt_mask is None else _flags(batch.gt_mask)
        if batch.gt_label is not None and batch.pred_score is not None:
            labels = _flags(batch.gt_label)
            absent = None if out is None else hidden_images(labels, masks, out)
            self._update_images(_numbers(batch.pred_score), batch.pred_label, labels, absent)
        # A model without anomaly maps predicts no masks; the maps in the batch are for pictures only.
        if masks is not None and batch.pred_mask is not None and batch.anomaly_map is not None:
            self._pixel.update(_numbers(batch.anomaly_map), batch.pred_mask, masks, out)

    def _update_images(
        self,
        scores: NDArray[np.float32],
        called: torch.Tensor | None,
        labels: NDArray[np.bool_],
        absent: NDArray[np.bool_] | None,
    ) -> None:
        """Measure images, without those of which nothing counts."""
        if absent is not None:
            self.out_of_scope += int(np.count_nonzero(absent))
            called = None if called is None else called.cpu()[torch.from_numpy(~absent)]
            scores, labels = scores[~absent], labels[~absent]
        if labels.size:
            self._image.update(scores, called, labels)

    @property
    def can_be_merged(self) -> bool:
        """Whether all metrics are computed from counts, which places can share; classes of metrics cannot be shared."""
        return not (self._image.others or self._pixel.others)

    def merge(self, other: Measurements) -> None:
        """Add what another place has measured of the next images, with the same metrics; that stays unchanged."""
        self._image.merge(other._image)
        self._pixel.merge(other._pixel)
        self.out_of_scope += other.out_of_scope

    def compute(self) -> Results:
        """Give all metrics by name, such as ``image_AUROC``; ``None`` where one is undefined."""
        return {**self._image.compute(), **self._pixel.compute()}

    @property
    def images(self) -> dict[str, ImageCounts]:
        """Number of images behind the metrics of ``image`` and of ``pixel``."""
        return {level.name: level.images for level in (self._image, self._pixel)}

    @property
    def lacks(self) -> list[str]:
        """A sentence for each metric that has refused to give a value; complete after `compute`."""
        return [*self._image.lacks(), *self._pixel.lacks()]


class StreamingEvaluator(Evaluator):
    """Evaluator for anomalib's ``Engine.test`` that keeps counts instead of predictions.

    Args:
        begin: Makes new measurements for a test.
    """

    def __init__(self, begin: Callable[[], Measurements]) -> None:
        super().__init__()
        self._begin = begin
        self._measurements = begin()

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start new measurements."""
        del trainer, pl_module
        self._measurements = self._begin()

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
        del trainer, outputs, batch_idx, dataloader_idx
        self._measurements.update(batch, pl_module.ignored if isinstance(pl_module, EnsembleModel) else None)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics: undefined ones as NaN, ones with several numbers under several names."""
        del trainer
        for name, value in self._measurements.compute().items():
            for each, number in _each(name, value):
                pl_module.log(each, number)


class _LevelMeasurements:
    """Metrics of images or of pixels."""

    def __init__(
        self,
        level: str,
        metrics: tuple[str | dict[str, Plain], ...],
        scores: ScoreDistribution,
        *,
        raw: bool,
        uninspected: NDArray[np.bool_] | None = None,
    ) -> None:
        self._specs = read_metrics(level, metrics)
        self.others = {spec.name: ClassMetric(spec, raw=raw) for spec in self._specs if not spec.is_counted}
        self.name, self.images = level, ImageCounts()
        self._scores, self._decisions, self._uninspected = scores, Decisions(), uninspected
        self._needs_regions = any(spec.is_counted and spec.class_path == "AUPRO" for spec in self._specs)

    def update(
        self,
        scores: NDArray[np.float32],
        decided: torch.Tensor | None,
        anomalous: NDArray[np.bool_],
        hidden: NDArray[np.bool_] | None = None,
    ) -> None:
        for unseen in (self._uninspected, hidden):
            anomalous = anomalous if unseen is None else anomalous & ~unseen
        regions = _region_weights(anomalous) if self._needs_regions and anomalous.any() else None
        self.images.add(anomalous)
        for images, pixels in seen_pixels(self._uninspected, hidden, len(scores)):
            weights = None if regions is None else regions[images][:, pixels]
            self._scores.add(scores[images][:, pixels], anomalous[images][:, pixels], weights)
        if decided is not None:
            self._decisions.add(_flags(decided), anomalous)
        if self.others:
            values, truth = torch.from_numpy(scores), torch.from_numpy(anomalous)
            for metric in self.others.values():
                metric.update(values, None if decided is None else decided.bool().cpu(), truth)

    def merge(self, other: _LevelMeasurements) -> None:
        self.images.merge(other.images)
        self._scores.merge(other._scores)
        self._decisions.merge(other._decisions)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the pixels that no model sees: nothing more is measured elsewhere."""
        return {**vars(self), "_uninspected": None}

    def compute(self) -> Results:
        if self._scores.empty:
            return {}
        counts = self._scores.counts()
        return {f"{self.name}_{spec.name}": self._value(spec, counts) for spec in self._specs}

    def _value(self, spec: MetricSpec, counts: ScoreCounts) -> Value:
        if spec.name in self.others:
            return self.others[spec.name].compute()
        return CURVES[spec.class_path](counts) if spec.class_path in CURVES else self._decisions.f1_score()

    def lacks(self) -> list[str]:
        given = ((name, metric.lack) for name, metric in self.others.items())
        return [f"{self.name}_{name} is undefined: {lack}." for name, lack in given if lack is not None]


def _each(name: str, value: Value) -> Iterator[tuple[str, float]]:
    """Give the numbers of a metric, each with a name; those of lists get numbers, such as ``image_Confusion_0_1``."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _each(f"{name}_{number}", each)
    else:
        yield name, float("nan") if value is None else value


def _region_weights(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give each anomalous pixel the weight 1 / (pixels of its region).

    Args:
        masks: Shape (batch, height, width).
    """
    weights = np.zeros(masks.shape)
    for mask, weight in zip(masks, weights, strict=True):
        regions, _ = ndimage.label(mask, structure=TOUCHING)
        sizes = np.bincount(regions[mask])
        weight[mask] = 1 / sizes[regions[mask]]
    return weights


def _numbers(values: torch.Tensor) -> NDArray[np.float32]:
    return values.detach().float().cpu().numpy()


def _flags(values: torch.Tensor) -> NDArray[np.bool_]:
    return values.bool().cpu().numpy()
