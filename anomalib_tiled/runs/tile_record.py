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
    """Record of a trained tile; written last, so its presence means that the tile is done.

    Args:
        seconds: Duration of the training.
        epochs: Number of epochs.
        configuration: Fingerprint of the settings that the tile was trained with.
        checkpoint: Checksum of the finished checkpoint.
        modified: Modification time of the checkpoint in nanoseconds; 0 if unknown.
        images: Fingerprint of the training images; empty if unknown.
        threads: Number of processor threads; ``None`` in records of versions that did not store it.
        host: Name of the machine; ``None`` in records of versions that did not store it.
        device: The device there, such as ``cuda:0 NVIDIA H100``, or the name of the processor; ``None`` as for host.
    """

    seconds: float
    epochs: int
    configuration: str
    checkpoint: Checksum
    modified: int = 0
    images: str = ""
    threads: int | None = None
    host: str | None = None
    device: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Plain]) -> TileRecord:
        """Read a record."""
        return cls(**{**content, "checkpoint": Checksum(**content["checkpoint"])})
