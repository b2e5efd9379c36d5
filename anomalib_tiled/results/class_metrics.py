"""Metrics of anomalib, torchmetrics and other packages: read from a configuration, updated batch by batch."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import anomalib.metrics
import torch
import torchmetrics
from anomalib.metrics import AnomalibMetric, create_anomalib_metric
from torchmetrics import Metric, classification

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.system.out_of_memory import lack_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import ImageBatch

    from anomalib_tiled.config.settings import Plain

logger = logging.getLogger(__name__)

Value = float | None | list["Value"]
"""Value of a metric: a number, ``None`` where it is undefined, or lists of these."""

COUNTED = {
    "image": ("AUPR", "AUROC", "F1Max", "F1Score"),
    "pixel": ("AUPR", "AUPRO", "AUROC", "F1Max", "F1Score"),
}
"""Metrics that are computed from counts if they have no arguments, for images and for pixels."""

KEYS = ("class_path", "init_args", "name")

FIELDS = ("predicted", "truth")
"""What a metric compares, as fields of the batches that it gets."""

JUDGING = (classification.BinaryStatScores, classification.BinaryConfusionMatrix)
"""Metrics of torchmetrics that judge decisions, and apply a threshold to scores."""

OF_REGIONS = (anomalib.metrics.AUPRO, anomalib.metrics.PRO)
"""Metrics that have no meaning for whole images."""

OF_PROBABILITIES = (classification.BinaryCalibrationError, classification.BinaryHingeLoss)
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
"""Classes without which a metric is undefined; the first match counts. torchmetrics gives 0 or 1 then."""

NORMALIZED_CONFUSION = {"true": BOTH, "pred": frozenset({"called normal", "called anomalous"})}
"""The same for the argument ``normalize`` of a confusion matrix."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric in a configuration.

    Args:
        level: ``image`` or ``pixel``.
        class_path: Name or dotted path of the class.
        name: Its name in the results.
        init_args: Its arguments.
    """

    level: str
    class_path: str
    name: str
    init_args: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def is_counted(self) -> bool:
        """Whether it is computed from counts instead of by its class."""
        return self.class_path in COUNTED[self.level] and not self.init_args

    @property
    def where(self) -> str:
        """The metric in messages."""
        return f"The metric {self.class_path!r} in metrics.{self.level}"

    def make(self) -> Metric:
        """Make the object as a metric of anomalib. One that judges decisions gets no ``threshold`` of its own.

        Raises:
            ConfigurationError: There is no such class, or it refuses its arguments.
        """
        arguments = {name: value for name, value in self.init_args.items() if (name, value) != ("task", "binary")}
        found = ClassSpec(_dotted(self), arguments)
        try:
            made = found.build(Metric, self._wrapped)
        except ConfigurationError as error:
            cause = str(error.__cause__).rpartition(":\n")[2].strip(" .")  # without jsonargparse's headings
            message = (
                f"{self.where} cannot be made with {dict(self.init_args)}: {cause}. Correct its class or arguments."
            )
            raise ConfigurationError(message) from error
        if isinstance(made, classification.BinaryPrecisionRecallCurve) and "normalization" not in self.init_args:
            made.normalization = None  # else each batch with a score outside [0, 1] goes through a sigmoid
        return made

    def _wrapped(self, metric_class: type[Metric], **arguments: Plain) -> Metric:
        if taken := {"fields", "prefix", "strict"}.intersection(self.init_args):
            message = f"{', '.join(sorted(taken))} follow from the list, metrics.{self.level}. Remove them."
            raise ConfigurationError(message)
        if issubclass(metric_class, JUDGING):
            arguments.pop("threshold", None)
        wrapped = metric_class if issubclass(metric_class, AnomalibMetric) else create_anomalib_metric(metric_class)
        return cast("Metric", wrapped(**{**arguments, "fields": FIELDS}))


def read_metrics(level: str, given: Sequence[str | Mapping[str, Plain]]) -> tuple[MetricSpec, ...]:
    """Read a list of metrics.

    Args:
        level: ``image`` or ``pixel``.
        given: Names, dotted class paths, or mappings with ``class_path``, ``init_args`` and ``name``.

    Raises:
        ConfigurationError: An entry has another form, or two have the same name.
    """
    specs = tuple(_spec(level, each) for each in given)
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            message = (
                f"Every metric in metrics.{level} needs a name of its own, but {count} are called {name!r}. "
                f"Name them, for example {{class_path: {name}, name: {name}2, init_args: ...}}, or remove one."
            )
            raise ConfigurationError(message)
    return specs


class ClassMetric:
    """A metric that is computed by its class.

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
        self._metric = spec.make()
        judges, threshold = isinstance(self._metric, JUDGING), spec.init_args.get("threshold")
        has_threshold = isinstance(getattr(self._metric, "threshold", None), (int, float))
        self._threshold = float(threshold) if judges and threshold is not None else None
        self._takes_decisions = judges or (has_threshold and threshold is None)
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
        predicted = called if self._takes_decisions else scores
        if predicted is None:
            return
        self._normal_pixels += sum(int(truth.numel()) for truth in anomalous if not truth.any())
        self._seen |= _classes_in(anomalous, "") | (set() if called is None else _classes_in(called, "called "))
        copies = SimpleNamespace(predicted=predicted.clone(), truth=anomalous.long())  # a class may overwrite its input
        self._metric.update(cast("ImageBatch", copies))

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
            needed, found = round(1 / self._metric.fpr_bounds[0]), self._normal_pixels
            if found < needed:
                return f"it needs {needed:,} pixels in images without any anomalous one, and has {found:,}"
        return str(error).rstrip(".")

    def _check(self, *, raw: bool) -> None:
        reason = None
        steps = getattr(self._metric, "thresholds", None) is not None
        if self._spec.level == "image" and isinstance(self._metric, OF_REGIONS):
            reason = "measures regions of pixels. Move it to metrics.pixel"
        elif hasattr(self._metric, "num_classes") or hasattr(self._metric, "num_labels"):
            reason = "is one of several classes, but images and pixels are normal or anomalous. Choose one of two"
        elif self._threshold is not None and not raw and not 0 <= self._threshold <= 1:
            reason = f"needs a threshold between 0 and 1, but has {self._threshold}. Correct it"
        elif raw and (steps or isinstance(self._metric, OF_PROBABILITIES)):
            cause, culprit = ("thresholds between 0 and 1", "thresholds") if steps else ("probabilities", "it")
            reason = (
                f"works with {cause}, but scores keep the scale of the model. Remove {culprit}, or set "
                "normalization.stage to image or tile"
            )
        if reason is not None:
            message = f"{self._spec.where} {reason}."
            raise ConfigurationError(message)

    def _try_out(self) -> None:
        """Measure four made-up predictions, so that a metric that cannot work fails before training."""
        scores, anomalous = _example(self._spec.level)
        unused = self._metric.clone()
        try:
            self.update(scores, scores > scores.mean(), anomalous)
            self.compute()
        except Exception as error:  # a third party's class may refuse in any way
            what = "decisions" if self._takes_decisions else "scores"
            message = (
                f"{self._spec.where} cannot compare {what} {tuple(scores.shape)} with the truth: {error}. Choose "
                "another metric, or other arguments."
            )
            raise ConfigurationError(message) from error
        self._metric, self._seen, self._normal_pixels, self.lack = unused, set(), 0, None


def _spec(level: str, given: str | Mapping[str, Plain]) -> MetricSpec:
    mapping = given if isinstance(given, Mapping) else {"class_path": given}
    for key in mapping:
        if key not in KEYS:
            message = f"A metric in metrics.{level} has no key {key!r}. {allowed_names(str(key), KEYS)}"
            raise ConfigurationError(message)
    class_path, init_args = mapping.get("class_path"), mapping.get("init_args") or {}
    name = mapping.get("name") or str(class_path).rpartition(".")[2]
    if not (isinstance(class_path, str) and isinstance(name, str) and isinstance(init_args, Mapping)):
        message = (
            f"A metric in metrics.{level} must be a name, a dotted class path, or {{class_path: ..., init_args: "
            f"{{...}}, name: ...}}, but is {given!r}."
        )
        raise ConfigurationError(message)
    return MetricSpec(level, class_path, name, init_args)


def _dotted(spec: MetricSpec) -> str:
    """Find a name in anomalib, then in torchmetrics, where ``X`` stands for its ``BinaryX``; give its dotted path."""
    package, _, name = spec.class_path.rpartition(".")
    places = [(anomalib.metrics, name), (classification, f"Binary{name}"), (classification, name), (torchmetrics, name)]
    if package:
        places = places[1:2] if package.partition(".")[0] == "torchmetrics" else []
    for module, each in places:
        found = getattr(module, each, None)
        if isinstance(found, type) and issubclass(found, Metric):
            return f"{module.__name__}.{each}"
    if package:
        return spec.class_path
    message = (
        f"There is no metric {name!r} for metrics.{spec.level}. {allowed_names(name, COUNTED[spec.level])} Or give the "
        "name of another metric of anomalib or torchmetrics, or the dotted class path of any."
    )
    raise ConfigurationError(message)


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
    if isinstance(result, torch.Tensor):
        return _value(result.item() if result.numel() == 1 else result.tolist())
    if isinstance(result, (int, float)):
        return result if math.isfinite(result) else None
    is_curve = isinstance(result, tuple) and any(isinstance(each, torch.Tensor) and each.numel() > 1 for each in result)
    if isinstance(result, (tuple, list)) and not is_curve:
        return [_value(each) for each in result]
    what = "a curve; use the area under it" if is_curve else f"a {type(result).__name__}"
    message = f"it must give a number, or a list or table of them, but gives {what}"
    raise TypeError(message)


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
