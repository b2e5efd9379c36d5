"""The names of a run's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    def origins_file(self) -> Path:
        """Which package each class of the configuration came from."""
        return self.path / "origins.json"

    @property
    def checksums_file(self) -> Path:
        """Checksums of split and calibration."""
        return self.path / "seals.json"

    @property
    def trained_on_file(self) -> Path:
        """Sizes, times and checksums of the training images."""
        return self.path / "trained_on.json"

    @property
    def calibration_file(self) -> Path:
        """State of the calibrated stages."""
        return self.path / "calibration.json"

    @property
    def validation_scores_file(self) -> Path:
        """Scores of normal validation images, to look thresholds up."""
        return self.path / "validation_scores.npz"

    @property
    def predictions(self) -> Path:
        """Raw predictions of tile models for validation and test images; may be deleted at any time."""
        return self.path / "raw"

    @property
    def exchange(self) -> Path:
        """What the command and places on other machines exchange; gone when the command has ended."""
        return self.path / "workers"

    @property
    def log_file(self) -> Path:
        """Log of the whole run."""
        return self.path / "logs" / "run.log"

    def tile_log(self, tile: Tile) -> Path:
        """Log of one tile's training."""
        return self.path / "logs" / f"{tile.name}.log"

    def checkpoint(self, tile: Tile) -> Path:
        """Trained model of one tile."""
        return self.path / "tiles" / f"{tile.name}.ckpt"

    def record_file(self, tile: Tile) -> Path:
        """Record of a trained tile."""
        return self.path / "tiles" / f"{tile.name}.json"

    def failure_file(self, tile: Tile) -> Path:
        """Record of a failed training, with the reason."""
        return self.path / "tiles" / f"{tile.name}.failed.json"

    def left_out_file(self, tile: Tile) -> Path:
        """Record of a location without a model, with the reason why none can be fitted there."""
        return self.path / "tiles" / f"{tile.name}.left_out.json"

    def retrain_file(self, tile: Tile) -> Path:
        """Request to train a tile again; until then, its model stays."""
        return self.path / "tiles" / f"{tile.name}.again"

    @property
    def shared_files(self) -> list[Path]:
        """Weights that tiles share."""
        return sorted((self.path / "tiles").glob(SHARED_FILES))
