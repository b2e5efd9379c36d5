"""The images of a page: what their lines say, and where their files are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.report.content import ShownImage, ShownRegion
from anomalib_tiled.system.files import is_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.results.prediction_row import PredictedImage
    from anomalib_tiled.results.region import Region

MOST_REGIONS = 100
"""Regions of an image that a page shows: those with the highest scores."""

MOST_TILE_SCORES = 200_000
"""Scores of tiles in a page; of many tiles, each image gets its highest ones."""


@dataclass(frozen=True)
class ImageShower:
    """Turns predictions into images of a page.

    Args:
        common: Folder that all images are in.
        tiles_each: Most tile scores of an image.
    """

    common: Path
    tiles_each: int

    @classmethod
    def of(cls, images: Sequence[PredictedImage]) -> ImageShower:
        """Show some images."""
        folders = {each.path.parent for each in images}
        common = Path(os.path.commonpath(folders)) if folders else Path("/")
        return cls(common, MOST_TILE_SCORES // max(1, len(images)))

    def show(self, image: PredictedImage, truth: int | None, pictures: Mapping[str, str | None]) -> ShownImage:
        """Give an image of the page.

        Args:
            image: The image with its prediction.
            truth: 1 for anomalous, 0 for normal, ``None`` if unknown.
            pictures: Addresses of its pictures, by the fields of `ShownImage`.
        """
        below, (height, width) = image.path.relative_to(self.common), image.image_size
        return ShownImage(
            name=str(below),
            path=image.image_path,
            link=image.path.as_uri() if is_file(image.path) else None,
            folder="" if below.parent == Path() else str(below.parent),
            height=height,
            width=width,
            truth=None if truth is None else bool(truth),
            score=image.pred_score,
            unaligned=image.unaligned or "",
            regions=[_region(each) for each in image.regions[:MOST_REGIONS]],
            tiles=self._highest(image.tiles),
            named_regions={name: each.score for name, each in image.named_regions.items()},
            **pictures,
        )

    def _highest(self, tiles: Mapping[str, float]) -> Mapping[str, float]:
        names = sorted(tiles, key=tiles.__getitem__, reverse=True)[: self.tiles_each]
        return {name: float(f"{tiles[name]:.6g}") for name in names}

    def notes(self, images: Sequence[PredictedImage]) -> list[str]:
        """Say what the page leaves out of images."""
        notes = []
        if many := sum(len(each.regions) > MOST_REGIONS for each in images):
            notes.append(f"{many} images have more than {MOST_REGIONS} regions: the page shows the highest ones.")
        if any(len(each.tiles) > self.tiles_each for each in images):
            notes.append(f"Of each image, the scores of its {self.tiles_each} highest tiles are shown.")
        if gone := sum(not is_file(each.path) for each in images):
            notes.append(f"{gone} of {len(images)} images are not where they were any more: they have no link.")
        return notes


def _region(region: Region) -> ShownRegion:
    return ShownRegion(*region.bbox, region.area, region.peak_score)
