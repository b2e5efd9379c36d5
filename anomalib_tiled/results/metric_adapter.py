"""A metric of anomalib, torchmetrics or a third party, fed batch by batch."""

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
"""What a metric gives: a number, ``None`` where it is not defined, or lists of them."""

Feed = Literal["scores", "decisions", "classes"]
"""What a metric compares with the truth: scores, decisions as true and false, or decisions as 1 and 0."""

CLASSES = (classification.MulticlassStatScores, classification.MulticlassConfusionMatrix)
CLASS_PACKAGES = ("torchmetrics.segmentation.", "torchmetrics.nominal.", "torchmetrics.clustering.")
"""Metrics of numbered classes."""

PROBABILITIES = (classification.BinaryCalibrationError, classification.BinaryHingeLoss)
"""Metrics that torchmetrics feeds through a sigmoid, batch by batch, as soon as a score is outside [0, 1]."""

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
"""What a metric must have seen to be defined; the first class that fits counts. torchmetrics gives 0 or 1 otherwise."""

NORMALIZED_CONFUSION = {
    "true": BOTH,
    "pred": frozenset({"called normal", "called anomalous"}),
}
"""The same for the argument ``normalize`` of a confusion matrix."""

MOST_AXES = 2


class ClassMetric:
    """A metric by its class.

    Args:
        spec: Class and arguments.
        raw: Whether scores keep the scale of the model, instead of lying between 0 and 1.

    Attributes:
        lack: What the data lack for a value, after the metric has refused them; ``None`` if it has not.

    Raises:
        ConfigurationError: It cannot be made, or not be fed, or gives something else than a few numbers.
    """

    def __init__(self, spec: MetricSpec, *, raw: bool) -> None:
        self._spec = spec
        self._metric = self._made()
        self._feed = _feed(self._metric, spec)
        self._threshold = self._own_threshold(raw=raw)
        self._needs = _needs(self._metric, spec)
        # Of others a RuntimeError is a mistake.
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
            decided: Which are called anomalous, same shape; ``None`` if nothing is decided.
            anomalous: Which are, same shape.
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
        """Give the value; ``None`` if it is not defined for what was seen."""
        if not self._seen or not self._needs <= self._seen:
            return None
        try:
            return _value(self._metric.compute())
        except self._refusals as error:  # the data do not suffice, such as too few normal pixels for AUPIMO
            if lack_of_memory(error) is not None:
                raise
            logger.warning("%s is not defined: %s", self._spec.where, error)
            self.lack = self._explained(error)
            return None

    def _explained(self, error: Exception) -> str:
        """Say what is lacking where the metric's own words do not."""
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
        """Give the threshold among the arguments of a metric of decisions."""
        threshold = self._spec.init_args.get("threshold")
        if threshold is None or not isinstance(self._metric, BINARY_DECISIONS):
            return None
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not (raw or 0 <= threshold <= 1):
            kind = "a number" if raw else "a number between 0 and 1"
            message = f"{self._spec.where} needs {kind} as threshold, but has {threshold!r}."
            raise ConfigurationError(message)
        return float(threshold)

    def _check(self, *, raw: bool) -> None:
        if self._spec.init_args.get("multidim_average") == "samplewise":
            message = f"{self._spec.where} gives one number for each image. Take multidim_average: samplewise out."
            raise ConfigurationError(message)
        steps = getattr(self._metric, "thresholds", None) is not None
        if raw and (isinstance(self._metric, PROBABILITIES) or steps):
            cause = "thresholds between 0 and 1" if steps else "probabilities"
            message = (
                f"{self._spec.where} works with {cause}, but scores keep the scale of the model. "
                f"Take {'thresholds' if steps else 'it'} out, or set normalization.stage to image or tile."
            )
            raise ConfigurationError(message)

    def _try_out(self) -> None:
        """Measure four made-up predictions, so that what cannot work fails before any training."""
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
    """Say what a metric is fed with; one with a threshold that the user does not give judges decisions."""
    if isinstance(metric, CLASSES) or type(metric).__module__.startswith(CLASS_PACKAGES):
        return "classes"
    if isinstance(metric, BINARY_DECISIONS):
        return "decisions"
    has_threshold = isinstance(getattr(metric, "threshold", None), (int, float))
    return "decisions" if has_threshold and "threshold" not in spec.init_args else "scores"


def _needs(metric: Metric, spec: MetricSpec) -> frozenset[str]:
    if "zero_division" in spec.init_args:  # says what to give instead
        return frozenset()
    if normalize := spec.init_args.get("normalize"):
        return NORMALIZED_CONFUSION.get(str(normalize), frozenset())
    return next((needs for metric_class, needs in NEEDS if isinstance(metric, metric_class)), frozenset())


def _classes_in(flags: torch.Tensor, called: str) -> set[str]:
    found = {f"{called}anomalous"} if bool(flags.any()) else set()
    return found if bool(flags.all()) else found | {f"{called}normal"}


def _value(result: object) -> Value:
    """Give what a metric computed as plain numbers.

    Raises:
        TypeError: It is something else, such as a curve.
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
        return "a curve; take the area under it"
    return f"a {type(result).__name__}"


def _example(level: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Give scores and truth of two normal and two anomalous images, or of pixels of them."""
    scores, anomalous = torch.tensor([0.1, 0.6, 0.4, 0.9]), torch.tensor([False, False, True, True])
    if level == "image":
        return scores, anomalous
    rows = torch.linspace(0, 1, 16).view(1, 16, 1)
    maps = (scores.view(4, 1, 1) * rows).expand(4, 16, 16).contiguous()
    masks = torch.zeros(4, 16, 16, dtype=torch.bool)
    masks[2:, 8:12, 4:9] = True
    return maps, masks
