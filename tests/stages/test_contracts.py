"""A stage that breaks its contract is named, with the package that it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anomalib_tiled import __version__
from anomalib_tiled.errors import ConfigurationError, StageError, StorageError
from anomalib_tiled.stages.contracts import (
    call_stage,
    errors_naming_stage,
    image_context,
    learned_number,
    learned_numbers,
    name_of,
    with_context,
)
from anomalib_tiled.stages.distribution import ScoreDistribution
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax, Normalizer
from anomalib_tiled.stages.scoring import Scorer
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.system import packages
from anomalib_tiled.system.termination import Terminated


@pytest.fixture(autouse=True)
def _no_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the package of a test where nothing is installed: reading every package takes most of a second."""
    monkeypatch.setattr(packages, "packages_distributions", dict)


class Middle(Scorer):
    """Middle tile score."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return tile_scores.median(dim=0).values


class Raw(Normalizer):
    """Does nothing."""

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        return {}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        return scores


NAMED = re.escape(f"scoring Middle ({__name__}.Middle of no installed package) ")


def test_a_stage_is_named_by_kind_class_and_package() -> None:
    assert name_of(Mean()) == f"merging Mean (anomalib_tiled.stages.merging.Mean of anomalib-tiled {__version__})"
    assert name_of(object()).startswith("stage object (builtins.object of ")


def test_what_a_stage_raises_is_kept_as_the_cause() -> None:
    with (
        pytest.raises(StageError, match=NAMED + "failed: ValueError: too small. Fix it") as caught,
        errors_naming_stage(Middle()),
    ):
        raise ValueError("too small")  # noqa: EM101, TRY003  # stands for a message of somebody else's
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_a_lack_of_memory_is_not_the_fault_of_the_stage(error: type[BaseException]) -> None:
    with pytest.raises(error), errors_naming_stage(Middle()):
        raise error


def test_what_it_was_working_on_is_added() -> None:
    images, tile = with_context(image_context(["a.png", "b.png"])), with_context("Tile: r00_c03.")
    with pytest.raises(StageError, match=r"^bad\. Tile: r00_c03\. Images: a\.png, b\.png\.$"), images, tile:
        raise StageError("bad.")  # noqa: EM101  # as short as can be


def test_of_many_images_some_are_named() -> None:
    assert image_context(["1.png", "2.png", "3.png", "4.png", "5.png"]) == "Images: 1.png, 2.png, 3.png and 2 more."
    assert image_context(None) == "The images have no file names."


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
def test_a_right_result_goes_on_in_single_precision(precision: torch.dtype) -> None:
    scores = torch.tensor([0.5, 0.25])
    given = call_stage(Middle(), lambda: scores.to(precision), shape=(2,))
    assert given.dtype == torch.float32
    assert torch.equal(given, scores)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(3), r"must return floats of shape \(2,\), but returned \(3,\), torch.float32. Fix it."),
        (torch.zeros(2, dtype=torch.int64), r"must return floats of shape \(2,\), but returned \(2,\), torch.int64."),
        (np.zeros(2), r"must return floats of shape \(2,\), but returned ndarray."),
        (None, r"must return floats of shape \(2,\), but returned NoneType."),
        (torch.tensor([0, float("nan")]), "returned infinities or NaN. Fix it."),
    ],
)
def test_a_wrong_result_is_refused(result: object, message: str) -> None:
    with pytest.raises(StageError, match=NAMED + message):
        call_stage(Middle(), lambda: result, shape=(2,))


@pytest.mark.parametrize("value", [-0.01, 1.25])
def test_normalized_scores_lie_between_0_and_1(value: float) -> None:
    scores = torch.tensor([0.5, value])
    assert torch.equal(call_stage(Middle(), lambda: scores, shape=(2,)), scores)
    with pytest.raises(StageError, match=r"normalization Raw .* must return scores in \[0, 1\], but returned"):
        call_stage(Raw(), Raw().apply, scores, {}, shape=(2,))


def test_an_empty_result_has_no_range() -> None:
    assert call_stage(Raw(), lambda: torch.zeros(0), shape=(0,)).shape == (0,)


@pytest.mark.parametrize("value", [np.float32(0.25), 0.25])
def test_a_learned_number_becomes_a_plain_one(value: object) -> None:
    assert type(learned_number(F1AdaptiveThreshold(), value)) is float
    assert learned_numbers(MinMax(), {"minimum": value}) == {"minimum": 0.25}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, True, torch.tensor(0.5)])
def test_what_is_no_finite_number_cannot_be_learned(value: object) -> None:
    with pytest.raises(StageError, match=r"thresholding F1Ada.* must learn finite numbers, but learned threshold = "):
        learned_number(F1AdaptiveThreshold(), value)
    with pytest.raises(StageError, match=r"normalization MinMax .* finite numbers, but learned minimum = "):
        learned_numbers(MinMax(), {"minimum": value})


@pytest.mark.parametrize("learned", [None, {1: 0.5}])
def test_a_normalizer_learns_numbers_by_name(learned: object) -> None:
    with pytest.raises(StageError, match=r"normalization MinMax .* must learn numbers by name, but learned"):
        learned_numbers(MinMax(), learned)


@pytest.mark.parametrize("error", [StorageError("No space left"), ConfigurationError("There is no such device.")])
def test_what_is_for_the_user_is_not_the_fault_of_the_stage(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, errors_naming_stage(Middle()):
        raise error
    assert raised.value is error


def test_a_signal_in_the_middle_of_a_training_is_not_the_fault_of_the_stage() -> None:
    with pytest.raises(Terminated), errors_naming_stage(Middle()):
        raise SIGTERMException


def test_a_stage_that_ends_the_program_is_named() -> None:
    with pytest.raises(StageError, match=NAMED + "failed: SystemExit: 0"), errors_naming_stage(Middle()):
        raise SystemExit(0)
