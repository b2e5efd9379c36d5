"""The subset of each image: decided once, used by every tile, stage and command."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import open_table, replacing, table_of

Subset = Literal["train", "val", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "val", "test")
COLUMNS = ("subset", "image_path", "mask_path", "label")


@dataclass(frozen=True)
class Sample:
    """An image with subset, label and masks.

    Args:
        subset: Use of the image.
        image_path: The image.
        mask_path: The mask of its defects; ``None`` if there is none.
        label: 0 for normal, 1 for anomalous, ``None`` for unknown.
        further_masks: More masks, if each shows only some of the defects.
    """

    subset: Subset
    image_path: Path
    mask_path: Path | None
    label: int | None
    further_masks: tuple[Path, ...] = ()

    @property
    def masks(self) -> tuple[Path, ...]:
        """All masks; a pixel is anomalous if any of them says so."""
        return () if self.mask_path is None else (self.mask_path, *self.further_masks)


@dataclass(frozen=True)
class Split:
    """All images of a run, each with its subset.

    Args:
        samples: The images, subset by subset, in the order of the data module.
    """

    samples: tuple[Sample, ...]

    def subset(self, name: Subset) -> tuple[Sample, ...]:
        """Give the images of one subset."""
        return tuple(sample for sample in self.samples if sample.subset == name)

    @property
    def has_masks(self) -> bool:
        """Whether defects are known pixel by pixel, so that a normal image has an empty mask."""
        return any(sample.mask_path is not None for sample in self.samples)

    @property
    def calibration_subset(self) -> Subset:
        """Subset that stages learn from: validation images of known label, or training images if there are none."""
        return "val" if any(sample.label is not None for sample in self.subset("val")) else "train"

    @property
    def calibration_samples(self) -> tuple[Sample, ...]:
        """Images that stages learn from; an image of unknown label teaches nothing about what is normal."""
        return tuple(sample for sample in self.subset(self.calibration_subset) if sample.label is not None)

    @property
    def calibrated_on_test(self) -> bool:
        """Whether the validation images are the test images."""
        test = {sample.image_path for sample in self.subset("test")}
        return any(sample.image_path in test for sample in self.subset("val"))

    def write(self, path: Path) -> None:
        """Write the split as a CSV file."""
        with replacing(path) as temporary, open_table(temporary, "w") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for sample in self.samples:
                label = "" if sample.label is None else sample.label
                masks = "\n".join(map(str, sample.masks))
                writer.writerow([sample.subset, sample.image_path, masks, label])

    @classmethod
    def parse(cls, content: bytes, path: Path) -> Split:
        """Read a split from the content of its file.

        Args:
            content: What `write` wrote.
            path: The file, for messages.

        Raises:
            RunFolderError: The content is not a split.
        """
        try:
            return cls(tuple(map(_sample_of_row, csv.DictReader(table_of(content)))))
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            columns = ", ".join(COLUMNS)
            message = f"{path} must have the columns {columns}, but was changed ({error!r}). Fit a new run."
            raise RunFolderError(message) from error


def _sample_of_row(row: dict[str, str]) -> Sample:
    if row["subset"] not in SUBSETS:
        message = f"subset {row['subset']!r} is none of {', '.join(SUBSETS)}"
        raise ValueError(message)
    subset = next(name for name in SUBSETS if name == row["subset"])
    sample = Sample(subset, Path(row["image_path"]), None, int(row["label"]) if row["label"] else None)
    return with_masks(sample, [Path(path) for path in row["mask_path"].splitlines()])


def with_masks(sample: Sample, masks: list[Path]) -> Sample:
    """Give the same sample with other masks."""
    return replace(sample, mask_path=masks[0] if masks else None, further_masks=tuple(masks[1:]))
