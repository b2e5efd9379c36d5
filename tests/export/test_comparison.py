"""Rounding is forgiven, anything else is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from anomalib_tiled.ensemble.calibration import Calibration, Learned, Level
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.comparison import compare, differences, random_images
from anomalib_tiled.grid import Size

Make = Callable[..., EnsembleModel]


def arrays(ensemble: EnsembleModel, images: torch.Tensor) -> dict[str, np.ndarray]:
    return {name: values.numpy().copy() for name, values in ensemble(images)._asdict().items() if values is not None}


def test_the_ensemble_equals_itself(make_ensemble: Make, images: torch.Tensor) -> None:
    ensemble = make_ensemble()
    assert differences(ensemble, images, arrays(ensemble, images)) == (0.0, {})


@pytest.mark.parametrize("name", ["pred_score", "anomaly_map"])
@pytest.mark.parametrize(("by", "wrong"), [(5e-5, False), (5e-4, True), (float("nan"), True)])
def test_scores_may_differ_by_rounding_only(
    make_ensemble: Make, images: torch.Tensor, name: str, by: float, *, wrong: bool
) -> None:
    ensemble = make_ensemble()
    found = arrays(ensemble, images)
    found[name].flat[0] += by
    assert list(differences(ensemble, images, found)[1]) == [name] * wrong


@pytest.mark.parametrize("place", ["image", "tile"])
@pytest.mark.parametrize("name", ["pred_label", "pred_mask"])
def test_a_decision_that_is_turned_round_is_found(
    make_ensemble: Make, images: torch.Tensor, name: str, place: str
) -> None:
    ensemble = make_ensemble(normalize_at=place, threshold_at=place)
    found = arrays(ensemble, images)
    found[name].flat[0] = ~found[name].flat[0]
    assert differences(ensemble, images, found)[1] == {name: 1.0}


def test_a_decision_on_its_threshold_may_fall_on_either_side(make_ensemble: Make, images: torch.Tensor) -> None:
    ensemble = make_ensemble()
    highest = float(ensemble.predict_raw(images).scores.max())
    learned = Learned(highest, {"minimum": 0.0, "maximum": 20.0, "threshold": highest})
    ensemble.calibration = replace(Calibration(), image=Level(learned, learned))
    found = arrays(ensemble, images)
    assert not found["pred_label"].any(), "what equals the threshold is normal"
    found["pred_label"][ensemble.predict_raw(images).scores.argmax()] = True
    assert differences(ensemble, images, found)[1] == {}


def test_an_output_too_few_is_found(make_ensemble: Make, images: torch.Tensor) -> None:
    ensemble = make_ensemble()
    found = arrays(ensemble, images)
    del found["pred_mask"]
    assert differences(ensemble, images, found) == (np.inf, {"pred_mask": np.inf})


@pytest.mark.parametrize("name", ["pred_label", "pred_mask"])
def test_decisions_of_another_shape_are_found(make_ensemble: Make, images: torch.Tensor, name: str) -> None:
    ensemble = make_ensemble()
    found = arrays(ensemble, images)
    found[name] = found[name][..., :-1]
    assert differences(ensemble, images, found)[1] == {name: np.inf}


def test_files_that_predict_something_else_are_refused(make_ensemble: Make, images: torch.Tensor) -> None:
    ensemble, numbers = make_ensemble(), list[int]()

    def predict(inputs: dict[str, np.ndarray], added: float = 0.0) -> dict[str, np.ndarray]:
        numbers.append(len(inputs["images"]))
        found = arrays(ensemble, torch.from_numpy(inputs["images"]))
        return {**found, "pred_score": found["pred_score"] + np.float32(added)}

    assert compare(ensemble, partial(predict, added=1e-5), images.split(2)) == pytest.approx(1e-5, rel=0.1)
    assert numbers == [2, 1]
    message = r"to 0\.0001, but differ in pred_score by 0\.5\. The graph .* something else .* No files were kept\.$"
    with pytest.raises(ConfigurationError, match=message):
        compare(ensemble, partial(predict, added=0.5), [images])


def test_images_are_of_the_type_that_files_take() -> None:
    [fractions, _], [pixels, two] = (random_images(Size(2, 3), dtype) for dtype in (torch.float32, torch.uint8))
    assert two.shape == (2, 3, 2, 3)
    assert torch.equal((fractions * 255).round().to(torch.uint8), pixels)
