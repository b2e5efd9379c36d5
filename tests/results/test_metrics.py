from __future__ import annotations

import json
import math
import pickle
from functools import partial
from types import SimpleNamespace

import anomalib.metrics
import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_tiled.config.settings import MetricSettings
from anomalib_tiled.data.scope import Scope
from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.metrics import Measurements, StreamingEvaluator
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold

IMAGE = ("AUROC", "AUPR", "F1Max", "F1Score")
PIXEL = (*IMAGE, "AUPRO")
SCORES = {"image": ("pred_score", "gt_label"), "pixel": ("anomaly_map", "gt_mask")}
DECISIONS = {"image": ("pred_label", "gt_label"), "pixel": ("pred_mask", "gt_mask")}
FBETA = "torchmetrics.classification.BinaryFBetaScore"


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


def test_measurements_of_parts_are_merged_to_those_of_all() -> None:
    settings, stream = MetricSettings(image=IMAGE, pixel=PIXEL), batches(6)
    merged, whole = Measurements(settings), Measurements(settings)
    for start in range(0, 6, 2):
        part = Measurements(settings)
        for batch in stream[start : start + 2]:
            part.update(batch)
            whole.update(batch)
        merged.merge(pickle.loads(pickle.dumps(part)))  # noqa: S301  # from this process
    found, expected = merged.compute(), whole.compute()
    assert found.pop("pixel_AUPRO") == pytest.approx(expected.pop("pixel_AUPRO"), rel=1e-12)
    assert found == expected
    assert merged.images == whole.images


def test_metrics_that_are_classes_cannot_be_merged() -> None:
    assert Measurements(MetricSettings(image=IMAGE, pixel=PIXEL)).can_be_merged
    assert not Measurements(
        MetricSettings(image=IMAGE, pixel=({"class_path": FBETA, "init_args": {"beta": 2.0}},))
    ).can_be_merged


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


def test_normal_images_only() -> None:
    stream = batches(1)
    stream[0].gt_label[:] = 0
    stream[0].gt_mask[:] = False
    results = measured(MetricSettings(IMAGE, PIXEL), stream)
    assert results == dict.fromkeys([f"image_{name}" for name in IMAGE] + [f"pixel_{name}" for name in PIXEL])


def test_a_metric_by_its_dotted_path() -> None:
    settings = MetricSettings((), ("torchmetrics.classification.BinaryAccuracy",))
    right = torch.cat([batch.pred_mask == batch.gt_mask for batch in batches()])
    assert measured(settings, batches()) == {"pixel_BinaryAccuracy": pytest.approx(float(right.float().mean()))}
    assert Measurements(settings).compute() == {}, "of nothing, nothing is measured"


def test_metrics_of_one_class_have_names_of_their_own() -> None:
    given = [{"class_path": FBETA, "name": f"F{beta}", "init_args": {"beta": beta}} for beta in (1.0, 2.0)]
    results = measured(MetricSettings(tuple(given), ("F1Score", {"class_path": "F1Score", "name": "again"})), batches())
    assert list(results) == ["image_F1.0", "image_F2.0", "pixel_F1Score", "pixel_again"]
    assert results["image_F1.0"] != results["image_F2.0"]
    assert results["pixel_F1Score"] == results["pixel_again"]


@pytest.mark.parametrize(("name", "argument"), [("AUPRO", {"fpr_limit": 0.05}), ("F1Score", {"threshold": 0.7})])
def test_arguments_of_a_counted_metric_are_not_ignored(name: str, argument: dict[str, float]) -> None:
    theirs = getattr(anomalib.metrics, name)(fields=SCORES["pixel"], **argument)
    for batch in batches():
        theirs.update(batch)
    settings = MetricSettings((), (name, {"class_path": name, "init_args": argument, "name": "other"}))
    results = measured(settings, batches())
    assert results["pixel_other"] == pytest.approx(float(theirs.compute()))
    assert results["pixel_other"] != pytest.approx(results[f"pixel_{name}"], abs=1e-2)


def test_the_scale_of_the_scores_comes_from_the_normalization() -> None:
    metrics = MetricSettings(("BinaryCalibrationError",), ())
    Measurements.of(SimpleNamespace(metrics=metrics, normalization=SimpleNamespace(stage="image")))
    with pytest.raises(ConfigurationError, match="scores keep the scale of the model"):
        Measurements.of(SimpleNamespace(metrics=metrics, normalization=SimpleNamespace(stage="none")))


def test_several_numbers_are_a_list_in_json_and_several_values_in_the_log() -> None:
    logged: dict[str, float] = {}
    settings = MetricSettings(("BinaryConfusionMatrix",), ())
    assert json.dumps(measured(settings, batches())) == '{"image_BinaryConfusionMatrix": [[0, 3], [0, 3]]}'
    evaluator = StreamingEvaluator(partial(Measurements, settings))
    evaluator.on_test_batch_end(None, None, None, batches()[0], 0)
    evaluator.on_test_epoch_end(None, SimpleNamespace(log=logged.__setitem__))
    assert logged == {f"image_BinaryConfusionMatrix_{row}_{column}": column for row in (0, 1) for column in (0, 1)}


def test_a_metric_that_is_not_there() -> None:
    message = (
        r"^There is no metric 'AUPRRO' for metrics.pixel. Did you mean 'AUPRO'\? Allowed: AUPR, AUPRO, AUROC, F1Max, "
        "F1Score. Or give .* the dotted class path of any.$"
    )
    with pytest.raises(ConfigurationError, match=message):
        Measurements(MetricSettings((), ("AUPRRO",)))


def test_the_evaluator_logs_as_anomalib_does_and_begins_anew() -> None:
    logged: dict[str, float] = {}
    module = SimpleNamespace(log=logged.__setitem__)
    evaluator = StreamingEvaluator(partial(Measurements, MetricSettings(("AUROC", "AUPR"), ())))
    turned = batches(2)
    for batch in turned:
        batch.pred_score = batch.pred_score.flip(0)
    for stream in (batches(2), turned):
        evaluator.on_test_epoch_start(None, module)
        for number, batch in enumerate(stream):
            evaluator.on_test_batch_end(None, module, None, batch, number)
        evaluator.on_test_epoch_end(None, module)
        assert logged == measured(MetricSettings(("AUROC", "AUPR"), ()), stream)
    normal = batches(1)[0]
    normal.gt_label[:] = 0
    evaluator.on_test_epoch_start(None, module)
    evaluator.on_test_batch_end(None, module, None, normal, 0)
    evaluator.on_test_epoch_end(None, module)
    assert math.isnan(logged["image_AUROC"]), "undefined"


UNINSPECTED = np.zeros((24, 24), dtype=bool)
UNINSPECTED[:, :6] = True
"""Half of the first defect of `batches` lies there, and none of the second."""


def cropped(batch: ImageBatch) -> ImageBatch:
    """Give a batch of images that end where nothing is inspected."""
    maps, masks = batch.anomaly_map[..., 6:], batch.gt_mask[..., 6:]
    fields = {"gt_label": batch.gt_label, "pred_score": batch.pred_score, "pred_label": batch.pred_label}
    return ImageBatch(image=torch.zeros(2, 3, 24, 18), gt_mask=masks, anomaly_map=maps, pred_mask=maps > 0.5, **fields)


def test_pixels_that_no_model_sees_are_left_out_of_what_is_counted() -> None:
    settings = MetricSettings(image=IMAGE, pixel=PIXEL)
    measurements = Measurements(settings, uninspected=UNINSPECTED)
    for batch in batches():
        batch.pred_mask &= ~torch.from_numpy(UNINSPECTED)
        measurements.update(batch)
    assert measurements.compute() == measured(settings, [cropped(batch) for batch in batches()])


def test_to_other_metrics_they_are_normal() -> None:
    settings = MetricSettings(image=(), pixel=("torchmetrics.classification.BinaryRecall",))
    measurements = Measurements(settings, uninspected=UNINSPECTED)
    for batch in batches():
        batch.pred_mask = batch.gt_mask & ~torch.from_numpy(UNINSPECTED)
        batch.anomaly_map = batch.pred_mask.float()
        measurements.update(batch)
    assert measurements.compute() == {"pixel_BinaryRecall": 1}


def hidden_in(batch: ImageBatch) -> torch.Tensor:
    """Hide what no model sees above, in every image of a batch."""
    return torch.from_numpy(UNINSPECTED).expand(len(batch), 1, -1, -1)


def test_hidden_pixels_are_left_out_of_what_is_counted() -> None:
    settings = MetricSettings(image=IMAGE, pixel=PIXEL)
    measurements, parts = Measurements(settings), [Measurements(settings), Measurements(settings)]
    for number, batch in enumerate(batches(4)):
        batch.pred_mask &= ~torch.from_numpy(UNINSPECTED)
        for each in (measurements, parts[number // 2]):
            each.update(batch, hidden_in(batch))
    expected = measured(settings, [cropped(batch) for batch in batches(4)])
    assert measurements.compute() == expected
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))  # noqa: S301  # from this process
    assert parts[0].compute() == expected


def test_hidden_pixels_differ_from_image_to_image() -> None:
    settings = MetricSettings(image=(), pixel=PIXEL)
    found, alone = Measurements(settings), Measurements(settings)
    for batch in batches():
        hidden = hidden_in(batch).clone()
        hidden[1] = False
        found.update(batch, hidden)
        for number, columns in enumerate((slice(6, 24), slice(0, 24))):
            maps, masks = batch.anomaly_map[number, None, :, columns], batch.gt_mask[number, None, :, columns]
            alone.update(
                ImageBatch(image=torch.zeros(1, 3, 24, 24), gt_mask=masks, anomaly_map=maps, pred_mask=maps > 2)
            )
    assert {**found.compute(), "pixel_F1Score": None} == {**alone.compute(), "pixel_F1Score": None}


def test_images_whose_defects_are_all_hidden_are_left_out_of_image_metrics() -> None:
    settings = MetricSettings(image=(*IMAGE, "torchmetrics.classification.BinaryRecall"), pixel=PIXEL)
    measurements, part = Measurements(settings), Measurements(settings)
    first, second = batches(2)
    hidden = first.gt_mask[:, None].clone()
    measurements.update(second)
    part.update(first, hidden)
    measurements.merge(part)
    assert (measurements.out_of_scope, str(measurements.images["image"])) == (1, "2 normal, 1 anomalous")
    assert str(measurements.images["pixel"]) == "3 normal, 1 anomalous", "what counts of its pixels is normal"
    first.gt_mask = None
    part.update(first, torch.ones(1, 1, 24, 24, dtype=torch.bool))
    assert part.out_of_scope == 3, "nothing counts"


def test_anomalibs_engine_leaves_ignored_pixels_out() -> None:
    stages = Stages(Mean(), Max(), None, MinMax(), F1AdaptiveThreshold(), "image", "image")
    grid = TileGrid(Size(24, 24), Size(24, 24), Size(24, 24))
    ensemble = EnsembleModel(grid, TileModels(None), stages=stages, evaluator=False, scope=Scope(UNINSPECTED))
    settings, logged = MetricSettings(image=(), pixel=PIXEL), {}
    evaluator = StreamingEvaluator(partial(Measurements, settings))
    ensemble.log = logged.__setitem__
    for batch in batches():
        batch.pred_mask &= ~torch.from_numpy(UNINSPECTED)
        evaluator.on_test_batch_end(None, ensemble, None, batch, 0)
    evaluator.on_test_epoch_end(None, ensemble)
    assert logged == measured(settings, [cropped(batch) for batch in batches()])
