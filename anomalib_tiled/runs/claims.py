"""Claims of tiles: which try may store a tile, where several may be at work without knowing of each other.

Only the command that fits the run makes claims. A place that was given up may still be training, and a job of a cluster
may begin after its command was killed and another one has taken over. Neither stores anything without its claim.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.grid import Tile
from anomalib_tiled.system.files import read_json_if_any, write_json
from anomalib_tiled.system.locks import described, this_process

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.runs.run_folder import RunFolder


@dataclass(frozen=True)
class ClaimedTile:
    """A tile for one try; small enough to be sent to any process.

    Args:
        tile: The tile.
        path: File with its claim.
        nonce: Random digits that only the claim of this try holds.
    """

    tile: Tile
    path: Path
    nonce: str


def claim_tile(folder: RunFolder, tile: Tile) -> ClaimedTile:
    """Claim a tile for its next try; all earlier tries lose it. Only for the process that has locked the run to fit it.

    The claim ends when the record of the tile is written.

    Args:
        folder: The run folder.
        tile: The tile.
    """
    path, nonce = folder.claim_file(tile), os.urandom(8).hex()
    earlier = read_json_if_any(path).get("try")
    write_json(path, {**this_process(), "try": 1 + (earlier if isinstance(earlier, int) else 0), "nonce": nonce})
    return ClaimedTile(tile, path, nonce)


def check_claim(claimed: ClaimedTile | None) -> None:
    """Check that a tile still belongs to a try; to be called just before something of it is stored.

    Args:
        claimed: The tile as it was given to this try; ``None`` if no other process can be at work on it.

    Raises:
        RunFolderError: The tile was given to another try, or its fit has ended.
    """
    if claimed is None:
        return
    path = claimed.path
    claim = read_json_if_any(path)
    if claim.get("nonce") != claimed.nonce:
        owner = f"try {claim.get('try')} of {described(claim)} has it" if claim else "no fit waits for it"
        message = (
            f"Tile {claimed.tile.name} of {path.parent.parent} does not belong to this try any more: {owner}. "
            "This try stores nothing."
        )
        raise RunFolderError(message)
