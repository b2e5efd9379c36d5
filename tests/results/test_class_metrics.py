from __future__ import annotations

import logging
import re

import anomalib.metrics
import numpy as np
import pytest
import torch
import torchmetrics
from torchmetrics import classification

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.class_metrics import ClassMetric, MetricSpec, read_metrics
from anomalib_tiled.stages import curves
from anomalib_tiled.stages.distribution import ExactScores

SCORES = torch.tensor([0.2, 0.8, 0.7, 0.9, 0.3, 0.6])
ANOMALOUS = torch.tensor([0, 0, 1, 1, 1, 0]).bool()
DECIDED = torch.tensor([0, 1, 1, 0, 0, 0]).bool()  # not what a threshold of 0.5 gives

BATCHES = (
    (torch.tensor([0.1, 0.5, 0.9, 0.3]), torch.tensor([0, 0, 1, 1])),  # as if they were probabilities
    (torch.tensor([-7.0, 0.7, 30.0, 30.00001]), torch.tensor([0, 1, 0, 1])),  # a sigmoid would make 1 of two of them
    (torch.tensor([20000.0, 20000.002, 3e-20, 4e-20]), torch.tensor([0, 1, 1, 0])),
)


class Share(torchmetrics.MeanMetric):
    """A third party's metric of decisions: how many are right."""

    threshold = 0.5

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        super().update((predicted == truth).float())


class Picky(torchmetrics.MeanMetric):
    """A third party's metric that refuses the data in the end."""

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        super().update(predicted.float() * truth)

    def compute(self) -> torch.Tensor:
        message = "too few pixels"
        raise ValueError(message)


class Difference(torchmetrics.MeanMetric):
    """A third party's metric with arguments."""

    def __init__(self, scale: float, **options: object) -> None:
        super().__init__(**options)
        self.scale = scale


class Overwriting(torchmetrics.MeanMetric):
    """A third party's metric that works in place."""

    def update(self, predicted: torch.Tensor, truth: torch.Tensor) -> None:
        super().update(predicted.fill_(1).float() * truth.fill_(1))


class OverwritingDecisions(Overwriting):
    """The same of decisions."""

    threshold = 0.5


class Unwilling(torchmetrics.MeanMetric):
    """A third party's metric that fails in its own way."""

    def __init__(self) -> None:
        message = "not today"
        raise OSError(message)


def spec(class_path: str, level: str = "image", **init_args: object) -> MetricSpec:
    (read,) = read_metrics(level, [{"class_path": class_path, "init_args": init_args}])
    return read


def metric(name: str, level: str = "image", *, raw: bool = False, **init_args: object) -> ClassMetric:
    return ClassMetric(spec(name, level, **init_args), raw=raw)


def measured(name: str, scores: torch.Tensor, anomalous: torch.Tensor, **arguments: object) -> object:
    made = metric(name, **arguments)
    made.update(scores, scores > 0.5, anomalous)
    return made.compute()


def exact() -> ExactScores:
    scores = ExactScores()
    for values, truth in BATCHES:
        scores.add(values.numpy(), truth.bool().numpy())
    return scores


def test_a_metric_is_a_name_a_path_or_both_with_arguments() -> None:
    path = "torchmetrics.classification.BinaryFBetaScore"
    given = ["AUROC", path, {"class_path": path, "init_args": {"beta": 2.0}, "name": "F2"}, {"class_path": "F1Max"}]
    assert read_metrics("image", given) == (
        MetricSpec("image", "AUROC", "AUROC"),
        MetricSpec("image", path, "BinaryFBetaScore"),
        MetricSpec("image", path, "F2", {"beta": 2.0}),
        MetricSpec("image", "F1Max", "F1Max"),
    )


def test_only_short_names_without_arguments_are_counted() -> None:
    given = ["AUROC", {"class_path": "AUPR"}, "anomalib.metrics.F1Max", {"class_path": "AUPRO", "init_args": {"a": 1}}]
    assert [each.is_counted for each in read_metrics("pixel", given)] == [True, True, False, False]
    assert not read_metrics("image", ["AUPRO"])[0].is_counted


def test_two_metrics_of_one_name_are_refused() -> None:
    betas = [{"class_path": "BinaryFBetaScore", "init_args": {"beta": beta}} for beta in (0.5, 2.0)]
    message = (
        "^Every metric in metrics.image needs a name of its own, but 2 are called 'BinaryFBetaScore'. Name them, for "
        "example {class_path: BinaryFBetaScore, name: BinaryFBetaScore2, init_args: ...}, or remove one.$"
    )
    with pytest.raises(ConfigurationError, match=message):
        read_metrics("image", betas)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_paht": "AUROC"}, "no key 'class_paht'. Did you mean 'class_path'"),
        ({"class_path": "AUROC", "init_args": [1]}, "but is {'class_path': 'AUROC', 'init_args': .1.}"),
        (7, "must be a name, a dotted class path, or .* but is 7"),
    ],
)
def test_other_forms_are_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"in metrics.pixel.*{message}"):
        read_metrics("pixel", [given])


@pytest.mark.parametrize(
    ("name", "init_args", "found"),
    [
        ("AUROC", {}, anomalib.metrics.AUROC),
        ("BinaryAccuracy", {}, classification.BinaryAccuracy),
        ("Accuracy", {}, classification.BinaryAccuracy),
        ("torchmetrics.Specificity", {"task": "binary"}, classification.BinarySpecificity),
        ("MeanSquaredError", {}, torchmetrics.MeanSquaredError),
        (f"{__name__}.Difference", {"scale": 3, "nan_strategy": "ignore"}, Difference),
    ],
)
def test_a_class_is_found_by_its_name_or_path_and_is_a_metric_of_anomalib(
    name: str, init_args: dict[str, object], found: type
) -> None:
    made = spec(name, **init_args).make()
    assert isinstance(made, found)
    assert isinstance(made, anomalib.metrics.AnomalibMetric)


def test_a_whole_number_is_taken_for_a_fraction() -> None:
    assert isinstance(spec("BinaryFBetaScore", beta=2).make().beta, float)


@pytest.mark.parametrize(
    ("name", "init_args", "message"),
    [
        ("BinaryFBetaScore", {"betta": 2.0}, r"\{'betta': 2.0\}: Option 'betta' is not accepted."),
        ("BinaryFBetaScore", {"beta": -1.0}, r"\{'beta': -1.0\}: Expected argument `beta` "),
        ("BinaryFBetaScore", {}, "Option 'beta' is required"),
        ("AUROC", {"max_fpr": 0.1}, "Option 'max_fpr' is not accepted."),
        ("Accuracy", {"task": "multiclass"}, "Option 'task' is not accepted."),
        ("F1Score", {"prefix": "x"}, r"prefix follow from the list, metrics\.image\. Remove them."),
        ("BinaryRecall", {"threshold": "high"}, "Expected a <class 'float'>. Got value: high."),
        (f"{__name__}.Unwilling", {}, "{}: not today."),
        ("no_such_package.X", {}, "No module named 'no_such_package'."),
        ("torch.nn.Linear", {}, "does not correspond to a subclass of Metric."),
        ("ev-il.X", {}, "Unexpected import path format: ev-il.X."),
    ],
)
def test_what_a_class_refuses_is_said(name: str, init_args: dict[str, object], message: str) -> None:
    with pytest.raises(
        ConfigurationError,
        match=rf"^The metric '{name}' in metrics.image cannot be made with .*{message}.* Correct its",
    ):
        spec(name, **init_args).make()


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("torchmetrics.AUROC", curves.auroc),
        ("anomalib.metrics.AUROC", curves.auroc),
        ("BinaryAveragePrecision", curves.aupr),
        ("anomalib.metrics.F1Max", curves.f1_max),
    ],
)
def test_raw_scores_are_compared_as_they_are_in_every_batch(name: str, curve: object) -> None:
    made = metric(name, "pixel", raw=True)
    for scores, truth in BATCHES:
        made.update(scores.view(1, 2, 2), None, truth.bool().view(1, 2, 2))
    assert made.compute() == pytest.approx(curve(exact().counts()), abs=1e-6)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("name", "init_args"),
    [("F1Score", {}), ("BinaryFBetaScore", {"beta": 2.0}), ("JaccardIndex", {}), ("MatthewsCorrCoef", {})],
)
def test_metrics_of_decisions_get_what_the_ensemble_decided(name: str, init_args: dict[str, object], raw: bool) -> None:  # noqa: FBT001  # pytest gives it by name
    made = metric(name, raw=raw, **init_args)
    theirs = getattr(classification, f"Binary{name.removeprefix('Binary')}")(**init_args)
    made.update(SCORES * 100, DECIDED, ANOMALOUS)
    theirs.update(DECIDED.long(), ANOMALOUS.long())
    assert made.compute() == pytest.approx(float(theirs.compute()))


def test_overlap_of_masks() -> None:
    made = metric("PRO", "pixel")
    made.update(SCORES.view(1, 2, 3), DECIDED.view(1, 2, 3), ANOMALOUS.view(1, 2, 3))
    assert made.compute() == pytest.approx(1 / 3)


def test_a_third_partys_metric_with_a_threshold_judges_decisions() -> None:
    made = metric(f"{__name__}.Share")
    made.update(SCORES, DECIDED, ANOMALOUS)
    assert made.compute() == pytest.approx(0.5)


def test_a_third_partys_metric_may_overwrite_what_it_gets() -> None:
    given = SCORES.clone(), DECIDED.clone(), ANOMALOUS.clone()
    for name, level in (("Overwriting", "image"), ("OverwritingDecisions", "pixel")):
        metric(f"{__name__}.{name}", level).update(*given)
    assert all(map(torch.equal, given, (SCORES, DECIDED, ANOMALOUS)))


@pytest.mark.parametrize(
    ("name", "scale", "raw"), [("Recall", 1, False), ("anomalib.metrics.F1Score", 1, False), ("Recall", 100, True)]
)
def test_a_threshold_that_is_given_is_applied_to_the_scores(name: str, scale: int, raw: bool) -> None:  # noqa: FBT001  # pytest gives it by name
    made = metric(name, raw=raw, threshold=0.65 * scale)
    for part in (slice(0, 2), slice(2, 6)):
        made.update(SCORES[part] * scale, DECIDED[part], ANOMALOUS[part])
    assert made.compute() == pytest.approx(2 / 3)


def test_a_model_that_decides_nothing_has_no_metrics_of_decisions() -> None:
    made = metric("BinaryAccuracy")
    made.update(SCORES, None, ANOMALOUS)
    assert made.compute() is None


NOTHING = torch.zeros(6).bool()
UNDEFINED = {
    "anomalib.metrics.AUROC": (NOTHING, ~NOTHING),
    "PGn": (NOTHING, ~NOTHING),
    "BinaryCohenKappa": (NOTHING, ~NOTHING),
    "BinaryAveragePrecision": (NOTHING,),
    "anomalib.metrics.F1Max": (NOTHING,),
    "Recall": (NOTHING,),
    "Specificity": (~NOTHING,),
    "ConfusionMatrix": (),
}


@pytest.mark.parametrize(("name", "undefined"), UNDEFINED.items())
def test_what_needs_a_class_that_is_not_there_is_not_defined(name: str, undefined: tuple[torch.Tensor, ...]) -> None:
    for anomalous in (NOTHING, ~NOTHING, ANOMALOUS):
        expected = any(torch.equal(anomalous, each) for each in undefined)
        assert (measured(name, SCORES, anomalous) is None) == expected


def test_classes_may_come_in_different_batches() -> None:
    made = metric("BinaryAUROC")
    made.update(SCORES[:2], None, NOTHING[:2])
    made.update(SCORES[2:4], None, ~NOTHING[:2])
    assert made.compute() == pytest.approx(0.75)


def test_precision_of_nothing_that_was_called() -> None:
    low, high = torch.full((6,), 0.1), torch.full((6,), 0.9)
    assert measured("Precision", low, ANOMALOUS) is None
    assert measured("Precision", high, ANOMALOUS) == pytest.approx(0.5)
    assert measured("NegativePredictiveValue", high, ANOMALOUS) is None
    assert measured("Recall", low, ANOMALOUS) == 0.0
    assert measured("BinaryConfusionMatrix", low, NOTHING, normalize="true") is None


def test_what_the_user_wants_instead_of_undefined_is_given() -> None:
    assert measured("BinaryRecall", SCORES, NOTHING, zero_division=1) == 1.0


def test_what_is_not_finite_is_not_defined() -> None:
    assert measured("MeanSquaredError", torch.tensor([np.inf]), torch.tensor([True])) is None


def test_a_metric_that_refuses_the_data_is_not_defined(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert measured(f"{__name__}.Picky", SCORES, ANOMALOUS) is None
    assert "Picky' in metrics.image is undefined: too few pixels" in caplog.text


REFUSED = {
    "ROC": ({}, "cannot compare scores .* a curve; use the area under it. Choose another metric"),
    "BinaryFairness": ({"num_groups": 2}, "cannot compare decisions .*missing 1 required positional argument"),
    "AUPIMO": ({}, "cannot compare scores .* 3 dimensions"),
    "AUPRO": ({}, "measures regions of pixels. Move it to metrics.pixel.$"),
    "MulticlassAccuracy": ({"num_classes": 2}, "is one of several classes, but .*. Choose one of two.$"),
    "BinaryRecall": ({"threshold": 1.5}, "needs a threshold between 0 and 1, but has 1.5. Correct it.$"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items())
def test_what_cannot_work_is_refused_at_once(name: str, case: tuple[dict[str, object], str]) -> None:
    with pytest.raises(ConfigurationError, match=f"^The metric '{name}' in metrics.image .*{case[1]}"):
        metric(name, **case[0])


@pytest.mark.parametrize(
    ("name", "init_args", "cause"),
    [
        ("BinaryCalibrationError", {}, "works with probabilities, .* Remove it, or set normalization.stage"),
        ("BinaryAUROC", {"thresholds": 100}, "works with thresholds between 0 and 1, .* Remove thresholds"),
    ],
)
def test_what_needs_scores_between_0_and_1(name: str, init_args: dict[str, object], cause: str) -> None:
    metric(name, **init_args)
    with pytest.raises(ConfigurationError, match=cause):
        metric(name, raw=True, **init_args)


def test_trying_out_leaves_nothing_behind() -> None:
    assert metric("BinaryConfusionMatrix").compute() is None
    assert measured("BinaryConfusionMatrix", SCORES[:1], ANOMALOUS[:1]) == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("side", "lack"),
    [
        (99, r"it needs 100,000 pixels in images without any anomalous one, and has 98,010"),
        (100, r"The thresholds corresponding to the given `fpr_bounds` are not valid .*[^.]"),
    ],
)
def test_what_aupimo_lacks_is_said(side: int, lack: str) -> None:
    maps = torch.rand(11, side, side, generator=torch.Generator().manual_seed(0)) ** 0.5
    masks = torch.zeros(11, side, side, dtype=torch.bool)
    masks[-1, 5:20, 5:20] = True
    made = metric("anomalib.metrics.AUPIMO", "pixel", num_thresholds=1000)
    for batch in (slice(0, 4), slice(4, 11)):
        made.update(maps[batch], None, masks[batch])
    assert made.compute() is None
    assert re.fullmatch(lack, made.lack or "")
