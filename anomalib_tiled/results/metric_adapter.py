"""A metric of anomalib, torchmetrics or a third party, updated batch by batch."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal, cast

import anomalib.metrics
import torch
from anomalib.metrics import AnomalibMetric
from torchmetrics import classification

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.metric_specs import BINARY_DECISIONS, make_metric
from anomalib_tiled.system.out_of_memory import lack_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import ImageBatch
    from torchmetrics import Metric

    from anomalib_tiled.results.metric_specs import MetricSpec

logger = logging.getLogger(__name__)

Value = float | None | list["Value"]
"""Value of a metric: a number, ``None`` where it is undefined, or lists of these."""

Feed = Literal["scores", "decisions", "classes"]
"""Input of a metric to compare with the truth: scores, decisions as true and false, or decisions as 1 and 0."""

CLASSES = (classification.MulticlassStatScores, classification.MulticlassConfusionMatrix)
CLASS_PACKAGES = ("torchmetrics.segmentation.", "torchmetrics.nominal.", "torchmetrics.clustering.")
"""Metrics of numbered classes."""

PROBABILITIES = (classification.BinaryCalibrationError, classification.BinaryHingeLoss)
"""Metrics for which torchmetrics applies a sigmoid to each batch with a score outside [0, 1]."""

BOTH = frozenset({"normal", "anomalous"})
ANOMALOUS = frozenset({"anomalous"})
NEEDS: tuple[tuple[type[Metric], frozenset[str]], ...] = (
    (anomalib.metrics.AUPR, ANOMALOUS),
    (anomalib.metrics.F1Max, ANOMALOUS),
    (anomalib.metrics.PRO, ANOMALOUS),
    (anomalib.metrics.AUPRO, BOTH),
    (anomalib.metrics.AUPIMO, BOTH),
    (anomalib.metrics.PGn, BOTH),
    (anomalib.metrics.PBn, BOTH),
    (classification.BinaryAveragePrecision, ANOMALOUS),
    (classification.BinaryPrecisionAtFixedRecall, ANOMALOUS),
    (classification.BinaryRecallAtFixedPrecision, ANOMALOUS),
    (classification.BinaryPrecisionRecallCurve, BOTH),  # base of all other metrics of curves
    (classification.BinaryFBetaScore, ANOMALOUS),
    (classification.BinaryRecall, ANOMALOUS),
    (classification.BinaryJaccardIndex, ANOMALOUS),
    (classification.BinarySpecificity, frozenset({"normal"})),
    (classification.BinaryPrecision, frozenset({"called anomalous"})),
    (classification.BinaryNegativePredictiveValue, frozenset({"called normal"})),
    (classification.BinaryCohenKappa, BOTH),
    (classification.BinaryMatthewsCorrCoef, BOTH),
)
"""Classes that must occur for a metric to be defined; the first match counts. torchmetrics gives 0 or 1 without."""

NORMALIZED_CONFUSION = {
    "true": BOTH,
    "pred": frozenset({"called normal", "called anomalous"}),
}
"""The same for the argument ``normalize`` of a confusion matrix."""

MOST_AXES = 2


class ClassMetric:
    """A metric with any class.

    Args:
        spec: Class and arguments.
        raw: Whether scores keep the scale of the model, instead of lying between 0 and 1.

    Attributes:
        lack: Why the metric has refused to give a value for the data; ``None`` if it has not.

    Raises:
        ConfigurationError: The metric cannot be made or updated, or does not give numbers.
    """

    def __init__(self, spec: MetricSpec, *, raw: bool) -> None:
        self._spec = spec
        self._metric = self._made()
        self._feed = _feed(self._metric, spec)
        self._threshold = self._own_threshold(raw=raw)
        self._needs = _needs(self._metric, spec)
        # In other metrics, a RuntimeError is a bug.
        self._refusals = (ValueError, RuntimeError) if isinstance(self._metric, anomalib.metrics.AUPIMO) else ValueError
        self._seen: set[str] = set()
        self._normal_pixels = 0
        self.lack: str | None = None
        self._check(raw=raw)
        self._try_out()

    def update(self, scores: torch.Tensor, decided: torch.Tensor | None, anomalous: torch.Tensor) -> None:
        """Take in a batch.

        Args:
            scores: Scores of images, shape (batch,), or maps, shape (batch, height, width).
            decided: Which of them are called anomalous, same shape; ``None`` without a threshold.
            anomalous: Which of them are anomalous, same shape.
        """
        called = decided if self._threshold is None else scores > self._threshold
        predicted = scores if self._feed == "scores" else called
        if predicted is None:
            return
        self._normal_pixels += sum(int(truth.numel()) for truth in anomalous if not truth.any())
        self._seen |= _classes_in(anomalous, "") | (set() if called is None else _classes_in(called, "called "))
        predicted, truth = predicted.long() if self._feed == "classes" else predicted, anomalous.long()
        if isinstance(self._metric, AnomalibMetric):
            self._metric.update(cast("ImageBatch", SimpleNamespace(predicted=predicted, truth=truth)))
        else:
            self._metric.update(predicted, truth)

    def compute(self) -> Value:
        """Give the value; ``None`` if it is undefined for these data."""
        if not self._seen or not self._needs <= self._seen:
            return None
        try:
            return _value(self._metric.compute())
        except self._refusals as error:  # insufficient data, such as too few normal pixels for AUPIMO
            if lack_of_memory(error) is not None:
                raise
            logger.warning("%s is undefined: %s", self._spec.where, error)
            self.lack = self._explained(error)
            return None

    def _explained(self, error: Exception) -> str:
        """Say what the data lack, where the metric's own message does not."""
        if isinstance(self._metric, anomalib.metrics.AUPIMO):
            needed = round(1 / self._metric.fpr_bounds[0])
            if self._normal_pixels < needed:
                return (
                    f"it needs {needed:,} pixels in images without any anomalous one, and has {self._normal_pixels:,}"
                )
        return str(error).rstrip(".")

    def _made(self) -> Metric:
        metric = make_metric(self._spec)
        if isinstance(metric, classification.BinaryPrecisionRecallCurve) and (
            "normalization" not in self._spec.init_args
        ):
            metric.normalization = None  # else each batch with a score outside [0, 1] goes through a sigmoid
        return metric

    def _own_threshold(self, *, raw: bool) -> float | None:
        """Give the threshold among the arguments of a metric that judges decisions."""
        threshold = self._spec.init_args.get("threshold")
        if threshold is None or not isinstance(self._metric, BINARY_DECISIONS):
            return None
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not (raw or 0 <= threshold <= 1):
            kind = "a number" if raw else "a number between 0 and 1"
            message = f"{self._spec.where} needs {kind} as threshold, but has {threshold!r}. Correct it."
            raise ConfigurationError(message)
        return float(threshold)

    def _check(self, *, raw: bool) -> None:
        if self._spec.init_args.get("multidim_average") == "samplewise":
            message = (
                f"{self._spec.where} must give one number for all images, but gives one for each. Remove "
                "multidim_average: samplewise."
            )
            raise ConfigurationError(message)
        steps = getattr(self._metric, "thresholds", None) is not None
        if raw and (isinstance(self._metric, PROBABILITIES) or steps):
            cause = "thresholds between 0 and 1" if steps else "probabilities"
            message = (
                f"{self._spec.where} works with {cause}, but scores keep the scale of the model. "
                f"Remove {'thresholds' if steps else 'it'}, or set normalization.stage to image or tile."
            )
            raise ConfigurationError(message)

    def _try_out(self) -> None:
        """Measure four made-up predictions, so that a metric that cannot work fails before training."""
        scores, anomalous = _example(self._spec.level)
        try:
            self.update(scores, scores > scores.mean(), anomalous)
            self.compute()
        except Exception as error:  # a third party's class may refuse in any way
            message = (
                f"{self._spec.where} cannot compare {self._feed} {tuple(scores.shape)} with the truth: {error}. "
                "Choose another metric, or other arguments."
            )
            raise ConfigurationError(message) from error
        self._metric, self._seen, self._normal_pixels, self.lack = self._made(), set(), 0, None


def _feed(metric: Metric, spec: MetricSpec) -> Feed:
    """Choose the input of a metric; one with a threshold that the user has not set judges decisions."""
    if isinstance(metric, CLASSES) or type(metric).__module__.startswith(CLASS_PACKAGES):
        return "classes"
    if isinstance(metric, BINARY_DECISIONS):
        return "decisions"
    has_threshold = isinstance(getattr(metric, "threshold", None), (int, float))
    return "decisions" if has_threshold and "threshold" not in spec.init_args else "scores"


def _needs(metric: Metric, spec: MetricSpec) -> frozenset[str]:
    if "zero_division" in spec.init_args:  # the value where the metric is undefined
        return frozenset()
    if normalize := spec.init_args.get("normalize"):
        return NORMALIZED_CONFUSION.get(str(normalize), frozenset())
    return next((needs for metric_class, needs in NEEDS if isinstance(metric, metric_class)), frozenset())


def _classes_in(flags: torch.Tensor, called: str) -> set[str]:
    found = {f"{called}anomalous"} if bool(flags.any()) else set()
    return found if bool(flags.all()) else found | {f"{called}normal"}


def _value(result: object) -> Value:
    """Turn the result of a metric into plain numbers.

    Raises:
        TypeError: The result is something else, such as a curve.
    """
    if isinstance(result, torch.Tensor) and result.ndim <= MOST_AXES:
        return _number(result.item()) if result.numel() == 1 else _numbers(result.tolist())
    if isinstance(result, (int, float)):
        return _number(result)
    if isinstance(result, (tuple, list)) and all(_is_number(each) for each in result):
        return [_value(each) for each in result]
    message = f"it must give a number, or a list or table of them, but gives {_described(result)}"
    raise TypeError(message)


def _is_number(result: object) -> bool:
    return isinstance(result, (int, float)) or (isinstance(result, torch.Tensor) and result.numel() == 1)


def _numbers(values: Sequence[float | Sequence[float]]) -> Value:
    return [_numbers(each) if isinstance(each, list) else _number(cast("float", each)) for each in values]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _described(result: object) -> str:
    if isinstance(result, (tuple, list)) and all(isinstance(each, torch.Tensor) for each in result):
        return "a curve; use the area under it"
    return f"a {type(result).__name__}"


def _example(level: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give scores and truth of two normal and two anomalous images, or of their pixels."""
    scores, anomalous = torch.tensor([0.1, 0.6, 0.4, 0.9]), torch.tensor([False, False, True, True])
    if level == "image":
        return scores, anomalous
    rows = torch.linspace(0, 1, 16).view(1, 16, 1)
    maps = (scores.view(4, 1, 1) * rows).expand(4, 16, 16).contiguous()
    masks = torch.zeros(4, 16, 16, dtype=torch.bool)
    masks[2:, 8:12, 4:9] = True
    return maps, masks
