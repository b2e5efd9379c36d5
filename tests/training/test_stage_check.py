"""Stages are tried on made-up images before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch

from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.errors import StageError
from anomalib_tiled.grid import TileGrid
from anomalib_tiled.stages.distribution import ScoreDistribution
from anomalib_tiled.stages.merging import Hann, Max, Mean
from anomalib_tiled.stages.normalization import MinMax, Normalizer
from anomalib_tiled.stages.scoring import Max as MaxScore
from anomalib_tiled.stages.scoring import Scorer, TopK
from anomalib_tiled.stages.seams import GaussianSeams, SeamSmoother
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold, ManualThreshold, Thresholder
from anomalib_tiled.training.stage_check import check_stages

STAGES = Stages(
    merger=Mean(),
    scorer=MaxScore(),
    smoother=GaussianSeams(),
    normalizer=MinMax(),
    thresholder=F1AdaptiveThreshold(),
    normalize_at="image",
    threshold_at="image",
)
PLACES = [("tile", "image"), ("image", "image"), ("none", "tile")]


class Cropping(SeamSmoother):
    """Loses a row."""

    def smooth(self, maps: torch.Tensor, grid: TileGrid) -> torch.Tensor:
        return maps[:, :, 1:]


class Listing(Scorer):
    """Gives a list."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return tile_scores.amax(dim=0).tolist()


class Raising(Mean):
    """Fails at the last tile."""

    def add(self, tile: object, maps: torch.Tensor) -> None:
        if tile.name == "r02_c01":
            message = "no room"
            raise IndexError(message)
        super().add(tile, maps)


class Endless(Thresholder):
    """Calls nothing anomalous."""

    def learn(self, scores: ScoreDistribution) -> float:
        return float("inf")


class Shifted(Normalizer):
    """Forgets the threshold."""

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        return {"threshold": threshold}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        return scores.sub(learned["threshold"]).sigmoid() * 0.8


class Reversed(Shifted):
    """Takes high for normal."""

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        return (learned["threshold"] - scores).sigmoid()


class Spoiling(Scorer):
    """Works on the maps themselves."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        return maps.sub_(maps.mean()).amax(dim=(1, 2, 3))


class Overwriting(MinMax):
    """Works on the scores themselves."""

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        return scores.copy_(super().apply(scores, learned))


class Remembering(MinMax):
    """Keeps what it learned instead of giving it."""

    def __init__(self) -> None:
        self.learned: dict[float, dict[str, float]] = {}

    def learn(self, scores: ScoreDistribution, threshold: float) -> dict[str, float]:
        self.learned[threshold] = super().learn(scores, threshold)
        return {"threshold": threshold}

    def apply(self, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
        return super().apply(scores, self.learned[learned["threshold"]])


class Comparing(SeamSmoother):
    """Divides by the highest pixel of the batch."""

    def smooth(self, maps: torch.Tensor, grid: TileGrid) -> torch.Tensor:
        return maps / maps.max()


class Counting(Scorer):
    """Adds the number of batches so far."""

    batches = 0

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        self.batches += 1
        return tile_scores.amax(dim=0) + self.batches


def listen(monkeypatch: pytest.MonkeyPatch, stage: object, method: str, told: Callable[[], None]) -> None:
    """Have it told whenever a stage is asked."""
    asked = getattr(type(stage), method)

    def answer(*given: object, **named: object) -> object:
        told()
        return asked(*given, **named)

    monkeypatch.setattr(type(stage), method, answer)


@pytest.mark.parametrize(("normalize_at", "threshold_at"), PLACES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"merger": Hann(), "scorer": TopK()}, {"merger": Max(), "smoother": None, "thresholder": ManualThreshold(30)}],
)
def test_what_is_built_in_is_tried_and_passes(
    normalize_at: str, threshold_at: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = replace(STAGES, normalize_at=normalize_at, threshold_at=threshold_at, **changes)
    asked = {"merger": "finish", "scorer": "score", "smoother": "smooth", "normalizer": "apply", "thresholder": "learn"}
    expected = {field for field in asked if getattr(stages, field) is not None}
    tried = set()
    for field in expected:
        listen(monkeypatch, getattr(stages, field), asked[field], partial(tried.add, field))
    check_stages(stages, deepcopy(stages))
    assert tried == expected - ({"normalizer"} if normalize_at == "none" else set())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"smoother": Cropping()},
            r"^seam_smoothing Cropping .* must return floats of shape \(6, 1, 48, 40\), but ret",
        ),
        ({"scorer": Listing()}, r"^scoring Listing .* must return floats of shape \(6,\), but returned list"),
        ({"merger": Raising()}, r"^merging Raising .* failed: IndexError: no room.*Tile: r02_c01\."),
        ({"thresholder": Endless()}, r"^thresholding Endless .* must learn finite numbers"),
        (
            {"normalizer": Shifted()},
            r"^normalization Shifted .* must bring the threshold to 0.5, but brings it to 0.4",
        ),
        ({"normalizer": Reversed()}, r"^normalization Reversed .* must keep the order of scores"),
        ({"normalizer": Overwriting()}, r"^normalization Overwriting .* must not change its inputs"),
        ({"scorer": Spoiling()}, r"^scoring Spoiling .* must not change its inputs, but does. Let it return"),
    ],
)
@pytest.mark.parametrize("place", ["tile", "image"])
def test_a_stage_that_breaks_its_contract_is_found(changes: dict[str, object], message: str, place: str) -> None:
    with pytest.raises(StageError, match=message) as caught:
        check_stages(replace(STAGES, normalize_at=place, threshold_at=place, **changes))
    assert str(caught.value).endswith("(Tried on made-up images of 48 x 40 pixels, before any training.)")


def test_a_stage_that_fails_for_one_tile_is_named_with_the_tile() -> None:
    with pytest.raises(StageError, match=r"thresholding Endless .* Tile: r00_c00\."):
        check_stages(replace(STAGES, threshold_at="tile", thresholder=Endless()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": Remembering()}, r"^normalization Remembering .* failed: KeyError: "),
        ({"smoother": Comparing()}, r"^seam_smoothing Comparing \S+ of no installed package\) must predict an image"),
        (
            {"scorer": Counting()},
            r"^scoring Counting .* alike in every batch and every command, but predictions differ by ",
        ),
    ],
)
def test_a_stage_that_keeps_what_it_has_seen_is_found(changes: dict[str, object], message: str) -> None:
    stages = replace(STAGES, **changes)
    with pytest.raises(StageError, match=message):
        check_stages(stages, deepcopy(stages))


class Relative(Scorer):
    """Compares with the highest score so far."""

    def __init__(self) -> None:
        self.highest = 0.0

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        self.highest = max(self.highest, float(tile_scores.max()))
        return tile_scores.amax(dim=0) / self.highest


def test_a_stage_that_knows_the_brightest_image_from_the_first_batch_on_is_found() -> None:
    made = [replace(STAGES, scorer=Relative()) for _ in range(3)]
    check_stages(*made[:2])
    with pytest.raises(StageError, match=r"^scoring Relative .* alike in every batch and every command"):
        check_stages(*(replace(STAGES, scorer=Relative()) for _ in range(3)))


def test_the_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    check_stages(STAGES)
    assert torch.equal(torch.get_rng_state(), before)
