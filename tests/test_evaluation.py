from __future__ import annotations

import math
from types import SimpleNamespace

import anomalib.metrics
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_tiled.config import MetricSettings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.evaluation import DECISIONS, SCORES, Measurements, StreamingEvaluator

IMAGE = ("AUROC", "AUPR", "F1Max", "F1Score")
PIXEL = (*IMAGE, "AUPRO")


def batches(count: int = 3, *, masks: bool = True) -> list[ImageBatch]:
    """Predictions of two images each, the second one with two defects; scores in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for _ in range(count):
        mask = torch.zeros(2, 24, 24, dtype=torch.bool)
        mask[1, 3:9, 4:12] = mask[1, 18:20, 15:17] = True
        maps = (0.6 * torch.rand(2, 24, 24, generator=generator) + 0.4 * mask).clamp(0, 1)
        scores = maps.amax(dim=(1, 2)) - 0.1 * torch.rand(2, generator=generator)
        result.append(
            ImageBatch(
                image=torch.zeros(2, 3, 24, 24),
                gt_label=torch.tensor([0, 1]),
                gt_mask=mask if masks else None,
                pred_score=scores,
                anomaly_map=maps,
                pred_label=scores > 0.5,
                pred_mask=maps > 0.5,
            )
        )
    return result


def measured(settings: MetricSettings, stream: list[ImageBatch]) -> dict[str, float | None]:
    measurements = Measurements(settings)
    for batch in stream:
        measurements.update(batch)
    return measurements.compute()


@pytest.mark.parametrize(
    ("level", "name"), [*(("image", name) for name in IMAGE), *(("pixel", name) for name in PIXEL)]
)
def test_metrics_are_those_of_anomalib(level: str, name: str) -> None:
    fields = DECISIONS[level] if name == "F1Score" else SCORES[level]
    theirs = getattr(anomalib.metrics, name)(fields=fields)
    for batch in batches():
        theirs.update(batch)
    ours = measured(MetricSettings(**{"image": (), "pixel": (), level: (name,)}), batches())
    tolerance = 1e-6 if level == "image" or name == "F1Score" else 1e-3
    assert ours == {f"{level}_{name}": pytest.approx(float(theirs.compute()), abs=tolerance)}


def test_names_come_in_the_order_of_the_settings() -> None:
    results = measured(MetricSettings(("F1Score", "AUROC"), ("AUPRO", "AUROC")), batches())
    assert list(results) == ["image_F1Score", "image_AUROC", "pixel_AUPRO", "pixel_AUROC"]


def test_without_masks_pixel_metrics_are_left_out() -> None:
    assert list(measured(MetricSettings(IMAGE, PIXEL), batches(masks=False))) == [f"image_{name}" for name in IMAGE]


def test_a_model_without_maps_has_no_pixel_metrics() -> None:
    stream = batches()
    for batch in stream:
        batch.pred_mask = None  # what stands in its maps then is for pictures only
    assert list(measured(MetricSettings(("AUROC",), PIXEL), stream)) == ["image_AUROC"]


def test_images_of_unknown_label_are_passed_over() -> None:
    stream = batches(masks=False)
    expected = measured(MetricSettings(), stream[:2])
    stream[2].gt_label = None
    assert measured(MetricSettings(), stream) == expected


def test_nothing_is_measured_of_nothing() -> None:
    assert Measurements(MetricSettings()).compute() == {}


def test_normal_images_only() -> None:
    stream = batches(1)
    stream[0].gt_label[:] = 0
    stream[0].gt_mask[:] = False
    results = measured(MetricSettings(IMAGE, PIXEL), stream)
    assert results == dict.fromkeys([f"image_{name}" for name in IMAGE] + [f"pixel_{name}" for name in PIXEL])


@pytest.mark.parametrize("level", ["image", "pixel"])
def test_a_metric_by_its_dotted_path(level: str) -> None:
    settings = MetricSettings(**{"image": (), "pixel": (), level: ("torchmetrics.classification.BinaryAccuracy",)})
    decided, truth = ("pred_label", "gt_label") if level == "image" else ("pred_mask", "gt_mask")
    right = torch.cat([getattr(batch, decided) == getattr(batch, truth).bool() for batch in batches()])
    assert measured(settings, batches()) == {f"{level}_BinaryAccuracy": pytest.approx(float(right.float().mean()))}


def test_a_metric_of_anomalib_that_is_not_computed_from_counts() -> None:
    theirs = anomalib.metrics.PRO(fields=SCORES["pixel"])
    for batch in batches():
        theirs.update(batch)
    results = measured(MetricSettings((), ("PRO",)), batches())
    assert results == {"pixel_PRO": pytest.approx(float(theirs.compute()))}


def test_a_metric_of_torchmetrics_takes_scores() -> None:
    results = measured(MetricSettings(("AUROC", "torchmetrics.classification.BinaryAUROC"), ()), batches())
    assert results["image_BinaryAUROC"] == pytest.approx(results["image_AUROC"])


@pytest.mark.parametrize("name", ["AUROK", "torchmetrics.Nope", "no.such.Metric", "torch.nn.Linear"])
def test_a_metric_that_is_not_there(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"There is no metric '{name}'.* Or give the dotted class path"
    ) as raised:
        Measurements(MetricSettings((name,)))
    assert "Allowed: AUPR, AUROC, F1Max, F1Score." in str(raised.value)


def test_the_nearest_metric_is_suggested() -> None:
    with pytest.raises(ConfigurationError, match=r"Did you mean 'AUPRO'\?"):
        Measurements(MetricSettings((), ("AUPRRO",)))


def test_the_evaluator_logs_as_anomalib_does_and_begins_anew() -> None:
    logged: dict[str, float] = {}
    module = SimpleNamespace(log=logged.__setitem__)
    evaluator = StreamingEvaluator(MetricSettings(("AUROC", "AUPR"), ()))
    turned = batches(2)
    for batch in turned:
        batch.pred_score = batch.pred_score.flip(0)
    for stream in (batches(2), turned):
        evaluator.on_test_epoch_start(None, module)
        for number, batch in enumerate(stream):
            evaluator.on_test_batch_end(None, module, None, batch, number)
        evaluator.on_test_epoch_end(None, module)
        assert logged == measured(MetricSettings(("AUROC", "AUPR"), ()), stream)


def test_the_evaluator_logs_what_is_not_defined_as_nan() -> None:
    logged: dict[str, float] = {}
    evaluator = StreamingEvaluator(MetricSettings(("AUROC",), ()))
    stream = batches(1)
    stream[0].gt_label[:] = 0
    evaluator.on_test_batch_end(None, None, None, stream[0], 0)
    evaluator.on_test_epoch_end(None, SimpleNamespace(log=logged.__setitem__))
    assert math.isnan(logged["image_AUROC"])
