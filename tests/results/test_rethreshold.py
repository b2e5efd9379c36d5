from __future__ import annotations

from types import SimpleNamespace

import pytest

from anomalib_tiled.grid import Size
from anomalib_tiled.results.prediction_row import NORMAL, PredictedImage
from anomalib_tiled.results.request import Predicted, PredictionSettings
from anomalib_tiled.results.rethreshold import Rethresholding
from anomalib_tiled.results.thresholds import Threshold, Thresholds

SPOTTED = PredictedImage("/data/1.png", Size(6, 9), 0.6, 12.5, 1, (), any_pixel=True)


@pytest.mark.parametrize(("threshold", "words"), [(0.5, ""), (0.7, NORMAL)])
@pytest.mark.parametrize("overlays", [True, False])
def test_pictures_that_another_threshold_of_images_does_not_draw_again_are_counted(
    threshold: float, words: str, *, overlays: bool
) -> None:
    writer = SimpleNamespace(folder=SimpleNamespace(facts=dict), settings=PredictionSettings(overlays=overlays))
    thresholds, summary = Thresholds(images=Threshold(threshold, raw=False)), Predicted(existing=1)
    rethresholding = Rethresholding(SimpleNamespace(), writer, thresholds, summary)
    assert rethresholding.decide(SPOTTED).contradiction == words
    assert (summary.anomalous, summary.contradictions) == (threshold < 0.6, {words: 1})
    assert rethresholding.outdated == int(overlays)
