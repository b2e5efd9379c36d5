from __future__ import annotations

import logging
import re

import numpy as np
import pytest
import torch
import torchmetrics
from torchmetrics import classification

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.metric_adapter import ClassMetric
from anomalib_tiled.results.metric_specs import read_metrics
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


def metric(name: str, level: str = "image", *, raw: bool = False, **init_args: object) -> ClassMetric:
    (spec,) = read_metrics(level, [{"class_path": name, "init_args": init_args}])
    return ClassMetric(spec, raw=raw)


def measured(name: str, scores: torch.Tensor, anomalous: torch.Tensor, **arguments: object) -> object:
    made = metric(name, **arguments)
    made.update(scores, scores > 0.5, anomalous)
    return made.compute()


def exact() -> ExactScores:
    scores = ExactScores()
    for values, truth in BATCHES:
        scores.add(values.numpy(), truth.bool().numpy())
    return scores


@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("BinaryAUROC", curves.auroc),
        ("torchmetrics.AUROC", curves.auroc),
        ("anomalib.metrics.AUROC", curves.auroc),
        ("BinaryAveragePrecision", curves.aupr),
        ("anomalib.metrics.F1Max", curves.f1_max),
    ],
)
@pytest.mark.parametrize("level", ["image", "pixel"])
def test_raw_scores_are_compared_as_they_are_in_every_batch(name: str, curve: object, level: str) -> None:
    made = metric(name, level, raw=True)
    for scores, truth in BATCHES:
        shape = (4,) if level == "image" else (1, 2, 2)
        made.update(scores.view(shape), None, truth.bool().view(shape))
    assert made.compute() == pytest.approx(curve(exact().counts()), abs=1e-6)


def test_a_threshold_that_a_metric_finds_is_on_the_scale_of_the_scores() -> None:
    made = metric("BinaryPrecisionAtFixedRecall", raw=True, min_recall=0.3)
    for scores, truth in BATCHES:
        made.update(scores, None, truth.bool())
    assert made.compute() == [pytest.approx(2 / 3), pytest.approx(0.7)]


DECISIONS = {
    "F1Score": {},
    "BinaryAccuracy": {},
    "Precision": {},
    "BinaryRecall": {},
    "BinarySpecificity": {},
    "BinaryFBetaScore": {"beta": 2.0},
    "BinaryJaccardIndex": {},
    "CohenKappa": {},
    "BinaryMatthewsCorrCoef": {},
    "HammingDistance": {},
    "MulticlassAccuracy": {"num_classes": 2},
}


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(("name", "init_args"), DECISIONS.items())
def test_metrics_of_decisions_get_what_the_ensemble_decided(name: str, init_args: dict[str, object], raw: bool) -> None:  # noqa: FBT001  # pytest gives it by name
    made = metric(name, raw=raw, **init_args)
    theirs = getattr(classification, name)
    theirs = theirs(**init_args) if name.startswith(("Binary", "Multi")) else theirs(task="binary")
    made.update(SCORES * 100, DECIDED, ANOMALOUS)
    theirs.update(DECIDED.long(), ANOMALOUS.long())
    assert made.compute() == pytest.approx(float(theirs.compute()))


def test_overlap_of_masks() -> None:
    masks, decided = ANOMALOUS.view(1, 2, 3), DECIDED.view(1, 2, 3)
    dice = metric("DiceScore", "pixel", num_classes=2, input_format="index", include_background=False)
    regions = metric("PRO", "pixel")
    for each in (dice, regions):
        each.update(SCORES.view(1, 2, 3), decided, masks)
    assert dice.compute() == pytest.approx(2 * 1 / (2 + 3))
    assert regions.compute() == pytest.approx(1 / 3)


def test_a_third_partys_metric_with_a_threshold_judges_decisions() -> None:
    made = metric(f"{__name__}.Share")
    made.update(SCORES, DECIDED, ANOMALOUS)
    assert made.compute() == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["BinaryRecall", "Recall", "anomalib.metrics.F1Score"])
@pytest.mark.parametrize(("scale", "raw"), [(1, False), (100, True)])
def test_a_threshold_that_is_given_is_applied_to_the_scores(name: str, scale: int, raw: bool) -> None:  # noqa: FBT001  # pytest gives it by name
    made = metric(name, raw=raw, threshold=0.65 * scale)
    for part in (slice(0, 2), slice(2, 6)):
        made.update(SCORES[part] * scale, DECIDED[part], ANOMALOUS[part])
    assert made.compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize("threshold", [1.5, "high", True])
def test_a_threshold_without_a_meaning(threshold: object) -> None:
    with pytest.raises(ConfigurationError, match=f"needs a number between 0 and 1 as threshold, but has {threshold!r}"):
        metric("BinaryRecall", threshold=threshold)


def test_a_model_that_decides_nothing_has_no_metrics_of_decisions() -> None:
    made = metric("BinaryAccuracy")
    made.update(SCORES, None, ANOMALOUS)
    assert made.compute() is None


def test_several_numbers_are_lists() -> None:
    made = metric("BinaryConfusionMatrix")
    made.update(SCORES, DECIDED, ANOMALOUS)
    assert made.compute() == [[2, 1], [2, 1]]


NOTHING = torch.zeros(6).bool()
UNDEFINED = {
    "BinaryAUROC": (NOTHING, ~NOTHING),
    "anomalib.metrics.AUROC": (NOTHING, ~NOTHING),
    "BinaryEER": (NOTHING, ~NOTHING),
    "PGn": (NOTHING, ~NOTHING),
    "BinaryCohenKappa": (NOTHING, ~NOTHING),
    "BinaryMatthewsCorrCoef": (NOTHING, ~NOTHING),
    "BinaryAveragePrecision": (NOTHING,),
    "anomalib.metrics.AUPR": (NOTHING,),
    "anomalib.metrics.F1Max": (NOTHING,),
    "anomalib.metrics.F1Score": (NOTHING,),
    "Recall": (NOTHING,),
    "JaccardIndex": (NOTHING,),
    "Specificity": (~NOTHING,),
    "Accuracy": (),
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
    "BinaryPrecisionRecallCurve": ({}, "a curve; use the area under it"),
    "BinaryFairness": ({"num_groups": 2}, "cannot compare decisions .*missing 1 required positional argument"),
    "AUPIMO": ({}, "cannot compare scores .* 3 dimensions"),
    "MulticlassAUROC": ({"num_classes": 2}, "cannot compare scores"),
    "BinaryAccuracy": ({"multidim_average": "samplewise"}, "must give one number for all images"),
}


@pytest.mark.parametrize(("name", "case"), REFUSED.items())
def test_what_cannot_work_is_refused_at_once(name: str, case: tuple[dict[str, object], str]) -> None:
    with pytest.raises(ConfigurationError, match=f"^The metric '{name}' in metrics.image .*{case[1]}"):
        metric(name, **case[0])


@pytest.mark.parametrize(
    ("name", "init_args", "cause"),
    [
        ("BinaryCalibrationError", {}, "works with probabilities, .* Remove it, or set normalization.stage"),
        ("BinaryHingeLoss", {}, "works with probabilities"),
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
    ("side", "power", "lack"),
    [
        (99, 8, r"it needs 100,000 pixels in images without any anomalous one, and has 98,010"),
        (100, 8, None),
        (100, 0.5, r"Cannot compute AUPIMO because .* Try increasing `num_thresholds`"),
    ],
)
def test_what_aupimo_lacks_is_said(side: int, power: float, lack: str | None) -> None:
    maps = torch.rand(11, side, side, generator=torch.Generator().manual_seed(0)) ** power
    masks = torch.zeros(11, side, side, dtype=torch.bool)
    masks[-1, 5:20, 5:20] = True
    made = metric("anomalib.metrics.AUPIMO", "pixel")
    for batch in (slice(0, 4), slice(4, 11)):
        made.update(maps[batch], None, masks[batch])
    assert (made.compute() is None) == (lack is not None)
    assert lack is made.lack is None or re.fullmatch(lack or "", made.lack or "")
