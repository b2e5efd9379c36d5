"""The names of a run's files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from anomalib_tiled.system.temporary import temporary_name

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.grid import Tile


def shared_name(checksum: str) -> str:
    """Name the file of weights that tiles share after its SHA-256 checksum."""
    return f"shared-{checksum}.ckpt"


def checksum_named(path: Path) -> str:
    """Give the checksum in the name of such a file."""
    return path.stem.removeprefix("shared-")


SHARED_FILES = shared_name("*")
"""Pattern of such names."""


@cache
def _exchange_of(process: int) -> str:
    """Name the folder of a process for its exchange with places: several commands may use a run at the same time."""
    del process  # key of the cache: a copy of this process needs a folder of its own
    return temporary_name("workers")


CHECKPOINT, RECORD = ".ckpt", ".json"
"""What the names of the checkpoint of a tile and of its record end with, after the name of the tile."""

FAILURE, LEFT_OUT, RETRAIN, CLAIM = ".failed.json", ".left_out.json", ".again", ".claim"
"""The same of a failed training, a location without a model, a request to train a tile again, and a try at training."""


@dataclass(frozen=True)
class RunFiles:
    """Names of the files of a run.

    Args:
        path: The folder; the ``ckpt_dir`` of later commands.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """The effective configuration."""
        return self.path / "config.yaml"

    @property
    def split_file(self) -> Path:
        """Which image is used for what."""
        return self.path / "split.csv"

    @property
    def split_table_file(self) -> Path:
        """The same in a form that opens without parsing; made again if it is missing."""
        return self.path / "split.table"

    @property
    def alignment_file(self) -> Path:
        """Where the part lies in each image of the split, for people."""
        return self.path / "alignment.csv"

    @property
    def transforms_file(self) -> Path:
        """The transform of each image of the split; only of runs that align images."""
        return self.path / "alignment.npy"

    @property
    def reference_image(self) -> Path:
        """The image that the aligner has learned."""
        return self.path / "reference.png"

    @property
    def reference_file(self) -> Path:
        """The numbers that the aligner has learned."""
        return self.path / "reference.json"

    @property
    def regions_file(self) -> Path:
        """Which pixels are inspected, and the named regions; only if the configuration names some."""
        return self.path / "regions.npz"

    @property
    def regions_picture(self) -> Path:
        """The same as a picture, for people."""
        return self.path / "regions.png"

    @property
    def origins_file(self) -> Path:
        """Which package each class of the configuration came from."""
        return self.path / "origins.json"

    @property
    def checksums_file(self) -> Path:
        """Checksums of split and calibration."""
        return self.path / "seals.json"

    @property
    def groups_file(self) -> Path:
        """Which tiles share a model; there is none if each has its own."""
        return self.path / "groups.json"

    @property
    def trained_on_file(self) -> Path:
        """Fingerprint of the training images."""
        return self.path / "trained_on.json"

    @property
    def trained_on_table(self) -> Path:
        """Sizes, times and checksums of the training images; earlier versions wrote them into `trained_on_file`."""
        return self.path / "trained_on.csv"

    @property
    def calibration_file(self) -> Path:
        """State of the calibrated stages."""
        return self.path / "calibration.json"

    @property
    def precision_changes_file(self) -> Path:
        """How predictions in other precisions differ from those of the run; may be deleted at any time."""
        return self.path / "precision_changes.json"

    @property
    def validation_scores_file(self) -> Path:
        """Scores of normal validation images, to look thresholds up."""
        return self.path / "validation_scores.npz"

    @property
    def drift_reference_file(self) -> Path:
        """How the normal validation images look and score, to compare new images with."""
        return self.path / "drift_reference.npz"

    @property
    def mean_normal_picture(self) -> Path:
        """The mean of the normal validation images, for people."""
        return self.path / "mean_normal.png"

    @property
    def placement_file(self) -> Path:
        """Where parts lie in the training images; only of runs that do not align them, and whose images show parts."""
        return self.path / "placement.npz"

    @property
    def predictions(self) -> Path:
        """Raw predictions of tile models for validation and test images; may be deleted at any time."""
        return self.path / "raw"

    @property
    def exchange(self) -> Path:
        """What this process and places on other machines exchange; gone when its command has ended."""
        return self.path / _exchange_of(os.getpid())

    @property
    def log_file(self) -> Path:
        """Log of the whole run."""
        return self.path / "logs" / "run.log"

    def tile_log(self, tile: Tile) -> Path:
        """Log of one tile's training."""
        return self.path / "logs" / f"{tile.name}.log"

    @property
    def tiles(self) -> Path:
        """Folder of checkpoints and records."""
        return self.path / "tiles"

    def of_tile(self, tile: Tile, ending: str) -> Path:
        """File of a tile in this folder."""
        return self.tiles / f"{tile.name}{ending}"

    def checkpoint(self, tile: Tile) -> Path:
        """Trained model of one tile."""
        return self.of_tile(tile, CHECKPOINT)

    def record_file(self, tile: Tile) -> Path:
        """Record of a trained tile."""
        return self.of_tile(tile, RECORD)

    def failure_file(self, tile: Tile) -> Path:
        """Record of a failed training, with the reason."""
        return self.of_tile(tile, FAILURE)

    def left_out_file(self, tile: Tile) -> Path:
        """Record of a location without a model, with the reason why none can be fitted there."""
        return self.of_tile(tile, LEFT_OUT)

    def retrain_file(self, tile: Tile) -> Path:
        """Request to train a tile again; until then, its model stays."""
        return self.of_tile(tile, RETRAIN)

    def claim_file(self, tile: Tile) -> Path:
        """Which try may store a tile, while it is trained."""
        return self.of_tile(tile, CLAIM)

    @property
    def shared_files(self) -> list[Path]:
        """Weights that tiles share."""
        return sorted(self.tiles.glob(SHARED_FILES))
