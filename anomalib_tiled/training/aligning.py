"""Aligns the images of a new run, before they are decoded into the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.data.part_finder import PartFinder, reasons_of
from anomalib_tiled.data.split import image_names
from anomalib_tiled.errors import DataError
from anomalib_tiled.runs.run_alignment import write_alignment
from anomalib_tiled.stages.alignment import Aligner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.data.part_finder import Finding
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import Size
    from anomalib_tiled.runs.run_folder import RunFolder

SHOWN = 3
"""Most images that a message names."""


@dataclass(frozen=True)
class AlignedImages:
    """What is known of the images of a new run once they are aligned.

    Args:
        finder: The aligner with what it has learned.
        findings: What was found in each image, in the order of the split's table.
    """

    finder: PartFinder
    findings: Sequence[Finding]

    def write(self, folder: RunFolder, split: Split) -> None:
        """Write the files of the run.

        Args:
            folder: The run folder.
            split: The aligned split, as the run has it.

        Raises:
            StorageError: The disk cannot be written.
        """
        write_alignment(folder, split, self.findings, self.finder.reference, self.finder.size)


def align_images(settings: Settings, split: Split, size: Size) -> tuple[Split, AlignedImages | None]:
    """Align all images of a new run, if its settings say so.

    Args:
        settings: The configuration.
        split: The images.
        size: Height and width that the ensemble takes.

    Returns:
        The split with the transforms, and what was found; the split as it is and ``None`` if images are not aligned.

    Raises:
        DataError: The part is not found in half of the images or more, or in a training image; or two images have one
            mask, which cannot be moved with both.
        StageError: The aligner fails, or breaks its contract.
    """
    if (spec := settings.stages.get("alignment")) is None:
        return split, None
    if split.table.has_shared_masks:
        message = "Images that are aligned must have masks of their own, but two have the same one. Copy it for each."
        raise DataError(message)
    normal = [sample.image_path for sample in split.subset("train") if sample.label == 0]
    finder = PartFinder.learn(spec.build(Aligner), normal, size)
    aligned, findings = finder.align(split)
    _check(aligned, reasons_of(aligned, findings), leave_out=settings.unaligned_images == "leave_out")
    return aligned, AlignedImages(finder, findings)


def _check(split: Split, reasons: Mapping[str, str], *, leave_out: bool) -> None:
    """Refuse images that cannot be aligned, where they cannot be left out.

    Args:
        split: The aligned split.
        reasons: Why the part is not found in an image, by the names of such images.
        leave_out: Whether a few training images may be left out.

    Raises:
        DataError: There are too many of them, or one is a training image.
    """
    training = image_names(split.unaligned("train"))
    images = {"training images": (training, len(split.subset("train")) + len(training))}
    images["images"] = ([*reasons], len(split.table.images))
    for kind, (names, total) in images.items():
        if 2 * len(names) >= total:
            message = (
                f"The part must be found in more than half of the {kind}, but in {len(names)} of {total} it is not, so "
                f"the cause is the alignment, not single images. {_named(names, reasons)} Choose another alignment, or "
                "null for none."
            )
            raise DataError(message)
    if training and not leave_out:
        names, total = images["training images"]
        message = (
            f"The part must be found in every training image, but in {len(names)} of {total} it is not. "
            f"{_named(names, reasons)} Remove these images, choose another alignment, or set unaligned_images: "
            "leave_out, which trains without them."
        )
        raise DataError(message)


def _named(names: Sequence[str], reasons: Mapping[str, str]) -> str:
    """Name the first images, with their reasons."""
    more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    first = "; ".join(f"{name}: {reasons[name].rstrip('.')}" for name in names[:SHOWN])
    return f"{first}{more}."
