"""What is noted of a trained tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.system.checksums import Checksum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomalib_tiled.config.settings import Plain


@dataclass(frozen=True)
class TileRecord:
    """What is noted of a trained tile; written last, so its presence means that the tile is done.

    Args:
        seconds: Time that the training took.
        epochs: Epochs that were trained.
        configuration: Fingerprint of the settings that the tile was trained with.
        checkpoint: What the finished checkpoint is like.
        modified: When it was finished, as its file says, in nanoseconds; 0 if that is not known.
        images: Fingerprint of the training images; empty if that is not known.
        threads: Processor threads that it was trained with; ``None`` before that was noted.
    """

    seconds: float
    epochs: int
    configuration: str
    checkpoint: Checksum
    modified: int = 0
    images: str = ""
    threads: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Plain]) -> TileRecord:
        """Read a note."""
        return cls(**{**content, "checkpoint": Checksum(**content["checkpoint"])})
