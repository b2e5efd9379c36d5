"""The exported modules: a tile model, the stages, and both together, in a form that PyTorch can trace."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING

import torch
from torch import nn
from torchvision.transforms.v2.functional import resize

from anomalib_tiled.data.tile_dataset import CHANNELS
from anomalib_tiled.ensemble.ensemble import EnsembleModel, TileJoiner
from anomalib_tiled.ensemble.tile_model import TilePrediction, traceable_prediction
from anomalib_tiled.errors import ConfigurationError, TiledError
from anomalib_tiled.export.graph_merging import assembled, for_graphs
from anomalib_tiled.grid import WholeImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib.models.components import AnomalibModule

    from anomalib_tiled.grid import Size, Tile

Outputs = dict[str, torch.Tensor]

LONGEST = 300
"""Characters of another package's message that are shown at most."""


@contextmanager
def explaining(template: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Explain errors of other packages in a few lines; errors about memory and TiledErrors are raised unchanged.

    Args:
        template: The message; ``{}`` stands for the reason, which is a sentence.
        passing: Further errors that are raised unchanged.

    Raises:
        ConfigurationError: Another package raised an error.
    """
    passed: tuple[type[Exception], ...] = (MemoryError, torch.OutOfMemoryError, TiledError, *passing)
    try:
        yield
    except passed:
        raise
    except Exception as error:
        raise ConfigurationError(template.format(briefly(error))) from error


def briefly(error: BaseException) -> str:
    """Give the type and the beginning of the message of an error as a sentence."""
    said = shorten(f"{type(error).__name__}: {error}", LONGEST, placeholder=" ...")
    return said if said.endswith(".") else f"{said}."


class TileModule(nn.Module):
    """The model of one tile location.

    Args:
        model: The trained model.
    """

    def __init__(self, model: AnomalibModule) -> None:
        super().__init__()
        self.model = model.requires_grad_(requires_grad=False).eval()

    def forward(self, images: torch.Tensor) -> Outputs:
        """Predict tiles.

        Args:
            images: Tiles with values in [0, 1], or 0 to 255 as integers, shape (batch, 3, height, width).

        Returns:
            ``tile_scores``, shape (batch,), and ``tile_maps``, shape (batch, height, width), if the model gives maps.
        """
        with explaining(
            f"{type(self.model).__name__} cannot be exported: {{}} Its forward must consist of PyTorch operations that "
            "do not depend on the values of tensors. Choose another model, or predict with `anomalib tiled predict`."
        ):
            found = traceable_prediction(self.model, scaled(images))
        return {"tile_scores": found.scores} | ({} if found.maps is None else {"tile_maps": found.maps.squeeze(1)})


class WholeModule(nn.Module):
    """The global model, which takes whole images and shrinks them.

    Shrinking with antialiasing is linear in rows and columns, so two matrices do it in every format.

    Args:
        model: The trained model.
        image: Height and width of the images in pixels.
        shrunk: Height and width that they are shrunk to.
    """

    def __init__(self, model: AnomalibModule, image: Size, shrunk: Size) -> None:
        super().__init__()
        self.tile = TileModule(model)
        self.rows: torch.Tensor
        self.columns: torch.Tensor
        self.register_buffer("rows", _shrinking(image.height, shrunk.height))
        self.register_buffer("columns", _shrinking(image.width, shrunk.width).T.contiguous())

    def forward(self, images: torch.Tensor) -> Outputs:
        """Predict whole images; arguments and outputs are those of `TileModule`, in the size of the shrunk images."""
        # The planes one by one: OpenVINO would join the product with what the model does to each channel, and fail.
        planes = scaled(images).flatten(0, 1)
        small = (self.rows @ planes @ self.columns).reshape(-1, CHANNELS, self.rows.shape[0], self.columns.shape[1])
        outputs: Outputs = self.tile(small)
        return outputs


def _shrinking(length: int, shrunk: int) -> torch.Tensor:
    """Give the matrix that shrinks columns of pixels, shape (shrunk, length)."""
    matrix: torch.Tensor = resize(torch.eye(length)[None], [shrunk, length], antialias=True)[0]
    return matrix


class JoinStages(nn.Module):
    """The stages alone, from tile predictions to those of images.

    Args:
        ensemble: The ensemble whose stages they are.
    """

    def __init__(self, ensemble: EnsembleModel) -> None:
        super().__init__()
        stages = replace(ensemble.stages, merger=for_graphs(ensemble.stages.merger, ensemble.grid))
        self.ensemble = EnsembleModel(
            ensemble.grid,
            ensemble.tile_models,
            stages=stages,
            calibration=ensemble.calibration,
            evaluator=False,
            scope=ensemble.scope,
        )

    def forward(
        self,
        tile_scores: torch.Tensor,
        tile_maps: torch.Tensor | None = None,
        whole_scores: torch.Tensor | None = None,
        whole_maps: torch.Tensor | None = None,
    ) -> Outputs:
        """Merge, smooth, score, normalize and threshold.

        Args:
            tile_scores: Raw scores, shape (batch, tiles).
            tile_maps: Raw anomaly maps, shape (batch, tiles, tile height, tile width); left out if there are none.
            whole_scores: Raw scores of the global model, shape (batch,); left out if there is none.
            whole_maps: Its raw anomaly maps, shape (batch, height, width); left out if there are none.
        """
        predictions = [
            _prediction(tile_scores[:, index], None if tile_maps is None else tile_maps[:, index])
            for index in range(len(self.ensemble.grid.tiles))
        ]
        whole = [] if whole_scores is None else [_prediction(whole_scores, whole_maps)]
        return self.joined([*predictions, *whole])

    def joined(self, predictions: Sequence[TilePrediction]) -> Outputs:
        """Do the same for a list with one prediction for each tile, in the order of the grid, then the whole image."""
        joiner = _GraphJoiner(self.ensemble, predictions[0].scores.shape[0])
        for tile, prediction in zip(self.ensemble.grid.predicted, predictions, strict=True):
            joiner.add(tile, joiner.hiding(tile, prediction))
        result = self.ensemble.decide(joiner.finish())._asdict()
        return {name: values for name, values in result.items() if values is not None}


class WholeImages(nn.Module):
    """Tile models and stages in one.

    Args:
        ensemble: The ensemble.
        tiles: For each tile of the grid a module with the outputs of ``TileModule``; last that of the whole image, if
            there is a global model.
    """

    def __init__(self, ensemble: EnsembleModel, tiles: Sequence[nn.Module]) -> None:
        super().__init__()
        self.tiles = nn.ModuleList(tiles)
        self.joining = JoinStages(ensemble)

    def forward(self, images: torch.Tensor) -> Outputs:
        """Predict whole images.

        Args:
            images: Images with values in [0, 1], or 0 to 255 as integers, shape (batch, 3, height, width).

        Returns:
            ``pred_score`` and ``pred_label``, shape (batch,), ``anomaly_map`` and ``pred_mask``, shape (batch, 1,
            height, width); labels and masks only if the stages have thresholds.
        """
        images = scaled(images)
        grid_tiles = self.joining.ensemble.grid.predicted
        return self.joining.joined(
            [
                _prediction(**model(images[..., tile.rows, tile.columns]))
                for tile, model in zip(grid_tiles, self.tiles, strict=True)
            ]
        )


class _GraphJoiner(TileJoiner):
    """Joins tiles without writing into the masks of the image."""

    def __init__(self, ensemble: EnsembleModel, batch: int) -> None:
        super().__init__(ensemble, batch)
        self._marked: dict[str, torch.Tensor] = {}

    def _mark(self, tile: Tile, masks: torch.Tensor) -> None:
        if isinstance(tile, WholeImage):
            self.masks = self.masks | masks
            return
        self._marked[tile.name] = masks
        if len(self._marked) == len(self.grid.tiles):
            self.masks = assembled(self.grid, self._marked, torch.logical_or)


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Scale 8-bit integers to [0, 1]; return other images unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _prediction(tile_scores: torch.Tensor, tile_maps: torch.Tensor | None = None) -> TilePrediction:
    return TilePrediction(tile_scores, None if tile_maps is None else tile_maps.unsqueeze(1))
