"""Files of a run that have changed since they were written, for users who allow that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.file_names import checksum_named
from anomalib_tiled.runs.tile_states import TileRecord
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.runs.run_folder import RunFolder

WITH_CHECKSUM = ("split_file", "calibration_file", "validation_scores_file")
"""Files whose checksums are in one file; the checksum of a checkpoint is beside it."""

USED = "It is used as it is."


def changed_files(folder: RunFolder) -> tuple[str, ...]:
    """Describe each file of a run that has changed since it was finished. This reads all files.

    Args:
        folder: The run.

    Returns:
        A sentence or two for each.
    """
    return (*_files_with_checksum(folder), *_tiles(folder), *_calibration(folder))


def _files_with_checksum(folder: RunFolder) -> Iterator[str]:
    try:
        checksums = folder.checksums()
    except RunFolderError as error:
        yield f"{error} Its checksums are not compared."
        checksums = {}
    for path in (getattr(folder, name) for name in WITH_CHECKSUM):
        if path.is_file():
            yield from _differences(path, checksums.get(path.name))


def _tiles(folder: RunFolder) -> Iterator[str]:
    """Compare checkpoints with their checksums, and the configuration with those that tiles were trained with."""
    configuration, others = folder.settings().training_hash, []
    for checkpoint in sorted((folder.path / "tiles").glob("r*_c*.ckpt")):
        try:
            record = TileRecord.from_json(read_json(checkpoint.with_suffix(".json")))
        except (RunFolderError, TypeError, KeyError) as error:
            yield f"{checkpoint.with_suffix('.json')} has no checksum of {checkpoint.name} ({error}). {USED}"
            continue
        yield from _differences(checkpoint, vars(record.checkpoint))
        if record.configuration != configuration:
            others.append(checkpoint.stem)
    if others:
        yield f"{folder.config_file} is not the configuration that {', '.join(others)} were trained with. {USED}"
    for shared in folder.shared_files:
        if checksum_named(shared) != Checksum.of(shared).sha256:
            yield f"{shared} was changed after it was finished. {USED}"


def _calibration(folder: RunFolder) -> Iterator[str]:
    """Compare the configuration with the one that the stages were calibrated with."""
    try:
        learned = read_json(folder.calibration_file)
    except RunFolderError:
        return  # it cannot be used, and the commands that need it say so
    if learned.get("configuration") != folder.settings().calibration_hash:
        yield f"{folder.config_file} is not the configuration that {folder.calibration_file.name} was made with. {USED}"


def _differences(path: Path, checksum: Plain) -> Iterator[str]:
    """Say how a file differs from its checksum, or that it has none."""
    try:
        Checksum(**checksum).check(path, USED)
    except RunFolderError as error:
        yield str(error)
    except TypeError:
        yield f"There is no checksum of {path}. {USED}"
