"""A run: its folder, and all that commands read from it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from anomalib.data import AnomalibDataModule

from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.cache import PixelSource, open_source
from anomalib_tiled.data.datamodule import check_numbers, split_once
from anomalib_tiled.data.images import common_size
from anomalib_tiled.data.split import Split
from anomalib_tiled.data.tile_dataset import Images
from anomalib_tiled.data.unlabelled_images import NewImages, TrainedOn
from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.devices import device_named, device_of
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.tile_model import class_of, load_tile_model, reload_tile_model
from anomalib_tiled.ensemble.uninspected import left_out_note
from anomalib_tiled.ensemble.untrained_models import FreshModels
from anomalib_tiled.ensemble.validation_scores import ValidationScores
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.checkpoints import Restorer, read_checkpoint
from anomalib_tiled.runs.package_versions import changed_origins
from anomalib_tiled.runs.run_folder import USE_ANYWAY
from anomalib_tiled.runs.verified_checkpoints import VerifiedCheckpoints
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.limits import available_memory
from anomalib_tiled.system.memory import SHARE, SHARE_ALONE, pixels_within, too_large

if TYPE_CHECKING:
    from collections.abc import Callable

    from anomalib.models.components import AnomalibModule
    from torchvision.transforms.v2 import Transform

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.split import Sample, Subset
    from anomalib_tiled.grid import Size, Tile, TileGrid
    from anomalib_tiled.runs.checkpoints import Checkpoint
    from anomalib_tiled.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

AUTO = "auto"
"""The device of the run's configuration."""

PIXELS_AT_ONCE = 2**22
"""Most pixels in a batch of images: it bounds the memory even if the batch size of the data module is large."""


@dataclass(frozen=True)
class Run:
    """An open run: all that the commands work with.

    Args:
        folder: The run folder.
        settings: Its configuration.
        grid: Where the tiles lie.
        split: Which image is used for what.
        source: Source of the pixels.
        datamodule: Data module of the images, for its name, batch sizes and augmentations; ``split`` replaces its own.
    """

    folder: RunFolder
    settings: Settings
    grid: TileGrid
    split: Split
    source: PixelSource
    datamodule: AnomalibDataModule

    @classmethod
    def open(cls, folder: RunFolder, *, build_cache: bool = False) -> Run:
        """Read a run folder.

        Args:
            folder: The run folder.
            build_cache: Whether to decode all images first, which is faster if they are read more than once.

        Raises:
            RunFolderError: A file of it is missing or has changed, or a package that it was made with is not installed.
            DataError: An image cannot be decoded.
            StorageError: The cache does not fit on the disk.
        """
        for note in changed_origins(folder.origins()):
            logger.warning("%s", note)
        settings = folder.settings()
        folder.check(folder.split_file, "It lists the training images: restore it, or fit a new run.")
        split, grid = Split.read(folder.split_file), grid_of(settings.tiling)
        grid = grid.without(folder.left_out(grid))
        source = open_source(split, grid, settings.cache_directory, build=build_cache)
        return cls(folder, settings, grid, split, source, settings.data.build(AnomalibDataModule))

    def __reduce__(self) -> tuple[Callable[[RunFolder], Run], tuple[RunFolder]]:
        """Pickle the name of the folder only, which holds everything."""
        return Run.open, (self.folder,)

    def without_left_out(self) -> Run:
        """Give the same run without the tiles that its training has left out."""
        return replace(self, grid=self.grid.without(self.folder.left_out(self.grid)))

    def with_images_of(self, datamodule: AnomalibDataModule) -> Run:
        """Give the same run with the images of another data module."""
        check_numbers(datamodule)
        split = split_once(datamodule, for_training=False)
        common_size(split, self.grid.image_size)
        source = open_source(split, self.grid, None)
        return replace(self, split=split, source=source, datamodule=datamodule)

    @property
    def batch_size(self) -> int:
        """Number of images that are predicted together: as many as memory allows for their size."""
        pixels = PIXELS_AT_ONCE
        if self.settings.memory_bytes is None:
            pixels = min(pixels, pixels_within(int(self._free_memory * SHARE_ALONE)))
        return self.at_once(self.grid.image_size, pixels)

    @cached_property
    def _free_memory(self) -> int:
        """Free memory in bytes, measured once, so that the batch size does not change."""
        return available_memory()

    def memory_remark(self) -> str | None:
        """Give a warning if a single image probably needs more memory than is free; ``None`` if it does not."""
        return too_large(self.grid.image_size, self._free_memory)

    def at_once(self, size: Size, pixels: int) -> int:
        """Give the number of images or tiles that are predicted together.

        Args:
            size: Their size.
            pixels: Most pixels that they may have together; a memory budget may allow fewer.
        """
        if (budget := self.settings.memory_bytes) is not None:
            pixels = min(pixels, pixels_within(budget))
        return max(1, min(self.datamodule.eval_batch_size, pixels // (size.height * size.width)))

    def images(self, subset: Subset) -> Images:
        """Give the images of a subset."""
        augmentations = self.datamodule.test_augmentations if subset == "test" else self.datamodule.val_augmentations
        return self._images(self.split.subset(subset), augmentations)

    def calibration_images(self) -> Images:
        """Give the images that stages learn from."""
        return self._images(self.split.calibration_samples, self.datamodule.val_augmentations)

    def _images(self, samples: tuple[Sample, ...], augmentations: Transform | None) -> Images:
        return Images(self.source, samples, self.grid, self.batch_size, augmentations)

    def new_images(self, report: Callable[[str], None]) -> NewImages:
        """Read images that belong to no data set in the same way as test images.

        Args:
            report: Receives one line about the first image whose shape differs from the training images.
        """
        return NewImages(
            self.grid,
            self.batch_size,
            augmentations=self.datamodule.test_augmentations,
            trained_on=TrainedOn.of(self.split, self.grid.image_size),
            report=report,
        )

    def ensemble(
        self, calibration: Calibration | None = None, device: str = AUTO, *, share: float = SHARE
    ) -> EnsembleModel:
        """Load the tile models and stages as one model.

        Args:
            calibration: What the stages learned; left out while they are learning.
            device: Where to predict, such as ``cpu`` or ``cuda:1``; ``auto`` for the device of the configuration.
            share: Share of the machine's free memory that models may use if no budget is set.

        Raises:
            RunFolderError: Tiles are missing.
        """
        self.check_tiles()
        ensemble = EnsembleModel(
            self.grid,
            self.tile_models(share=share),
            stages=Stages.build(self.settings),
            calibration=calibration,
            evaluator=False,
        )
        return ensemble.to(self.device() if device == AUTO else device_named(device)).eval()

    def calibrated_ensemble(self, device: str = AUTO, *, share: float = SHARE) -> EnsembleModel:
        """Load the ensemble with what its stages learned.

        Args:
            device: As for `ensemble`.
            share: As for `ensemble`.

        Raises:
            RunFolderError: Tiles or the calibration are missing.
            ConfigurationError: There is no such device.
        """
        self.check_tiles()
        path = self.folder.path
        self.folder.check(self.folder.calibration_file, f"Calibrate: `anomalib tiled fit --ckpt_dir {path}`.")
        learned = read_json(self.folder.calibration_file)
        if learned.get("configuration") != self.settings.calibration_hash and not self.folder.allow_altered:
            message = (
                f"{path} was calibrated with another configuration than its config.yaml. "
                f"Restore config.yaml, or calibrate again: `anomalib tiled fit --ckpt_dir {path}`. {USE_ANYWAY}"
            )
            raise RunFolderError(message)
        return self.ensemble(Calibration.from_json(learned), device, share=share)

    def validation_scores(self) -> ValidationScores | None:
        """Read the scores of normal validation images; ``None`` if the run keeps none."""
        path = self.folder.validation_scores_file
        advice = f"Calibrate: `anomalib tiled fit --ckpt_dir {self.folder.path}`."
        if path.is_file() and not self.folder.allow_altered and path.name in self.folder.checksums():
            self.folder.check(path, advice)
        scores = ValidationScores.read(path)
        if (
            scores is not None
            and scores.configuration != self.settings.calibration_hash
            and not self.folder.allow_altered
        ):
            advice = f"Calibrate: `anomalib tiled fit --ckpt_dir {self.folder.path}`. {USE_ANYWAY}"
            message = f"{path} belongs to another configuration. {advice}"
            raise RunFolderError(message)
        return scores

    def check_tiles(self) -> None:
        """Check that all tiles are trained.

        Raises:
            RunFolderError: Some are not.
        """
        if missing := self.folder.missing(self.grid):
            names, path = ", ".join(tile.name for tile in missing), self.folder.path
            message = f"{path} lacks {len(missing)} tiles: {names}. Train them: `anomalib tiled fit --ckpt_dir {path}`."
            raise RunFolderError(message)

    def left_out_note(self) -> str | None:
        """Say which locations have no model; ``None`` if every location has one."""
        return left_out_note(self.grid, self.folder.left_out(self.grid))

    def check_changed(self) -> None:
        """Compare the checkpoints that may have changed to their checksums, so that an error comes at once.

        Raises:
            RunFolderError: A checkpoint has changed, and that is not allowed.
        """
        self._trusted.check_changed(self.grid.tiles)

    def tile_models(self, *, one_at_a_time: bool = False, share: float = SHARE) -> TileModels:
        """Give the models of the tiles.

        Args:
            one_at_a_time: Whether each model is used only once, so that none is kept in memory.
            share: As for `ensemble`.
        """
        given = self.settings.memory_bytes
        budget = 0 if one_at_a_time else None if given is None else given // 2  # the other half is for images
        reload = self._reload_tile if self.checkpoint_is_complete else None
        return TileModels(self._load_tile, budget, reload, share=share)

    @cached_property
    def fresh_models(self) -> FreshModels:
        """Untrained models for the tiles."""
        spec, seed = self.settings.model, self.settings.seed_everything
        return FreshModels(spec, self.grid.tile_size, seed=seed, copied=self.checkpoint_is_complete)

    @property
    def checkpoint_is_complete(self) -> bool:
        """Whether checkpoints hold all that a model has learned, so that one object can be reloaded for each tile.

        Tests show this for anomalib's own models. Other models may learn something that a checkpoint does not hold.
        """
        return self.settings.model.class_path.startswith("anomalib.")

    def _load_tile(self, tile: Tile) -> AnomalibModule:
        with self._trusted.of(tile) as checkpoint:
            if not self.checkpoint_is_complete:
                return load_tile_model(self.settings.model, self.grid.tile_size, checkpoint)
            with torch.inference_mode(mode=False):  # so that it can be reloaded in any mode
                model = load_tile_model(self.settings.model, self.grid.tile_size, checkpoint)
            reload_tile_model(model, self.grid.tile_size, checkpoint, self._restorer)  # shares equal weights
            return model

    def _reload_tile(self, model: AnomalibModule, tile: Tile) -> None:
        with self._trusted.of(tile) as checkpoint:
            reload_tile_model(model, self.grid.tile_size, checkpoint, self._restorer)

    def whole_checkpoint(self, tile: Tile) -> Checkpoint:
        """Read the checkpoint of a tile, with the weights that it shares with other tiles.

        Raises:
            RunFolderError: The checkpoint is missing, or has changed.
        """
        model_class = class_of(self.settings.model)
        with self._trusted.of(tile) as checkpoint:
            return read_checkpoint(checkpoint, model_class)

    @cached_property
    def _restorer(self) -> Restorer:
        return Restorer()

    @cached_property
    def _trusted(self) -> VerifiedCheckpoints:
        return VerifiedCheckpoints(self.folder)

    def device(self, index: int | None = None) -> torch.device:
        """Give the device that Lightning picks for the accelerator of the configuration.

        Args:
            index: Index of the device; ``None`` for the devices of the configuration.
        """
        return device_of({**self.settings.trainer, **({} if index is None else {"devices": [index]})})
