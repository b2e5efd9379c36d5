from __future__ import annotations

import re

import pytest

from anomalib_tiled.config.anomalib_post_processor import read_post_processor
from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import ConfigurationError

PATHS = ["PostProcessor", "anomalib.post_processing.PostProcessor"]
PATHS += ["anomalib.post_processing.post_processor.PostProcessor"]


def settings(configuration: dict[str, object], given: object, **thresholding: float) -> Settings:
    model = {"class_path": "anomalib.models.Padim", "init_args": {"layers": ["layer1"], "post_processor": given}}
    return Settings.from_mapping(
        configuration | {"model": model, "thresholding": {**configuration["thresholding"], **thresholding}}
    )


def processor(class_path: str = PATHS[1], **arguments: object) -> dict[str, object]:
    return {"class_path": class_path, "init_args": arguments}


@pytest.mark.parametrize("class_path", PATHS)
def test_sensitivities_are_moved_to_thresholding(configuration: dict[str, object], class_path: str) -> None:
    given = settings(configuration, processor(class_path, image_sensitivity=0.3, pixel_sensitivity=0.7))
    read, note = read_post_processor(given)
    assert (read.thresholding.image_sensitivity, read.thresholding.pixel_sensitivity) == (0.3, 0.7)
    assert read.model.init_args == {"layers": ["layer1"], "post_processor": True}
    assert note == (
        "model.init_args.post_processor → thresholding.image_sensitivity: 0.3, thresholding.pixel_sensitivity: 0.7"
    )


@pytest.mark.parametrize("given", ["PostProcessor", processor(), processor(enable_normalization=True)])
def test_what_says_nothing_leaves_thresholding_as_it_is(configuration: dict[str, object], given: object) -> None:
    read, _ = read_post_processor(settings(configuration, given, pixel_sensitivity=0.2))
    assert (read.thresholding.image_sensitivity, read.thresholding.pixel_sensitivity) == (0.5, 0.2)


@pytest.mark.parametrize("given", [None, True, False])
def test_nothing_is_read_where_no_post_processor_is_given(configuration: dict[str, object], given: object) -> None:
    before = settings(configuration, given)
    assert read_post_processor(before) == (before, None)


def test_the_same_sensitivity_may_be_given_twice_but_not_another_one(configuration: dict[str, object]) -> None:
    given = processor(image_sensitivity=0.3)
    read, _ = read_post_processor(settings(configuration, given, image_sensitivity=0.3))
    assert read.thresholding.image_sensitivity == 0.3
    message = (
        "The sensitivity must be given once, but thresholding.image_sensitivity is 0.4, and that of "
        "model.init_args.post_processor is 0.3. Remove the post-processor."
    )
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_post_processor(settings(configuration, given, image_sensitivity=0.4))


@pytest.mark.parametrize(
    ("switch", "advice"),
    [
        ("enable_normalization", "To leave scores on the scale of the model, set normalization.stage to none."),
        ("enable_thresholding", "Images are always thresholded here. Remove it, and ignore labels and masks."),
        ("enable_threshold_matching", "Without masks, maps always take the threshold of scores. Remove it."),
    ],
)
def test_nothing_can_be_switched_off(configuration: dict[str, object], switch: str, advice: str) -> None:
    message = f"model.init_args.post_processor cannot have {switch}: false with tiles. {advice}"
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_post_processor(settings(configuration, processor(**{switch: False})))


@pytest.mark.parametrize(
    "class_path", ["anomalib.post_processing.MEBinPostProcessor", "mine.PostProcessor", "MEBinPostProcessor"]
)
def test_another_post_processor_is_refused(configuration: dict[str, object], class_path: str) -> None:
    message = (
        f"With tiles, model.init_args.post_processor must be anomalib's PostProcessor, but is {class_path}. Remove "
        "it: stages normalize and threshold images, see normalization.method and thresholding.method."
    )
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        read_post_processor(settings(configuration, processor(class_path)))
