"""Finds the part in images, with an aligner and what it has learned from the training images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import cast

import numpy as np

from anomalib_tiled.data.images import Pixels, read_image
from anomalib_tiled.data.split import Split
from anomalib_tiled.errors import StageError, UnalignedError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.alignment import Aligner, Alignment, Matrix, Reference
from anomalib_tiled.stages.contracts import errors_naming_stage, learned_numbers, name_of
from anomalib_tiled.system.limits import cores
from anomalib_tiled.system.progress import track

AT_ONCE = 4
"""Most images that are decoded and aligned at the same time, each in a thread."""

FEW = 32
"""Number of images that come first, from all over the training images."""

NUMBERS = 9
"""Of a matrix."""

SMALLEST = 1e-6
"""Smallest determinant of a transform: with a smaller one, the whole image would come from one pixel."""


@dataclass(frozen=True)
class Finding:
    """Whether the part was found in an image.

    Args:
        alignment: Where it lies; ``None`` if it was not found.
        reason: Why it was not found, as a sentence; empty if it was.
    """

    alignment: Alignment | None
    reason: str = ""

    @property
    def matrix(self) -> Matrix | None:
        """From pixels of the aligned image to pixels of the image; ``None`` if the part was not found."""
        return None if self.alignment is None else self.alignment.matrix


@dataclass(frozen=True)
class TrainingImages(Iterable[Pixels]):
    """Images for an aligner to learn from, decoded anew each time.

    Args:
        paths: The images. Every so many-th of them comes first, because aligners may look at the first few alone.
        size: Height and width to resize them to.
    """

    paths: Sequence[Path]
    size: Size

    def __iter__(self) -> Iterator[Pixels]:
        """Give the images one by one."""
        step = -(-len(self.paths) // FEW)
        return (read_image(path, self.size) for start in range(step) for path in self.paths[start::step])


@dataclass(frozen=True, eq=False)
class PartFinder:
    """Finds the part in images.

    Args:
        aligner: The stage.
        reference: What it has learned.
        size: Height and width of images when they are aligned.
    """

    aligner: Aligner
    reference: Reference
    size: Size

    @classmethod
    def learn(cls, aligner: Aligner, paths: Sequence[Path], size: Size) -> PartFinder:
        """Let an aligner learn.

        Args:
            aligner: The stage.
            paths: The normal training images.
            size: Height and width to resize them to.

        Raises:
            DataError: The images show no common part, or one cannot be decoded.
            StageError: The aligner fails, or breaks its contract.
        """
        images = TrainingImages(paths, size)
        with errors_naming_stage(aligner):
            reference = aligner.learn(images)
        if not isinstance(reference, Reference) or not _is_grey(reference.image):
            given = getattr(getattr(reference, "image", reference), "shape", type(reference).__name__)
            message = (
                f"{name_of(aligner)} must learn a Reference with a grey image of bytes, but learned {given}. Fix it."
            )
            raise StageError(message)
        return cls(aligner, Reference(reference.image, learned_numbers(aligner, reference.numbers)), size)

    def find(self, image: Pixels) -> Alignment:
        """Find the part in an image.

        Args:
            image: Shape (height, width, 3), in the size that the ensemble takes.

        Raises:
            UnalignedError: The part is not found.
            StageError: The aligner fails, or breaks its contract.
        """
        with errors_naming_stage(self.aligner):
            found = self.aligner.align(image, self.reference)
        matrix = tuple(float(each) for each in found.matrix)
        if len(matrix) != NUMBERS or not all(map(isfinite, matrix)) or _is_singular(matrix):
            message = f"{name_of(self.aligner)} must give nine numbers that can be inverted, but gave {matrix}. Fix it."
            raise StageError(message)
        if not (isinstance(found.quality, Real) and 0 <= found.quality <= 1):
            message = f"{name_of(self.aligner)} must give a quality from 0 to 1, but gave {found.quality!r}. Fix it."
            raise StageError(message)
        return Alignment(cast("Matrix", matrix), float(found.quality))

    def find_in_file(self, path: Path) -> Finding:
        """Decode an image, and say whether the part is found in it.

        Raises:
            DataError: The image cannot be decoded.
            StageError: The aligner fails, or breaks its contract.
        """
        image = read_image(path, self.size)
        try:
            return Finding(self.find(image))
        except UnalignedError as error:
            return Finding(None, str(error))

    def align(self, split: Split) -> tuple[Split, list[Finding]]:
        """Align all images of a split.

        Args:
            split: The images.

        Returns:
            The split with the transforms, and what was found in each image, in the order of the split's table.

        Raises:
            DataError: An image cannot be decoded.
            StageError: The aligner fails, or breaks its contract.
        """
        paths = [Path(name) for name in split.table.images]
        with ThreadPoolExecutor(min(AT_ONCE, cores())) as threads:
            findings = list(track(threads.map(self.find_in_file, paths), "Aligning images", len(paths)))
        rows = [(np.nan,) * NUMBERS if each.matrix is None else each.matrix for each in findings]
        return split.with_transforms(np.array(rows, np.float64).reshape(-1, NUMBERS)), findings


def reasons_of(split: Split, findings: Sequence[Finding]) -> dict[str, str]:
    """Say why the part is not found in images, by the names of those images.

    Args:
        split: The images.
        findings: What was found in each of them, in the order of the split's table.
    """
    found = zip(split.table.images, findings, strict=True)
    return {name: finding.reason for name, finding in found if finding.alignment is None}


def _is_grey(image: object) -> bool:
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 2 and image.size > 0  # noqa: PLR2004  # rows and columns


def _is_singular(matrix: Sequence[float]) -> bool:
    return abs(float(np.linalg.det(np.reshape(matrix, (3, 3))))) < SMALLEST
