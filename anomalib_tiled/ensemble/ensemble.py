"""All tile models and the stages as one anomalib model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from anomalib_tiled.data.tile_dataset import shrunk_hidden
from anomalib_tiled.ensemble.batch_lock import BatchLock
from anomalib_tiled.ensemble.calibration import Calibration, Learned, Stages
from anomalib_tiled.ensemble.devices import usual_defaults
from anomalib_tiled.ensemble.fusion import Predicted
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.named_regions import DecidedRegion, NamedRegions
from anomalib_tiled.ensemble.raw_prediction import RawPrediction, either, final_scores, normalized, with_lowest
from anomalib_tiled.ensemble.tile_batches import TileBatches
from anomalib_tiled.ensemble.tile_model import TilePrediction, resized
from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.grid import Tile, TileGrid, WholeImage
from anomalib_tiled.stages.contracts import call_stage, errors_naming_stage, with_context
from anomalib_tiled.stages.thresholding import decided

if TYPE_CHECKING:
    from typing_extensions import Self

    from anomalib_tiled.stages.regions import RegionMap


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
        self.ignored_shrunk: torch.Tensor | None
        of_whole = None if of_images is None or grid.shrunk is None else shrunk_hidden(of_images, grid.shrunk)
        self.register_buffer("ignored_shrunk", of_whole, persistent=False)
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
            for tile in self.grid.predicted:
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
    """Joins the predictions of a batch: ``hiding``, then ``add`` for each tile and the whole image, then ``finish``.

    ``hiding`` takes pixels that do not count out of the score of a tile. ``add`` normalizes and thresholds the tile, if
    that is done in tiles. ``finish`` merges, smooths and scores, and joins the result with that of the whole image.

    Args:
        ensemble: Stages, grid and calibration.
        batch: Number of images.
        hidden: As for ``EnsembleModel.join``.
    """

    def __init__(self, ensemble: EnsembleModel, batch: int, hidden: torch.Tensor | None = None) -> None:
        self.stages, self.grid = ensemble.stages, ensemble.grid
        self.levels = {} if ensemble.calibration is None else ensemble.calibration.tiles
        self.branches = None if ensemble.calibration is None else ensemble.calibration.branches
        self.whole: Predicted | None = None
        self.shape = (batch, 1, *self.grid.image_size)
        self.device = ensemble.device
        self.uninspected, self.partly_ignored = ensemble.uninspected, ensemble.partly_ignored
        self.ignored_shrunk, self.hidden_differs = ensemble.ignored_shrunk, hidden is not None
        self.hidden = either(ensemble.ignored, None if hidden is None else hidden.to(self.device))
        self.unseen = either(self.uninspected, self.hidden)
        self.regions = ensemble.regions
        self.raw_scores: dict[str, torch.Tensor] = {}
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
        if isinstance(tile, WholeImage):
            return raw.hiding(shrunk_hidden(self.hidden, tile.shrunk) if self.hidden_differs else self.ignored_shrunk)
        hidden = self.hidden[..., tile.rows, tile.columns]
        # In a graph, values of tensors are unknown; there, hidden pixels do not differ from image to image.
        some = bool(hidden.any()) if self.hidden_differs else tile.name in self.partly_ignored
        return raw.hiding(hidden) if some else raw

    def add(self, tile: Tile, raw: TilePrediction) -> None:
        """Add the prediction of a model: scores (batch,) and maps (batch, 1, tile height, tile width)."""
        absent = _absent(raw)
        self.raw_scores[tile.name] = raw.scores if absent is None else raw.scores.masked_fill(absent, torch.nan)
        if isinstance(tile, WholeImage):
            self._add_whole(tile, raw)
            return
        self.has_maps = raw.maps is not None
        maps = raw.scores.view(-1, 1, 1, 1).expand(-1, 1, *self.grid.tile_size) if raw.maps is None else raw.maps
        scores, maps = self._normalize_and_decide(tile, raw, maps)
        self.scores.append(scores)
        self.absent.append(absent)
        with errors_naming_stage(self.stages.merger):
            self.stages.merger.add(tile, maps)

    def _add_whole(self, tile: Tile, raw: TilePrediction) -> None:
        """Add what the global model predicts; its maps get the size of the images."""
        maps = None if raw.maps is None else resized(raw.maps, self.grid.image_size)
        self.whole = Predicted(raw.scores, maps)
        filled = raw.scores.view(-1, 1, 1, 1).expand(self.shape) if maps is None else maps
        self._normalize_and_decide(tile, TilePrediction(raw.scores, maps, self.hidden), filled)

    def _normalize_and_decide(
        self, tile: Tile, raw: TilePrediction, raw_maps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores, maps = raw.scores, raw_maps
        if level := self.levels.get(tile.name):
            on_maps = level.scores if raw.maps is None else level.maps
            if level.scores.normalization is not None and on_maps.normalization is not None:
                scores = normalized(self.stages.normalizer, scores, level.scores.normalization)
                maps = normalized(self.stages.normalizer, maps, on_maps.normalization)
            if self._thresholds_tiles:
                image, pixel = self.stages.image_sensitivity, self.stages.pixel_sensitivity
                masks = decided(raw_maps, maps, threshold=on_maps.threshold, sensitivity=pixel)
                absent = _absent(raw)
                labels = decided(raw.scores, scores, threshold=level.scores.threshold, sensitivity=image)
                self.labels |= labels if absent is None else labels & ~absent
                self._mark(tile, masks if raw.hidden is None else masks & ~raw.hidden)
        return scores, maps

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
        tiles = RawPrediction(
            scores=scores,
            maps=maps,
            has_maps=self.has_maps,
            labels=self.labels if self._thresholds_tiles else None,
            masks=self.masks if self._thresholds_tiles else None,
            uninspected=self.uninspected,
            hidden=self.hidden,
            whole=self.whole,
            tiles=self.raw_scores,
        )
        fused = self._fused(tiles)
        return replace(fused, regions=self.regions.highest(fused.maps))

    def _fused(self, tiles: RawPrediction) -> RawPrediction:
        """Join what the tiles and what the global model predict, once it is known on which scales they are."""
        if (whole := tiles.whole) is None or self.branches is None or self.stages.global_model is None:
            return tiles
        scores = self.branches.fused_scores(self.stages.global_model, tiles.scores, whole.scores)
        maps = tiles.maps
        if tiles.has_maps:
            maps = self._filled(self.branches.fused_maps(self.stages.global_model, tiles.maps, whole.maps))
        if self.stages.normalize_at == self.stages.threshold_at == "tile":  # this scale is final
            scores, maps = scores.clamp(0, 1), maps.clamp(0, 1)
        return replace(tiles, scores=scores, maps=maps, whole=None)

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


def _absent(tile: TilePrediction) -> torch.Tensor | None:
    """Say in which images a tile is wholly hidden, shape (batch or 1,); ``None`` for none."""
    return None if tile.hidden is None else tile.hidden.flatten(1).all(dim=1)
