"""Pixels that do not count: no score, threshold, label or mask depends on what they show."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.tile_dataset import stacked_hidden
from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.ensemble.raw_prediction import RawPrediction
from anomalib_tiled.ensemble.stored_images import LazyPrediction
from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.ensemble.uninspected import hidden_images
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.thresholds import Threshold, Thresholds
from anomalib_tiled.stages.merging import Gaussian, Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max, Scorer
from anomalib_tiled.stages.seams import GaussianSeams
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold
from anomalib_tiled.training.calibrate import learn
from anomalib_tiled.training.observations import ObserveHere

Make = Callable[[float], AnomalibModule]

WHOLE, HALF = (TileGrid(Size(8, width), Size(4, 4), Size(3, 4)) for width in (24, 12))
STAGES = Stages(Gaussian(), Max(), None, MinMax(), F1AdaptiveThreshold(), "image", "image")
COMBINATIONS = [(first, second) for first in ("tile", "image", "none") for second in ("tile", "image")]

LEFT, RIGHT = np.s_[..., :12], np.s_[..., 12:]
IMAGES = torch.rand(6, 3, 8, 24, generator=torch.Generator().manual_seed(1))
IMAGES[LEFT] *= 0.4
MASKS = torch.zeros(6, 8, 24, dtype=torch.bool)
MASKS[4:, 1:3, 5:7] = True
IMAGES[4:, :, 1:3, 5:7] += 0.6
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])
IGNORED = np.zeros((8, 24), dtype=np.bool_)
IGNORED[RIGHT] = True


class Contrast(Scorer):
    """Needs the maps."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        del tile_scores
        return maps.amax(dim=(1, 2, 3)) - maps.amin(dim=(1, 2, 3))


def ensemble_of(
    grid: TileGrid, stages: Stages, model: AnomalibModule, scope: Scope = EVERYTHING, *, left_out: bool = False
) -> EnsembleModel:
    """Make an ensemble; its right half can be left out, as locations without a pixel that counts are."""
    grid = grid.without([tile.name for tile in grid.locations if tile.column >= 3]) if left_out else grid
    return EnsembleModel(grid, TileModels(lambda _: model), stages=stages, evaluator=False, scope=scope)


def calibrated(
    ensemble: EnsembleModel, images: torch.Tensor, masks: torch.Tensor, **known: torch.Tensor | None
) -> None:
    """Let the stages learn as ``fit`` does."""
    paths = [f"{number}.png" for number in range(len(images))]
    batch = ImageBatch(image=images, gt_mask=masks, gt_label=known.pop("labels"), image_path=paths)
    stream = lambda: [LazyPrediction(batch, partial(ensemble.predict_raw, images, **known))]  # noqa: E731
    ensemble.calibration = learn(ensemble.stages, ObserveHere(ensemble, stream))


def of_both(stages: Stages, model: AnomalibModule, *, left_out: bool = False) -> tuple[EnsembleModel, EnsembleModel]:
    """Make an ensemble that ignores half of each image, and one that sees only the other half, both calibrated."""
    whole = ensemble_of(WHOLE, stages, model, Scope(IGNORED), left_out=left_out)
    half = ensemble_of(HALF, stages, model)
    calibrated(whole, IMAGES, MASKS, labels=LABELS)
    calibrated(half, IMAGES[LEFT], MASKS[LEFT], labels=LABELS)
    return whole, half


def decisions(ensemble: EnsembleModel, images: torch.Tensor, **hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Predict images, and decide by calibrated thresholds, and by one of pixels that all of them exceed."""
    raw = ensemble.predict_raw(images, **hidden)
    found = ensemble.decide(raw)
    other = Thresholds(pixels=Threshold(-1.0, raw=True)).decide(raw, found).pred_mask
    return raw.scores, raw.maps, found.pred_score, found.anomaly_map, found.pred_label, found.pred_mask, other


@pytest.mark.parametrize("scorer", [Max(), Contrast()], ids=["Max", "Contrast"])
@pytest.mark.parametrize(
    ("normalize_at", "threshold_at", "left_out"),
    [*((*each, True) for each in COMBINATIONS), ("image", "image", False)],  # some models have no pixel that counts
)
def test_an_ignored_half_gives_the_numbers_of_an_ensemble_that_does_not_see_it(
    brightness: Make, normalize_at: str, threshold_at: str, scorer: Scorer, *, left_out: bool
) -> None:
    stages = replace(STAGES, normalize_at=normalize_at, threshold_at=threshold_at, scorer=scorer)
    whole, half = of_both(stages, brightness(10.0), left_out=left_out)
    assert whole.calibration.image == half.calibration.image
    assert {name: whole.calibration.tiles[name] for name in half.calibration.tiles} == half.calibration.tiles
    found, expected = decisions(whole, IMAGES), decisions(half, IMAGES[LEFT])
    for name, here, there in zip(("raw scores", "raw maps", "scores", "maps", "labels"), found, expected, strict=False):
        assert torch.equal(here[LEFT] if here.ndim > 1 else here, there), name
        assert here.ndim == 1 or torch.equal(here[RIGHT], there.amin(dim=(1, 2, 3), keepdim=True).expand(6, 1, 8, 12))
    for here, there in zip(found[5:], expected[5:], strict=True):
        assert torch.equal(here[LEFT], there)
        assert not here[RIGHT].any()
    assert found[6][LEFT].all()


def hidden_at(*places: tuple[int, slice, slice], images: int = 6) -> torch.Tensor:
    """Hide rectangles of some images, given by number, rows and columns."""
    hidden = torch.zeros(images, 1, 8, 24, dtype=torch.bool)
    for number, rows, columns in places:
        hidden[number, 0, rows, columns] = True
    return hidden


def test_what_is_hidden_differs_from_image_to_image(brightness: Make) -> None:
    ensemble = ensemble_of(WHOLE, STAGES, brightness(1.0), Scope(IGNORED))
    hidden = hidden_at((4, slice(1, 3), slice(0, 24)), (5, slice(4, 8), slice(0, 4)))
    alone, raw = ensemble.predict_raw(IMAGES), ensemble.predict_raw(IMAGES, hidden=hidden)
    assert torch.equal(raw.hidden, hidden | torch.from_numpy(IGNORED))
    assert torch.equal(raw.scores[:4], alone.scores[:4])
    visible = IMAGES[4].mean(dim=0)[~raw.hidden[4, 0]]
    assert float(raw.scores[4]) == pytest.approx(float(visible.max())), "its defect is hidden"
    assert torch.equal(raw.scores[5], alone.scores[5]), "its defect is not"
    assert torch.equal(raw.maps[~raw.hidden], alone.maps[~raw.hidden])
    lowest = torch.stack([each[~out].min() for each, out in zip(raw.maps, raw.hidden, strict=True)])
    assert torch.equal(raw.maps.masked_fill(~raw.hidden, 0), raw.hidden * lowest.view(-1, 1, 1, 1))
    assert torch.equal(raw.shown(raw.maps).isnan(), raw.hidden)
    assert torch.equal(raw.shown(raw.maps[:, 0]).isnan(), raw.hidden[:, 0])


def test_scores_of_tiles_are_those_of_their_models_and_a_hidden_tile_has_none(brightness: Make) -> None:
    stages = replace(STAGES, normalize_at="tile", threshold_at="tile")
    ensemble = ensemble_of(WHOLE, stages, brightness(10.0))
    hidden, heard = hidden_at((1, slice(0, 8), slice(20, 24)), (2, slice(4, 8), slice(20, 22))), {}
    calibrated(ensemble, IMAGES, MASKS, labels=LABELS)
    raw = ensemble.predict_raw(IMAGES, lambda tile, each: heard.update({tile.name: each.scores}), hidden=hidden)
    assert list(raw.tiles) == [tile.name for tile in WHOLE.tiles]
    scores = raw.tile_scores()
    assert [name for name in raw.tiles if name not in scores[1]] == [
        tile.name for tile in WHOLE.tiles if tile.column == 5
    ]
    assert all(len(each) == len(WHOLE.tiles) for number, each in enumerate(scores) if number != 1)
    assert scores[2] == {name: float(each[2]) for name, each in heard.items()}, "before any stage"


class Keeping(Scorer):
    """Keeps the tile scores that it gets."""

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        self.seen = tile_scores
        return tile_scores.mean(dim=0)


def test_a_tile_scores_what_counts_and_a_hidden_one_as_low_as_the_others(brightness: Make) -> None:
    scorer, tiles = Keeping(), {}
    hidden = hidden_at((0, slice(0, 4), slice(0, 4)), (1, slice(0, 1), slice(0, 4)), images=3)
    ensemble = ensemble_of(WHOLE, replace(STAGES, scorer=scorer), brightness(1.0))
    ensemble.predict_raw(IMAGES[:3], lambda tile, raw: tiles.update({tile.name: raw}), hidden=hidden)
    own = [IMAGES[:3, :, tile.rows, tile.columns].mean(dim=1) for tile in WHOLE.tiles]
    expected = torch.stack([each.amax(dim=(1, 2)) for each in own])
    expected[0, 1] = own[0][1, 1:].max()
    expected[6, 0] = IMAGES[0, :, 4:7, :4].mean(dim=0).max()  # the tile below shares a row with it
    expected[0, 0] = expected[1:, 0].min()
    torch.testing.assert_close(scorer.seen, expected)
    assert tiles["r00_c01"].hidden is None, "all of its pixels count"
    assert torch.equal(tiles["r00_c00"].hidden, hidden[..., :4, :4])
    assert tiles["r00_c00"].scores[0] == own[0][0].max(), "finite; what counts replaces it"


def test_a_score_without_a_map_stays() -> None:
    prediction = TilePrediction(torch.tensor([1.0, 2.0]), None)
    hidden = torch.tensor([[True, False]]).view(1, 1, 1, 2)
    assert prediction.hiding(hidden).scores.tolist() == [1, 2]
    assert prediction.hiding(None) is prediction


def test_a_hidden_tile_and_hidden_pixels_are_anomalous_in_no_image(brightness: Make) -> None:
    stages = replace(STAGES, normalize_at="tile", threshold_at="tile")
    ensemble = ensemble_of(WHOLE, stages, brightness(1.0))
    calibrated(ensemble, IMAGES, MASKS, labels=LABELS)
    images = torch.zeros(2, 3, 8, 24)
    images[:, :, 0, 0] = 5.0  # only the first tile sees it
    raw = ensemble.predict_raw(images, hidden=hidden_at((0, slice(0, 4), slice(0, 4)), images=2))
    assert raw.labels.tolist() == [False, True]
    assert raw.masks.sum(dim=(1, 2, 3)).tolist() == [0, 1]


def test_tiles_with_ignored_pixels_are_known_without_values_of_tensors(brightness: Make) -> None:
    ensemble = ensemble_of(WHOLE, STAGES, brightness(1.0), Scope(IGNORED))
    assert ensemble.partly_ignored == {tile.name for tile in WHOLE.tiles if tile.column >= 3}
    assert "ignored" not in ensemble.state_dict()


def test_images_whose_defects_are_all_hidden_teach_nothing_about_images() -> None:
    hidden = np.zeros((4, 1, 3), dtype=np.bool_)
    hidden[1:, :, 2] = True
    hidden[3] = True
    masks = np.zeros((4, 1, 3), dtype=np.bool_)
    masks[2, 0, 0] = True
    labels = np.array([True, True, True, False])
    assert hidden_images(labels, masks, hidden).tolist() == [False, True, False, True]
    assert hidden_images(labels, None, hidden).tolist() == [False, False, False, True], "nobody knows where they lie"
    assert hidden_images(labels[1:3], masks[1:3], hidden[:1]).tolist() == [False, False]
    observed, maps = Observed(), torch.arange(12.0).view(4, 1, 1, 3)
    truth = Truth(labels, masks)
    observed.add(torch.arange(4.0), maps, truth, torch.from_numpy(hidden)[:, None])
    scores, pixels = observed.scores.counts(), observed.maps.counts()
    assert (scores.lower.tolist(), scores.anomalous.tolist()) == ([0, 2], [1, 1])
    assert pixels.lower.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert pixels.anomalous.tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_pixels_of_images_are_joined_to_a_batch() -> None:
    nothing, some = np.zeros((2, 3), dtype=np.bool_), np.eye(2, 3, dtype=np.bool_)
    assert stacked_hidden([None, None]) is None
    assert stacked_hidden([None, nothing]) is None, "all pixels count"
    assert torch.equal(stacked_hidden([None, some]), torch.from_numpy(np.stack([nothing, some])[:, None]))


def test_each_process_gets_the_scope_in_few_bytes() -> None:
    ignored = np.zeros((1001, 999), dtype=np.bool_)
    ignored[:300, 200:] = True
    content = pickle.dumps(Scope(ignored))
    assert len(content) < 2000
    assert np.array_equal(pickle.loads(content).ignored, ignored)  # noqa: S301  # from this process
    assert pickle.loads(pickle.dumps(EVERYTHING)).ignored is None  # noqa: S301  # from this process


def test_where_all_pixels_count_nothing_is_hidden(brightness: Make) -> None:
    raw = ensemble_of(WHOLE, STAGES, brightness(1.0)).predict_raw(IMAGES)
    assert raw.hidden is None
    assert raw.shown(raw.maps) is raw.maps
    assert raw.without_unseen(raw.maps) is raw.maps


def test_smoothing_fills_hidden_pixels_again(brightness: Make) -> None:
    ensemble = ensemble_of(WHOLE, replace(STAGES, smoother=GaussianSeams(0.5), merger=Mean()), brightness(1.0))
    raw: RawPrediction = ensemble.predict_raw(IMAGES, hidden=hidden_at((0, slice(3, 5), slice(0, 24))))
    assert torch.equal(raw.maps[0][:, 3:5], raw.maps[0].min().expand(1, 2, 24))
    assert torch.equal(raw.scores[1:], ensemble.predict_raw(IMAGES[1:]).scores)
