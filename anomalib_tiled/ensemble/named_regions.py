"""Named regions: which of them is defective.

The score of a region is the highest value of the map in it, before the normalization of images. Its threshold and
normalization are learned like those of images, from validation images whose defects touch the region or do not.

thresholding.stage    the region is anomalous if
image                 its score exceeds its own threshold
tile                  a pixel of it is anomalous in a tile; as for images, no threshold of whole images exists
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class DecidedRegion(NamedTuple):
    """A named region in a batch of images.

    Args:
        scores: Higher is more anomalous, shape (batch,); in [0, 1] if the run normalizes.
        labels: Whether the region is anomalous, shape (batch,).
    """

    scores: torch.Tensor
    labels: torch.Tensor


class NamedRegions(torch.nn.Module):
    """The pixels of named regions; a module, so that they follow a model to its device.

    Args:
        masks: Pixels of each region, by its name, shape (height, width); at least one pixel each.
    """

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        super().__init__()
        self.boxes = {name: box_of(mask) for name, mask in masks.items()}
        for number, (name, box) in enumerate(self.boxes.items()):
            self.register_buffer(str(number), torch.from_numpy(masks[name][box].copy()), persistent=False)

    def __iter__(self) -> Iterator[tuple[str, tuple[slice, slice], torch.Tensor]]:
        """Give name, rows and columns, and pixels of each region."""
        for (name, box), pixels in zip(self.boxes.items(), self.buffers(), strict=True):
            yield name, box, pixels

    def highest(self, maps: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give the highest value in each region.

        Args:
            maps: Shape (batch, 1, height, width).

        Returns:
            Shape (batch,), by the names of the regions.
        """
        return {
            name: maps[..., rows, columns].masked_fill(~pixels, -torch.inf).amax(dim=(1, 2, 3))
            for name, (rows, columns), pixels in self
        }

    def touched(self, masks: torch.Tensor) -> dict[str, torch.Tensor]:
        """Say in which regions a pixel is set, shape (batch,) each.

        Args:
            masks: Shape (batch, 1, height, width).
        """
        return {
            name: (masks[..., rows, columns] & pixels).flatten(1).any(dim=1) for name, (rows, columns), pixels in self
        }

    def truth(self, labels: NDArray[np.bool_], masks: NDArray[np.bool_] | None) -> dict[str, NDArray[np.bool_]]:
        """Say in which images each region is anomalous: with a defect in it; without masks, as the image.

        Args:
            labels: Whether each image is anomalous, shape (batch,).
            masks: Which pixels are anomalous, shape (batch, height, width); ``None`` if unknown.

        Returns:
            Shape (batch,), by the names of the regions.
        """
        if masks is None:
            return dict.fromkeys(self.boxes, labels)
        return {
            name: np.any(masks[:, rows, columns][:, pixels.cpu().numpy()], axis=1)
            for name, (rows, columns), pixels in self
        }


def box_of(mask: Mask) -> tuple[slice, slice]:
    """Give the rows and columns that pixels lie in."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
