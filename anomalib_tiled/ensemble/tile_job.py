"""The job of training or predicting tiles: small enough for any process, which need not open the run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from socket import gethostname
from typing import TYPE_CHECKING, Literal

from anomalib.data import AnomalibDataModule

from anomalib_tiled.data.cache import DecodedFiles, PixelSource, check_visible, open_source, reopen_cache
from anomalib_tiled.data.part_finder import PartFinder
from anomalib_tiled.data.scope import EVERYTHING, Scope
from anomalib_tiled.data.split import SUBSETS, Split
from anomalib_tiled.data.tile_dataset import TileDataModule
from anomalib_tiled.ensemble.arithmetic import Arithmetic
from anomalib_tiled.ensemble.devices import device_of
from anomalib_tiled.ensemble.loaded_models import SavedModels, TileModels
from anomalib_tiled.ensemble.untrained_models import FreshModels
from anomalib_tiled.errors import DataError
from anomalib_tiled.grid import WholeImage
from anomalib_tiled.runs.run_alignment import read_reference
from anomalib_tiled.runs.run_regions import read_regions
from anomalib_tiled.runs.run_split import open_split, read_split
from anomalib_tiled.stages.alignment import Aligner
from anomalib_tiled.stages.assignment import Assignment
from anomalib_tiled.system.files import is_file
from anomalib_tiled.system.memory import SHARE, pixels_within

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from anomalib.models.components import AnomalibModule
    from torchvision.transforms.v2 import Transform

    from anomalib_tiled.config.settings import ClassSpec, Settings
    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.grid import Size, Tile, TileGrid
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.stages.regions import RegionMap

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
    def read(cls, folder: RunFolder, settings: Settings, grid: TileGrid, scope: Scope = EVERYTHING) -> RunData:
        """Read the split of a run, look at its images, and open its cache if it is filled.

        Args:
            folder: The run folder.
            settings: Its configuration.
            grid: Where the tiles lie.
            scope: Which pixels count.

        Raises:
            RunFolderError: The split is missing or has changed.
        """
        split = read_split(folder)
        source = open_source(split, grid, settings.cache_directory, build=False, scope=scope)
        return cls(split, source, settings.data.build(AnomalibDataModule))

    def samples(self, purpose: Purpose) -> Sequence[Sample]:
        """Give the images to predict."""
        return self.split.subset("test") if purpose == "test" else self.split.calibration_samples

    def augmentations(self, purpose: Purpose) -> Transform | None:
        """Give the augmentations of these images."""
        return self.datamodule.test_augmentations if purpose == "test" else self.datamodule.val_augmentations


def is_complete(model: ClassSpec) -> bool:
    """Whether checkpoints hold all that a model has learned, so that one object can be reloaded for each tile.

    Tests show this for anomalib's own models. Other models may learn something that a checkpoint does not hold.
    """
    return model.class_path.startswith("anomalib.")


@dataclass(frozen=True)
class TileJob:
    """All that training or predicting any tile of a run needs.

    A pickle of it has a few kilobytes, however many images and tiles there are: it refers to the images. The process
    that it is sent to opens them when it first needs them, once for all tiles, in milliseconds: it looks at no image,
    parses no split, and reads of the cache only what belongs to its tiles.

    Args:
        folder: Where checkpoints, records and logs are written.
        settings: The configuration.
        grid: Where the tiles lie.
        known: The images, in a process that has read them already.
        cache: Folder of the image cache, which every process must see; ``None`` if images are decoded on each request.
        image: An image that the command sees, and so must every process; ``None`` if there is a cache, or no image.
        scope: Which pixels count in every image.
        precision: Precision that trained models compute in; ``None`` for that of the configuration.
    """

    folder: RunFolder
    settings: Settings
    grid: TileGrid
    known: RunData | None = field(default=None, repr=False, compare=False)
    cache: Path | None = None
    image: Path | None = None
    scope: Scope = EVERYTHING
    precision: str | None = None

    @classmethod
    def of(cls, folder: RunFolder, settings: Settings, grid: TileGrid, data: RunData) -> TileJob:
        """Give the job of a run that is open here.

        Args:
            folder: As for the job.
            settings: As for the job.
            grid: As for the job.
            data: The images.
        """
        fingerprint, directory, scope = data.source.fingerprint, settings.cache_directory, data.source.scope
        if fingerprint is not None and directory is not None:
            return cls(folder, settings, grid, data, cache=(directory / fingerprint).absolute(), scope=scope)
        first = [sample.image_path for name in SUBSETS for sample in data.split.subset(name)[:1]]
        return cls(folder, settings, grid, data, image=next(filter(is_file, first), None), scope=scope)

    def __reduce__(self) -> tuple[type[TileJob], tuple[object, ...]]:
        """Pickle without images and models."""
        where = self.cache, self.image, self.scope, self.precision
        return TileJob, (self.folder, self.settings, self.grid, None, *where)

    @cached_property
    def data(self) -> RunData:
        """The images.

        Raises:
            RunFolderError: The split is missing or has changed.
            DataError: The image cache is not visible here, or has changed.
        """
        if self.known is not None:
            return self.known
        split = open_split(self.folder)
        if self.cache is None:
            source: PixelSource = DecodedFiles(self.grid.image_size, split.has_masks, self.scope)
        else:
            source = replace(reopen_cache(split, self.grid, self.cache), scope=self.scope)
        return RunData(split, source, self.settings.data.build(AnomalibDataModule))

    def check_data(self) -> None:
        """Check in a moment that this process sees the images: their cache, or one of them if there is none.

        Raises:
            RunFolderError: The split is missing or has changed.
            DataError: The image cache, or the image, is not visible here.
        """
        if self.known is not None:
            return
        open_split(self.folder)
        if self.cache is not None:
            check_visible(self.cache)
        if self.image is not None and not is_file(self.image):
            message = (
                f"Every machine that works on a run must see its images, but {self.image} is not visible from this "
                f"machine, {gethostname()}. Mount the disk that it is on here, too, under the same path."
            )
            raise DataError(message)

    @cached_property
    def finder(self) -> PartFinder | None:
        """Finds the part in images, as the training images have shown it; ``None`` if images are not aligned.

        Raises:
            RunFolderError: What the aligner has learned is missing or has changed.
        """
        spec = self.settings.stages.get("alignment")
        if spec is None:
            return None
        return PartFinder(spec.build(Aligner), read_reference(self.folder), self.grid.image_size)

    @cached_property
    def regions(self) -> RegionMap | None:
        """The regions, from the run folder; ``None`` if there are none."""
        return read_regions(self.folder, self.settings)

    @cached_property
    def datamodule(self) -> AnomalibDataModule:
        """The data module, for its augmentations; needs no image."""
        return self.settings.data.build(AnomalibDataModule) if self.known is None else self.known.datamodule

    @cached_property
    def fresh_models(self) -> FreshModels:
        """Untrained models of tiles."""
        return self._fresh(self.settings.model, self.grid.tile_size, copied=self.checkpoint_is_complete)

    @cached_property
    def saved_models(self) -> SavedModels:
        """Trained models of tiles, from their checkpoints."""
        return self._saved(self.settings.model, self.grid.tile_size, alike=self.checkpoint_is_complete)

    def fresh_models_of(self, tile: Tile) -> FreshModels:
        """Give the untrained models of a tile, or of the whole image."""
        if not isinstance(tile, WholeImage):
            return self.fresh_models
        return self._fresh(self.settings.model_of(tile), tile.size, copied=False)

    def saved_models_of(self, tile: Tile) -> SavedModels:
        """Give the trained models of a tile, or of the whole image."""
        if not isinstance(tile, WholeImage):
            return self.saved_models
        return self._saved(self.settings.model_of(tile), tile.size, alike=False)

    def _fresh(self, spec: ClassSpec, size: Size, *, copied: bool) -> FreshModels:
        arithmetic = Arithmetic(self.settings.accelerate, self.settings.precision)
        return FreshModels(spec, size, seed=self.settings.seed_everything, copied=copied, arithmetic=arithmetic)

    def _saved(self, spec: ClassSpec, size: Size, *, alike: bool) -> SavedModels:
        arithmetic = Arithmetic(self.settings.accelerate, self.predicts_in)
        return SavedModels(self.folder, spec, size, alike=alike, arithmetic=arithmetic)

    @property
    def predicts_in(self) -> str:
        """The precision that trained models compute in."""
        return self.precision or self.settings.precision

    @property
    def checkpoint_is_complete(self) -> bool:
        """Whether the checkpoints of tiles hold all that a model has learned."""
        return is_complete(self.settings.model)

    def load(self, tile: Tile) -> AnomalibModule:
        """Load the model of a tile, or of the whole image; errors are those of `SavedModels.load`."""
        return self.saved_models_of(tile).load(tile)

    def tile_data(self, tile: Tile) -> TileDataModule:
        """Give the images of one tile location, or of those that share its model, as models take them."""
        data = self.data
        module = TileDataModule(data.source, data.split, grid=self.grid, tile=tile, datamodule=data.datamodule)
        assignment = self.settings.stages["assignment"].build(Assignment)
        if assignment.tiles_per_image is not None:
            module.learn_from(assignment.tiles_per_image, seed=self.settings.seed_everything)
        return module

    def tile_models(self, *, one_at_a_time: bool = False, share: float = SHARE) -> TileModels:
        """Give the models of the tiles.

        Args:
            one_at_a_time: Whether each model is used only once, so that none is kept in memory.
            share: Share of the machine's free memory that models may use if no budget is set.
        """
        given, saved = self.settings.memory_bytes, self.saved_models
        budget = 0 if one_at_a_time else None if given is None else given // 2  # the other half is for images
        reload = saved.reload if self.checkpoint_is_complete else None
        return TileModels(self.load, budget, reload, share=share)

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
