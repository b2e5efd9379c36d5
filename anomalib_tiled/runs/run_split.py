"""The split of a run: ``split.csv``, and a copy of it that opens without parsing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anomalib_tiled.data.split import Split, StoredSamples
from anomalib_tiled.data.split_table import SplitTable
from anomalib_tiled.errors import StorageError
from anomalib_tiled.runs.run_alignment import read_transforms

if TYPE_CHECKING:
    from anomalib_tiled.runs.run_folder import RunFolder

ADVICE = "It lists the training images: restore it, or fit a new run."

logger = logging.getLogger(__name__)


def write_split(folder: RunFolder, split: Split) -> None:
    """Write the split of a new run.

    Raises:
        StorageError: The disk cannot be written.
    """
    split.write(folder.split_file)
    folder.note_checksum(folder.split_file)
    split.table.write(folder.split_table_file, folder.known_checksum(folder.split_file, ADVICE).sha256)


def read_split(folder: RunFolder) -> Split:
    """Read the split of a run; its copy is made if it is missing, damaged, or of another split.

    Raises:
        RunFolderError: The split is missing, or was changed, or so were the transforms of its images.
    """
    return _aligned(folder, _read(folder))


def _read(folder: RunFolder) -> Split:
    checksum = folder.known_checksum(folder.split_file, ADVICE)
    content = checksum.read(folder.split_file, ADVICE)
    if (table := SplitTable.open(folder.split_table_file, checksum.sha256)) is not None:
        return Split(StoredSamples(table))
    split = Split.parse(content, folder.split_file)
    try:
        split.table.write(folder.split_table_file, checksum.sha256)
    except StorageError as error:  # of a run that may only be read; each process then parses the split
        logger.info("The split is read without a copy that opens faster: %s", error)
    return split


def open_split(folder: RunFolder) -> Split:
    """Open the split in a process that a command has sent a job to, after the command has read the split.

    Raises:
        RunFolderError: The split is missing, or was changed.
    """
    checksum = folder.known_checksum(folder.split_file, ADVICE)
    table = SplitTable.open(folder.split_table_file, checksum.sha256)
    if table is None:
        return _aligned(folder, Split.parse(checksum.read(folder.split_file, ADVICE), folder.split_file))
    checksum.check_size(folder.split_file, ADVICE)
    return _aligned(folder, Split(StoredSamples(table)))


def _aligned(folder: RunFolder, split: Split) -> Split:
    """Add the transforms, if the run aligns images."""
    transforms = read_transforms(folder, len(split.table.images))
    return split if transforms is None else split.with_transforms(transforms)
