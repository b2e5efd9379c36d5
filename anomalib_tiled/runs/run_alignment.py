"""Where the part lies in the images of a run, and what the aligner has learned: files for people and for programs."""

from __future__ import annotations

import csv
from io import BytesIO
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from anomalib_tiled.data.split import SUBSETS
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.stages.alignment import Reference
from anomalib_tiled.stages.registration import enlargement, placement
from anomalib_tiled.system.bounds import parse_json
from anomalib_tiled.system.files import open_table, replacing, table_of, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from anomalib_tiled.data.part_finder import Finding
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import Size
    from anomalib_tiled.runs.run_folder import RunFolder

COLUMNS = ("image_path", "subset", "x", "y", "rotation", "scale", "quality", "reason")
"""Columns of ``alignment.csv``: pixels to the right and down, degrees clockwise, fraction of the reference's size."""

ADVICE = "It says where parts lie in the images of the run: restore it, or fit a new run."


def write_alignment(
    folder: RunFolder, split: Split, findings: Sequence[Finding], reference: Reference, size: Size
) -> None:
    """Write the transforms of a new run, and what its aligner has learned.

    Args:
        folder: The run folder.
        split: The aligned split, as the run has it.
        findings: What was found in each image, in the order of the split's table.
        reference: What the aligner has learned.
        size: Height and width of aligned images.

    Raises:
        StorageError: The disk cannot be written.
    """
    with replacing(folder.alignment_file) as temporary, open_table(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_rows(split, findings, size))
    with replacing(folder.transforms_file) as temporary, temporary.open("wb") as binary:
        np.save(binary, np.asarray(split.table.transforms))
    with replacing(folder.reference_image) as temporary:
        Image.fromarray(reference.image).save(temporary, format="PNG")
    write_json(folder.reference_file, {"numbers": dict(reference.numbers)})
    for path in (folder.alignment_file, folder.transforms_file, folder.reference_image, folder.reference_file):
        folder.note_checksum(path)


def _rows(split: Split, findings: Sequence[Finding], size: Size) -> Iterator[list[str]]:
    for row in split.table.rows:
        finding, name = findings[row["image"]], split.table.images[row["image"]]
        subset = SUBSETS[row["subset"]]
        if finding.alignment is None:
            yield [name, subset, *[""] * 5, finding.reason]
        else:
            matrix = np.reshape(finding.alignment.matrix, (3, 3))
            place, scale = placement(matrix, size), enlargement(matrix, size)
            numbers = [f"{place.right:.2f}", f"{place.down:.2f}", f"{place.degrees:.3f}", f"{scale:.4f}"]
            yield [name, subset, *numbers, f"{finding.alignment.quality:.3f}", ""]


def read_transforms(folder: RunFolder, images: int) -> NDArray[np.float64] | None:
    """Read the transforms of a run; ``None`` if it does not align images.

    Args:
        folder: The run folder.
        images: Number of images in the table of its split.

    Raises:
        RunFolderError: The file is missing, or was changed.
    """
    if folder.transforms_file.name not in folder.checksums():
        return None
    transforms: NDArray[np.float64] = np.load(BytesIO(folder.read(folder.transforms_file, ADVICE)))
    if transforms.shape != (images, 9):
        message = f"{folder.transforms_file} must hold a transform for each of {images} images. {ADVICE}"
        raise RunFolderError(message)
    return transforms


def read_reference(folder: RunFolder) -> Reference:
    """Read what the aligner of a run has learned.

    Raises:
        RunFolderError: A file is missing, or was changed.
    """
    advice = "It says where the part should lie: restore it, or fit a new run."
    content = cast("dict[str, dict[str, float]]", parse_json(folder.read(folder.reference_file, advice)))
    with Image.open(BytesIO(folder.read(folder.reference_image, advice))) as image:
        return Reference(np.array(image), content["numbers"])


def read_reasons(folder: RunFolder) -> dict[str, str]:
    """Give the images of a run that cannot be aligned, each with the reason.

    Raises:
        RunFolderError: The file is missing, or was changed.
    """
    rows = csv.DictReader(table_of(folder.read(folder.alignment_file, ADVICE)))
    return {row["image_path"]: row["reason"] for row in rows if row["reason"]}
