"""Stage check: every chosen stage is tried on made-up images before training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from anomalib.data import ImageBatch, InferenceBatch

from anomalib_tiled.ensemble.calibration import Calibration, Learned
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.stored_images import LazyPrediction
from anomalib_tiled.errors import StageError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.contracts import call_stage, name_of
from anomalib_tiled.training.calibrate import learn
from anomalib_tiled.training.observations import ObserveHere

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.ensemble.calibration import Stages
    from anomalib_tiled.stages.scoring import Scorer

GRID = TileGrid(Size(48, 40), Size(24, 24), Size(16, 16))
"""Small, but with overlapping tiles, and with last tiles that were moved back to the border."""

SHRUNK = Size(24, 20)
"""Size of the image as the global model sees it."""

IMAGES = 6
TOLERANCE = 0.01
"""How far from 0.5 a normalized threshold may lie, and how far predictions of one image may differ."""

MOST = 0.6
"""Share of the images whose scores must agree."""


def check_stages(stages: Stages, *anew: Stages) -> None:
    """Calibrate the stages on made-up images, predict these, and check the result of every stage.

    Args:
        stages: The stages of a configuration.
        anew: New objects of the same stages, as every later command makes them; with the calibration of ``stages`` they
            must predict the same, in one batch or one by one.

    Raises:
        StageError: A stage raises, or breaks its contract.
    """
    batch, grid = _images(), GRID if stages.global_model is None else replace(GRID, shrunk=SHRUNK)
    images = cast("torch.Tensor", batch.image)
    models = TileModels(lambda _: cast("AnomalibModule", _Brightness()))
    ensemble = EnsembleModel(grid, models, stages=stages, calibration=Calibration(), evaluator=False)
    try:
        observe = ObserveHere(ensemble, lambda: [LazyPrediction(batch, partial(ensemble.predict_raw, images))])
        calibration = learn(stages, observe)
        for level in (calibration.image, *calibration.tiles.values()):
            for scale in () if level is None else (level.scores, level.maps):
                _check_centred(stages, scale)
        ensemble.calibration = calibration
        predicted = ensemble(images)
        _check_scorer(stages.scorer, images)
        if stages.global_model is not None:
            maps = images.mean(dim=1, keepdim=True)
            _call_unchanging(stages.global_model, stages.global_model.fuse, maps, maps.flip(0), shape=tuple(maps.shape))
        together, apart = (images,), images.split(1)
        for made, orders in zip(anew, ((together, apart), (apart,)), strict=False):
            later = EnsembleModel(grid, models, stages=made, calibration=calibration, evaluator=False)
            for batches in orders:
                _check_alike(predicted, [later(batch) for batch in batches], made)
    except StageError as error:
        message = f"{error} (Tried on made-up images of {GRID.image_size} pixels, before any training.)"
        raise StageError(message) from error


class _Brightness(torch.nn.Module):
    """Stands in for a tile model: bright pixels are anomalous."""

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = images.mean(dim=1, keepdim=True)
        return InferenceBatch(pred_score=maps.amax(dim=(1, 2, 3)), anomaly_map=maps, pred_label=None, pred_mask=None)


def _images() -> ImageBatch:
    """Make noise; the second half of the images has a bright defect that covers a seam."""
    generator = torch.Generator().manual_seed(0)  # does not touch the generators that training draws from
    images = 0.5 * torch.rand((IMAGES, 3, *GRID.image_size), generator=generator)
    masks = torch.zeros((IMAGES, *GRID.image_size), dtype=torch.bool)
    masks[IMAGES // 2 :, 10:20, 12:20] = True
    images += 0.4 * masks[:, None]
    return ImageBatch(image=images, gt_mask=masks, gt_label=masks.any(dim=2).any(dim=1))


def _check_centred(stages: Stages, scale: Learned) -> None:
    """Check that a normalizer maps the threshold to 0.5, and keeps the order of scores."""
    if scale.normalization is None:
        return
    around = scale.threshold + torch.linspace(-0.1, 0.1, 5)
    normalized = _call_unchanging(stages.normalizer, stages.normalizer.apply, around, scale.normalization, shape=(5,))
    if abs(centre := float(normalized[2]) - 0.5) > TOLERANCE:
        message = f"{name_of(stages.normalizer)} must bring the threshold to 0.5, but brings it to {0.5 + centre:.3f}."
        raise StageError(message)
    if (normalized.diff() < 0).any():
        message = f"{name_of(stages.normalizer)} must keep the order of scores, but gives {normalized.tolist()}."
        raise StageError(message)


def _check_scorer(scorer: Scorer, images: torch.Tensor) -> None:
    """Check that a scorer does not change the maps, from which masks and pictures are made next."""
    maps = images.mean(dim=1, keepdim=True)
    tile_scores = torch.stack([maps[..., tile.rows, tile.columns].amax(dim=(1, 2, 3)) for tile in GRID.tiles])
    _call_unchanging(scorer, scorer.score, tile_scores, maps, shape=(len(images),))


def _call_unchanging(
    stage: object, method: Callable[..., torch.Tensor], given: torch.Tensor, *others: object, shape: tuple[int, ...]
) -> torch.Tensor:
    """Call a stage, and check that it does not change its inputs, which other stages read too."""
    tensors = [each for each in (given, *others) if isinstance(each, torch.Tensor)]
    before = [each.clone() for each in tensors]
    result = call_stage(stage, method, given, *others, shape=shape)
    if not all(map(torch.equal, tensors, before)):
        message = f"{name_of(stage)} must not change its inputs, but does. Let it return a new tensor."
        raise StageError(message)
    return result


def _check_alike(learned: InferenceBatch, anew: Sequence[InferenceBatch], stages: Stages) -> None:
    """Check that calibrated stages and new ones predict the same, in one batch or several."""
    (scores, maps), (own_scores, own_maps) = _joined([learned]), _joined(anew)
    # Not the largest difference: a normalizer may have steps, and a single score may lie on the other side of one.
    most = (scores - own_scores).abs().quantile(MOST)
    apart = max(float(most), float((maps - own_maps).abs().mean()))
    if apart > TOLERANCE:
        used = (stages.merger, stages.smoother, stages.scorer, stages.normalizer)
        names = " and ".join(name_of(each) for each in used if each is not None and _is_foreign(each))
        message = (
            f"{names or 'The stages'} must predict an image alike in every batch and every command, but predictions "
            f"differ by {apart:.3g}. Keep nothing of other images, and only return from learn what it has learned."
        )
        raise StageError(message)


def _joined(predictions: Sequence[InferenceBatch]) -> tuple[torch.Tensor, torch.Tensor]:
    scores = [each.pred_score for each in predictions if each.pred_score is not None]
    maps = [each.anomaly_map for each in predictions if each.anomaly_map is not None]
    return torch.cat(scores), torch.cat(maps)


def _is_foreign(stage: object) -> bool:
    return not type(stage).__module__.startswith("anomalib_tiled.")
