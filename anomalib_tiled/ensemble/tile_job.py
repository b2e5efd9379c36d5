"""The job of training or predicting tiles: small enough for any process, which need not open the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from anomalib.data import AnomalibDataModule

from anomalib_tiled.data.cache import PixelSource, open_source
from anomalib_tiled.data.split import Split
from anomalib_tiled.data.tile_dataset import TileDataModule
from anomalib_tiled.ensemble.devices import device_of
from anomalib_tiled.ensemble.loaded_models import SavedModels, TileModels
from anomalib_tiled.ensemble.untrained_models import FreshModels
from anomalib_tiled.system.memory import SHARE, pixels_within

if TYPE_CHECKING:
    import torch
    from torchvision.transforms.v2 import Transform

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.grid import Size, Tile, TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder

Purpose = Literal["calibration", "test"]
"""What images are predicted for. Calibration takes those of the subset ``val``, or of ``train`` if it has none."""


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    Args:
        split: Which image is used for what.
        source: Source of the pixels.
        datamodule: Data module of the images, for its name, batch sizes and augmentations; ``split`` replaces its own.
    """

    split: Split
    source: PixelSource
    datamodule: AnomalibDataModule

    @classmethod
    def read(cls, folder: RunFolder, settings: Settings, grid: TileGrid) -> RunData:
        """Read the split of a run, and open its cache if it is filled.

        Raises:
            RunFolderError: The split is missing or has changed.
        """
        content = folder.read(folder.split_file, "It lists the training images: restore it, or fit a new run.")
        split = Split.parse(content, folder.split_file)
        source = open_source(split, grid, settings.cache_directory, build=False)
        return cls(split, source, settings.data.build(AnomalibDataModule))

    def samples(self, purpose: Purpose) -> tuple[Sample, ...]:
        """Give the images to predict."""
        return self.split.subset("test") if purpose == "test" else self.split.calibration_samples

    def augmentations(self, purpose: Purpose) -> Transform | None:
        """Give the augmentations of these images."""
        return self.datamodule.test_augmentations if purpose == "test" else self.datamodule.val_augmentations


@dataclass(frozen=True)
class TileJob:
    """All that training or predicting any tile of a run needs.

    A pickle of it has a few kilobytes, however many images and tiles there are: it refers to the images, and the
    process that it is sent to reads them when it first needs them, once for all tiles.

    Args:
        folder: Where checkpoints, records and logs are written.
        settings: The configuration.
        grid: Where the tiles lie.
        known: The images, in a process that has read them already.
    """

    folder: RunFolder
    settings: Settings
    grid: TileGrid
    known: RunData | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[TileJob], tuple[RunFolder, Settings, TileGrid]]:
        """Pickle without images and models."""
        return TileJob, (self.folder, self.settings, self.grid)

    @cached_property
    def data(self) -> RunData:
        """The images."""
        return self.known or RunData.read(self.folder, self.settings, self.grid)

    @cached_property
    def datamodule(self) -> AnomalibDataModule:
        """The data module, for its augmentations; needs no image."""
        return self.settings.data.build(AnomalibDataModule) if self.known is None else self.known.datamodule

    @cached_property
    def fresh_models(self) -> FreshModels:
        """Untrained models."""
        spec, seed = self.settings.model, self.settings.seed_everything
        return FreshModels(spec, self.grid.tile_size, seed=seed, copied=self.checkpoint_is_complete)

    @cached_property
    def saved_models(self) -> SavedModels:
        """Trained models, from their checkpoints."""
        return SavedModels(self.folder, self.settings.model, self.grid.tile_size, alike=self.checkpoint_is_complete)

    @property
    def checkpoint_is_complete(self) -> bool:
        """Whether checkpoints hold all that a model has learned, so that one object can be reloaded for each tile.

        Tests show this for anomalib's own models. Other models may learn something that a checkpoint does not hold.
        """
        return self.settings.model.class_path.startswith("anomalib.")

    def tile_data(self, tile: Tile) -> TileDataModule:
        """Give the images of one tile location, as models take them."""
        data = self.data
        return TileDataModule(data.source, data.split, grid=self.grid, tile=tile, datamodule=data.datamodule)

    def tile_models(self, *, one_at_a_time: bool = False, share: float = SHARE) -> TileModels:
        """Give the models of the tiles.

        Args:
            one_at_a_time: Whether each model is used only once, so that none is kept in memory.
            share: Share of the machine's free memory that models may use if no budget is set.
        """
        given, saved = self.settings.memory_bytes, self.saved_models
        budget = 0 if one_at_a_time else None if given is None else given // 2  # the other half is for images
        return TileModels(saved.load, budget, saved.reload if self.checkpoint_is_complete else None, share=share)

    def at_once(self, size: Size, pixels: int) -> int:
        """Give the number of images or tiles that are predicted together.

        Args:
            size: Their size.
            pixels: Most pixels that they may have together; a memory budget may allow fewer.
        """
        if (budget := self.settings.memory_bytes) is not None:
            pixels = min(pixels, pixels_within(budget))
        return max(1, min(self.data.datamodule.eval_batch_size, pixels // (size.height * size.width)))

    def device(self, index: int | None = None) -> torch.device:
        """Give the device that Lightning picks for the accelerator of the configuration.

        Args:
            index: Index of the device; ``None`` for the devices of the configuration.

        Raises:
            ConfigurationError: This machine has no such device.
        """
        return device_of({**self.settings.trainer, **({} if index is None else {"devices": [index]})})
