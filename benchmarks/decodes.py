"""Images that a command decodes, counted in all its processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HOOK = Path(__file__).parent / "hook"
"""Folder to put on the path of a Python process whose decodes are counted."""

VARIABLE = "BENCHMARK_DECODES"
"""Environment variable that names the file in which decodes are noted, a line each."""

MASKS = "ground_truth"


@dataclass(frozen=True)
class Decodes:
    """Numbers of decodes.

    Args:
        images: Of images.
        masks: Of masks.
    """

    images: int
    masks: int

    @classmethod
    def read(cls, log: Path, boards: Path) -> Decodes:
        """Count the noted decodes, without files elsewhere, such as pictures.

        Args:
            log: File of the notes; missing if nothing was decoded.
            boards: Folder of the images.
        """
        noted = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        inside = [Path(path).relative_to(boards) for path in noted if Path(path).is_relative_to(boards)]
        masks = sum(path.parts[0] == MASKS for path in inside)
        return cls(len(inside) - masks, masks)
