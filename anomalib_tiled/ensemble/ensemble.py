"""All tile models and the stages as one anomalib model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib import LearningType
from anomalib.data import Batch, InferenceBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torchvision.transforms.v2 import Resize
from torchvision.transforms.v2.functional import resize

from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.ensemble.batch_lock import BatchLock
from anomalib_tiled.ensemble.calibration import Calibration, Learned, Stages
from anomalib_tiled.ensemble.devices import usual_defaults
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.named_regions import DecidedRegion, NamedRegions
from anomalib_tiled.ensemble.tile_batches import TileBatches
from anomalib_tiled.ensemble.tile_model import TilePrediction
from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.grid import Tile, TileGrid
from anomalib_tiled.stages.contracts import call_stage, errors_naming_stage, with_context
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.thresholding import decided

if TYPE_CHECKING:
    from typing_extensions import Self

    from anomalib_tiled.stages.regions import RegionMap

SMALLEST = 1e-12
"""Avoids a division by zero if a threshold is 0 or 1."""


@dataclass(frozen=True)
class RawPrediction:
    """Predictions for a batch of images before normalization and thresholding of whole images.

    Args:
        scores: Shape (batch,).
        maps: Shape (batch, 1, height, width); each tile filled with its score if the model gives no maps.
        has_maps: Whether the model gives maps.
        labels: Whether a tile is anomalous, shape (batch,); ``None`` unless tiles are thresholded.
        masks: Which pixels are anomalous in a tile, shape of the maps; ``None`` unless tiles are thresholded.
        uninspected: Pixels that no model sees, shape (height, width), which are never anomalous; ``None`` if there are
            none. In the maps they have the lowest score of their image.
        hidden: Pixels that do not count, shape (batch or 1, 1, height, width), which are never anomalous; ``None`` if
            all do. In the maps they have the lowest score of their image, too.
        regions: Score of each named region, by its name, shape (batch,).
    """

    scores: torch.Tensor
    maps: torch.Tensor
    has_maps: bool
    labels: torch.Tensor | None
    masks: torch.Tensor | None
    uninspected: torch.Tensor | None = None
    hidden: torch.Tensor | None = None
    regions: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def without_unseen(self, masks: torch.Tensor) -> torch.Tensor:
        """Remove pixels that no model sees, or that do not count, from masks."""
        unseen = _either(self.uninspected, self.hidden)
        return masks if unseen is None else masks & ~unseen

    def shown(self, maps: torch.Tensor) -> torch.Tensor:
        """Give maps as readers of the results see them: NaN where pixels do not count.

        Args:
            maps: Shape (batch, 1, height, width) or (batch, height, width).
        """
        if self.hidden is None:
            return maps
        return maps.masked_fill(self.hidden.reshape(-1, *maps.shape[1:]).to(maps.device), torch.nan)


class EnsembleModel(AnomalibModule):
    """All tile models and the stages as one model that takes whole images.

    It needs memory for one batch of images and for the models in memory, however many images there are. Threads may
    share it: they predict one after the other, because stages and models work on one batch at a time.

    Args:
        grid: Where the tiles lie.
        tile_models: The trained models.
        stages: Merging, smoothing, scoring, normalization, thresholding.
        calibration: What the stages learned; without it, predictions are raw, without labels and masks.
        evaluator: Measures when anomalib's ``Engine`` tests the ensemble.
        scope: Which pixels count in every image.
    """

    def __init__(  # noqa: PLR0913  # one of them is anomalib's
        self,
        grid: TileGrid,
        tile_models: TileModels,
        *,
        stages: Stages,
        calibration: Calibration | None = None,
        evaluator: Evaluator | bool = True,
        scope: Scope = EVERYTHING,
    ) -> None:
        super().__init__(
            pre_processor=PreProcessor(Resize(list(grid.image_size), antialias=True)),
            post_processor=False,
            evaluator=evaluator,
            visualizer=ImageVisualizer(field_size=(grid.image_size.width, grid.image_size.height)),
        )
        self.grid = grid
        pixels = uninspected_pixels(grid)
        self.uninspected: torch.Tensor | None
        self.register_buffer("uninspected", None if pixels is None else torch.from_numpy(pixels), persistent=False)
        self.scope, ignored = scope, scope.ignored
        self.ignored: torch.Tensor | None
        of_images = None if ignored is None else torch.from_numpy(ignored)[None, None]
        self.register_buffer("ignored", of_images, persistent=False)
        self.partly_ignored = frozenset(
            tile.name for tile in grid.tiles if ignored is not None and ignored[tile.rows, tile.columns].any()
        )
        self.tile_models = tile_models
        self.stages = stages
        self.calibration = calibration
        self.regions = NamedRegions({})
        self.batch_lock = BatchLock()

    def naming(self, regions: RegionMap | None) -> Self:
        """Name regions, each of which gets a score and a label of its own; give the ensemble itself.

        Args:
            regions: The regions; ``None`` if there are none.
        """
        self.regions = NamedRegions({} if regions is None else regions.named).to(self.device)
        return self

    def save_hyperparameters(self, *args: object, **kwargs: object) -> None:
        """Keep nothing: the run folder holds the configuration, and copying tile models would double their memory."""

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """No Trainer argument is needed: the tile models are trained one by one beforehand."""
        return {}

    @property
    def learning_type(self) -> LearningType:
        """Learns from normal images."""
        return LearningType.ONE_CLASS

    def forward(self, batch: torch.Tensor, *args: object, **kwargs: object) -> InferenceBatch:
        """Predict whole images.

        Args:
            batch: Images with values in [0, 1], shape (batch, 3, height, width).
            args: Not used.
            kwargs: Not used.

        Returns:
            Score and label (batch,), anomaly map and mask (batch, 1, image height, image width). Without calibration
            label and mask are ``None``; for a model without anomaly maps the mask is.
        """
        del args, kwargs
        with self.batch_lock:
            return self.decide(self.predict_raw(batch))

    def test_step(self, batch: Batch[Any], batch_idx: int, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Predict a batch of anomalib's ``Engine.test``."""
        del batch_idx, args, kwargs
        return cast("STEP_OUTPUT", batch.update(**self(batch.image)._asdict()))

    def predict_step(self, batch: Batch[Any], batch_idx: int, dataloader_idx: int = 0) -> STEP_OUTPUT:
        """Predict a batch of anomalib's ``Engine.predict``."""
        return self.test_step(batch, batch_idx, dataloader_idx)

    @usual_defaults()
    @torch.inference_mode()
    def predict_raw(
        self,
        images: torch.Tensor,
        on_tile: Callable[[Tile, TilePrediction], None] | None = None,
        *,
        hidden: torch.Tensor | None = None,
    ) -> RawPrediction:
        """Crop, predict, merge, smooth and score; tile stages are applied, image stages are not.

        Args:
            images: Images with values in [0, 1], shape (batch, 3, height, width).
            on_tile: Receives the raw prediction of each tile.
            hidden: As for `join`.
        """
        if images.shape[-2:] != tuple(self.grid.image_size):
            images = resize(images, list(self.grid.image_size), antialias=True)
        batches = TileBatches(self.grid, self.tile_models, images.to(self.device))
        return self.join(images.shape[0], batches.predict, on_tile, hidden=hidden)

    @torch.inference_mode()
    def join(
        self,
        batch: int,
        predict: Callable[[Tile], TilePrediction],
        on_tile: Callable[[Tile, TilePrediction], None] | None = None,
        *,
        hidden: torch.Tensor | None = None,
    ) -> RawPrediction:
        """Merge, smooth and score tile predictions; tile stages are applied, image stages are not.

        Args:
            batch: Number of images.
            predict: Returns the raw prediction of a tile for all images.
            on_tile: Receives the raw prediction of each tile, which knows its hidden pixels.
            hidden: Pixels that do not count, besides those that count in no image, shape (batch, 1, image height,
                image width); ``None`` if there are none.
        """
        with self.batch_lock:
            joiner = TileJoiner(self, batch, hidden)
            for tile in self.grid.tiles:
                raw = joiner.hiding(tile, predict(tile))
                if on_tile is not None:
                    on_tile(tile, raw)
                with with_context(f"Tile: {tile.name}."):
                    joiner.add(tile, raw.to(self.device))
            return joiner.finish()

    def decide(self, raw: RawPrediction) -> InferenceBatch:
        """Normalize and threshold whole images.

        Args:
            raw: Scores (batch,), maps (batch, 1, image height, image width).

        Returns:
            Score and label (batch,), anomaly map and mask (batch, 1, image height, image width), as of ``forward``.
        """
        if self.calibration is None:
            return InferenceBatch(pred_score=raw.scores, anomaly_map=raw.maps, pred_label=None, pred_mask=None)
        scores, maps, labels, masks = raw.scores, raw.maps, raw.labels, raw.masks
        if level := self.calibration.image:
            on_maps = level.maps if raw.has_maps else level.scores
            scores, maps = self._final(scores, level.scores), self._final(maps, on_maps)
            if self.stages.threshold_at == "image":
                image, pixel = self.stages.image_sensitivity, self.stages.pixel_sensitivity
                labels = decided(raw.scores, scores, threshold=level.scores.threshold, sensitivity=image)
                found = decided(raw.maps, maps, threshold=on_maps.threshold, sensitivity=pixel)
                masks = raw.without_unseen(found)
        return InferenceBatch(
            pred_score=scores, anomaly_map=maps, pred_label=labels, pred_mask=masks if raw.has_maps else None
        )

    def decide_regions(self, raw: RawPrediction) -> dict[str, DecidedRegion]:
        """Normalize and threshold named regions.

        Args:
            raw: Their scores, and masks of tiles if tiles are thresholded.

        Returns:
            What is decided about each region, by its name; none without calibration.
        """
        if self.calibration is None:
            return {}
        in_tiles = {} if raw.masks is None else self.regions.touched(raw.masks)
        decisions = {}
        for name, scores in raw.regions.items():
            learned = self.calibration.regions.get(name)
            final = scores if learned is None else self._final(scores, learned)
            if self.stages.threshold_at == "image" and learned is not None:
                sensitivity = self.stages.image_sensitivity
                labels = decided(scores, final, threshold=learned.threshold, sensitivity=sensitivity)
            else:
                labels = in_tiles[name]
            decisions[name] = DecidedRegion(final, labels)
        return decisions

    def _final(self, scores: torch.Tensor, learned: Learned) -> torch.Tensor:
        return final_scores(self.stages, scores, learned)


class TileJoiner:
    """Joins the tile predictions of one batch: call ``hiding``, then ``add`` for each tile, then ``finish``.

    ``hiding`` takes pixels that do not count out of the score of a tile. ``add`` normalizes and thresholds the tile, if
    that is done in tiles. ``finish`` merges, smooths and scores.

    Args:
        ensemble: Stages, grid and calibration.
        batch: Number of images.
        hidden: As for ``EnsembleModel.join``.
    """

    def __init__(self, ensemble: EnsembleModel, batch: int, hidden: torch.Tensor | None = None) -> None:
        self.stages, self.grid = ensemble.stages, ensemble.grid
        self.levels = {} if ensemble.calibration is None else ensemble.calibration.tiles
        self.shape = (batch, 1, *self.grid.image_size)
        self.device = ensemble.device
        self.uninspected, self.partly_ignored = ensemble.uninspected, ensemble.partly_ignored
        self.hidden_differs = hidden is not None
        self.hidden = _either(ensemble.ignored, None if hidden is None else hidden.to(self.device))
        self.unseen = _either(self.uninspected, self.hidden)
        self.regions = ensemble.regions
        self.scores: list[torch.Tensor] = []
        self.absent: list[torch.Tensor | None] = []
        self.labels = torch.zeros(batch, dtype=torch.bool, device=self.device)
        self.masks = torch.zeros(self.shape if self._thresholds_tiles else 0, dtype=torch.bool, device=self.device)
        self.has_maps = True
        with errors_naming_stage(self.stages.merger):
            self.stages.merger.start(self.grid, batch, device=self.device)

    @property
    def _thresholds_tiles(self) -> bool:
        return self.stages.threshold_at == "tile" and bool(self.levels)

    def hiding(self, tile: Tile, raw: TilePrediction) -> TilePrediction:
        """Give the prediction of the pixels of a tile that count."""
        if self.hidden is None:
            return raw
        hidden = self.hidden[..., tile.rows, tile.columns]
        # In a graph, values of tensors are unknown; there, hidden pixels do not differ from image to image.
        some = bool(hidden.any()) if self.hidden_differs else tile.name in self.partly_ignored
        return raw.hiding(hidden) if some else raw

    def add(self, tile: Tile, raw: TilePrediction) -> None:
        """Add the prediction of a tile model: scores (batch,) and maps (batch, 1, tile height, tile width)."""
        absent = None if raw.hidden is None else raw.hidden.flatten(1).all(dim=1)
        self.has_maps = raw.maps is not None
        maps = raw.scores.view(-1, 1, 1, 1).expand(-1, 1, *self.grid.tile_size) if raw.maps is None else raw.maps
        scores = raw.scores
        if level := self.levels.get(tile.name):
            on_maps = level.maps if self.has_maps else level.scores
            raw_maps = maps
            if level.scores.normalization is not None and on_maps.normalization is not None:
                scores = _normalized(self.stages.normalizer, scores, level.scores.normalization)
                maps = _normalized(self.stages.normalizer, maps, on_maps.normalization)
            if self._thresholds_tiles:
                image, pixel = self.stages.image_sensitivity, self.stages.pixel_sensitivity
                masks = decided(raw_maps, maps, threshold=on_maps.threshold, sensitivity=pixel)
                labels = decided(raw.scores, scores, threshold=level.scores.threshold, sensitivity=image)
                self.labels |= labels if absent is None else labels & ~absent
                self._mark(tile, masks if raw.hidden is None else masks & ~raw.hidden)
        self.scores.append(scores)
        self.absent.append(absent)
        with errors_naming_stage(self.stages.merger):
            self.stages.merger.add(tile, maps)

    def _mark(self, tile: Tile, masks: torch.Tensor) -> None:
        """Add the anomalous pixels of a tile; a graph does so without writing into the mask of the image."""
        self.masks[..., tile.rows, tile.columns] |= masks

    def finish(self) -> RawPrediction:
        """Merge, smooth and score."""
        smoother, scorer = self.stages.smoother, self.stages.scorer
        maps = call_stage(self.stages.merger, self._merged, shape=self.shape)
        if smoother is not None and self.has_maps:
            maps = self._filled(call_stage(smoother, smoother.smooth, maps, self.grid, shape=self.shape))
        own_maps = maps if self.has_maps else None
        scores = call_stage(scorer, scorer.score, self._tile_scores(), own_maps, shape=self.shape[:1])
        return RawPrediction(
            scores=scores,
            maps=maps,
            has_maps=self.has_maps,
            labels=self.labels if self._thresholds_tiles else None,
            masks=self.masks if self._thresholds_tiles else None,
            uninspected=self.uninspected,
            hidden=self.hidden,
            regions=self.regions.highest(maps),
        )

    def _tile_scores(self) -> torch.Tensor:
        """Give the scores of tiles, shape (tiles, batch); one that is wholly hidden gets the lowest of the others."""
        scores = torch.stack(self.scores)
        if all(each is None for each in self.absent):
            return scores
        present = torch.zeros_like(self.labels)
        absent = torch.stack([present if each is None else each | present for each in self.absent])
        return with_lowest(scores, absent, dim=(0,))

    def _merged(self) -> torch.Tensor:
        return self._filled(self.stages.merger.finish())

    def _filled(self, maps: torch.Tensor) -> torch.Tensor:
        """Give pixels that no model sees, or that do not count, the lowest score of the other pixels of their image."""
        return maps if self.unseen is None else with_lowest(maps, self.unseen, dim=(1, 2, 3))


def with_lowest(values: torch.Tensor, unseen: torch.Tensor, dim: tuple[int, ...]) -> torch.Tensor:
    """Replace what is not seen by the lowest value of what is seen.

    Args:
        values: Any values.
        unseen: Which of them to replace, of a shape that broadcasts to theirs.
        dim: Dimensions over which the lowest value is taken.
    """
    lowest = values.masked_fill(unseen, torch.inf).amin(dim=dim, keepdim=True)
    return torch.where(unseen, lowest, values)


def _either(first: torch.Tensor | None, second: torch.Tensor | None) -> torch.Tensor | None:
    if first is None or second is None:
        return first if second is None else second
    return first | second


def final_scores(stages: Stages, scores: torch.Tensor, learned: Learned) -> torch.Tensor:
    """Normalize scores or maps with what was learned; move the threshold to 0.5 if they come from normalized tiles.

    Args:
        stages: The stages.
        scores: Scores or maps of any shape.
        learned: What was learned on their scale.
    """
    if learned.normalization is not None:
        return _normalized(stages.normalizer, scores, learned.normalization)
    if stages.normalize_at == "tile":
        return _recentred(scores, learned.threshold)
    return scores


def _normalized(normalizer: Normalizer, scores: torch.Tensor, learned: Mapping[str, float]) -> torch.Tensor:
    return call_stage(normalizer, normalizer.apply, scores, learned, shape=tuple(scores.shape))


def _recentred(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Move the threshold of scores in [0, 1] to 0.5, keeping 0, 1 and the order."""
    below = 0.5 * scores / max(threshold, SMALLEST)
    above = 0.5 + 0.5 * (scores - threshold) / max(1 - threshold, SMALLEST)
    return torch.where(scores > threshold, above, below).clamp(0, 1)
