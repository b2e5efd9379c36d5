"""Pixels that no model sees, because none could be fitted on tiles that cover them; and pixels that do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import EllipsisType

import numpy as np
from anomalib.data import ImageBatch
from numpy.typing import NDArray

from anomalib_tiled.grid import TileGrid

NAMED = 8
"""Tiles that a note names at most for one reason."""


@lru_cache(maxsize=8)
def uninspected_pixels(grid: TileGrid) -> NDArray[np.bool_] | None:
    """Give the pixels that no tile with a model covers, shape (height, width); ``None`` if there are none."""
    if not (grid.left_out or grid.ignored):
        return None
    pixels = np.ones(grid.image_size, dtype=np.bool_)
    for tile in grid.tiles:
        pixels[tile.rows, tile.columns] = False
    return pixels if pixels.any() else None


def hidden_defects(masks: NDArray[np.bool_], uninspected: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Find the images whose defects all lie where no model sees them, shape (batch,).

    Args:
        masks: Defects, shape (batch, height, width).
        uninspected: Pixels that no model sees, as of ``uninspected_pixels``.
    """
    if uninspected is None:
        return np.zeros(len(masks), dtype=np.bool_)
    there, elsewhere = (masks[:, pixels].any(axis=1) for pixels in (uninspected, ~uninspected))
    return np.asarray(there & ~elsewhere)


def hidden_images(
    labels: NDArray[np.bool_], masks: NDArray[np.bool_] | None, hidden: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Find the images of which nothing counts, shape (batch,): all of their pixels are hidden, or all of their defects.

    Args:
        labels: Whether each image is anomalous, shape (batch,).
        masks: Defects, shape (batch, height, width); ``None`` if unknown.
        hidden: Pixels that do not count, shape (batch or 1, height, width).
    """
    found = np.broadcast_to(hidden.all(axis=(1, 2)), labels.shape)
    if masks is None:
        return found
    elsewhere = (masks & ~hidden).any(axis=(1, 2))
    return np.asarray(found | (labels & hidden.any(axis=(1, 2)) & ~elsewhere))


def seen_pixels(
    uninspected: NDArray[np.bool_] | None, hidden: NDArray[np.bool_] | None, batch: int
) -> Iterator[tuple[slice, NDArray[np.bool_] | EllipsisType]]:
    """Yield which images of a batch to count, each time with which of their pixels: all at once if these are the same.

    Args:
        uninspected: Pixels that no model sees, shape (height, width); ``None`` if there are none.
        hidden: Pixels that do not count, shape (batch or 1, height, width); ``None`` if all do.
        batch: Number of images.
    """
    if hidden is None:
        yield slice(None), ... if uninspected is None else ~uninspected
        return
    unseen = hidden if uninspected is None else hidden | uninspected
    for number, pixels in enumerate(np.broadcast_to(unseen, (batch, *unseen.shape[1:]))):
        yield slice(number, number + 1), ~pixels


def left_out_note(grid: TileGrid, reasons: Mapping[str, str]) -> str | None:
    """Say which locations have no model, by reason, and how much of an image is not inspected; ``None`` if all have."""
    if not reasons:
        return None
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    causes = "; ".join(f"{_listed(names)} ({reason})" for reason, names in by_reason.items())
    extent = "Other tiles cover all of their pixels."
    pixels, ignored = uninspected_pixels(grid), uninspected_pixels(grid.without(()))
    if pixels is not None and ignored is not None:
        pixels = pixels & ~ignored
    if pixels is not None and pixels.any():
        share = 100 * pixels.mean()
        extent = f"{pixels.sum()} pixels of an image ({share:.3g} %) are not inspected: no defect is found there."
    return f"{len(reasons)} of {len(grid.locations)} tiles are left out: {causes}. {extent}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


class HiddenDefects:
    """Counts images with defects that no model sees."""

    def __init__(self, grid: TileGrid) -> None:
        self._pixels = uninspected_pixels(grid)
        self._touching = self._hidden = 0

    def update(self, batch: ImageBatch) -> None:
        """Count the images of a batch; a batch without masks is skipped."""
        if self._pixels is None or batch.gt_mask is None:
            return
        masks = batch.gt_mask.bool().cpu().numpy()
        self._touching += int(masks[:, self._pixels].any(axis=1).sum())
        self._hidden += int(hidden_defects(masks, self._pixels).sum())

    def merge(self, other: HiddenDefects) -> None:
        """Add what was counted of other images."""
        self._touching += other._touching
        self._hidden += other._hidden

    def __getstate__(self) -> dict[str, object]:
        """Pickle the counts only: nothing more is counted elsewhere."""
        return {**vars(self), "_pixels": None}

    def note(self) -> str | None:
        """Say how many images have such defects; ``None`` if there are none."""
        if not self._touching:
            return None
        return (
            f"{self._touching} test images have defects where no model sees them, {self._hidden} of them nowhere else. "
            "Image metrics count them; pixel metrics leave out pixels that are not inspected."
        )
