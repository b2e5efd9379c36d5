"""Where parts lie in the training images: a file of the run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.data.placement import TrainedPlacement
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import replacing

if TYPE_CHECKING:
    from anomalib_tiled.runs.run_folder import RunFolder

_ADVICE = "Restore it, or delete it: images are predicted without a look at the places of their parts then."


def write_placement(folder: RunFolder, placement: TrainedPlacement) -> None:
    """Write the file, and its checksum.

    Raises:
        StorageError: The disk is full.
    """
    with replacing(folder.placement_file) as temporary:
        temporary.write_bytes(placement.to_bytes())
    folder.note_checksum(folder.placement_file)


def read_placement(folder: RunFolder) -> TrainedPlacement | None:
    """Read the file; ``None`` if there is none.

    Raises:
        RunFolderError: The file was changed.
    """
    path = folder.placement_file
    if not path.is_file():
        return None
    content = folder.read(path, _ADVICE)
    try:
        return TrainedPlacement.from_bytes(content)
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read ({error}). {_ADVICE}"
        raise RunFolderError(message) from error
