"""Writes what a test shows of each image, while the next images are predicted: picture, small pictures, line."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.data.image_files import size_of
from anomalib_tiled.results.prediction_row import items_of
from anomalib_tiled.results.regions import InFile, in_source_size, regions_of
from anomalib_tiled.results.tested_folder import TestedFolder, TestedImage
from anomalib_tiled.results.thumbnails import Thumbnails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import torch
    from anomalib.data import ImageBatch, ImageItem

    from anomalib_tiled.data.split import Sample, Split
    from anomalib_tiled.results.pictures import Pictures
    from anomalib_tiled.results.prediction_row import Details
    from anomalib_tiled.stages.uncertain import Band


@dataclass(frozen=True)
class TestedBatch:
    """A batch of test images with predictions, on the CPU.

    Args:
        images: The images.
        raw_scores: Their scores before the normalization of images.
        details: What else their lines hold.
    """

    __test__ = False  # no test of pytest

    images: ImageBatch
    raw_scores: list[float]
    details: list[Details]


@dataclass(frozen=True)
class TestWriter:
    """Writes the pictures of test images, and gives their lines.

    Args:
        folder: Folder of the results.
        pictures: Draws pictures in the size of the images; ``None`` to draw none.
        thumbnails: Writes small ones.
        split: The test images with their transforms.
        uncertain: Scores of uncertain images; ``None`` if no image is.
    """

    __test__ = False  # no test of pytest

    folder: TestedFolder
    pictures: Pictures | None
    thumbnails: Thumbnails
    split: Split
    uncertain: Band | None = None

    def write(self, batch: TestedBatch, first: int) -> list[TestedImage]:
        """Write the pictures of a batch.

        Args:
            batch: The batch.
            first: Position of its first image among the test images.

        Raises:
            DataError: An image is missing or has changed.
        """
        if self.pictures is not None:
            replace(self.pictures, split=self.split).draw(batch.images)
        numbered = enumerate(zip(items_of(batch.images), batch.raw_scores, batch.details, strict=True), start=first)
        return [self._tested(place, *each) for place, each in numbered]

    def write_unaligned(self, samples: list[tuple[Sample, str]], first: int) -> list[TestedImage]:
        """Write the pictures of images in which the part is not found.

        Args:
            samples: The images, each with the reason.
            first: Position of the first one among the test images, after all that are aligned.
        """
        tested = []
        for place, (sample, reason) in enumerate(samples, start=first):
            self.thumbnails.write_image(sample.image_path, self.folder.thumbnails_of(place))
            size = size_of(sample.image_path)
            image = TestedImage(
                str(sample.image_path), size, None, None, 1, (), unaligned=reason, gt_label=sample.label
            )
            tested.append(image.judged(self.uncertain))
        return tested

    def _tested(self, place: int, item: ImageItem, raw_score: float, details: Details) -> TestedImage:
        path = Path(str(item.image_path))
        matrix = self.split.matrix_of(str(item.image_path))
        in_file = InFile(size_of(path), matrix)
        heat_range = self.thumbnails.write(item, in_file, self.folder.thumbnails_of(place))
        image = TestedImage(
            image_path=str(item.image_path),
            image_size=in_file.size,
            pred_score=None if item.pred_score is None else float(item.pred_score),
            raw_score=raw_score,
            pred_label=0 if item.pred_label is None else int(item.pred_label),
            regions=(),
            unaligned=None if matrix is None else "",
            gt_label=None if item.gt_label is None else int(item.gt_label),
            heat_range=heat_range,
            **vars(details),
        )
        image = image.judged(self.uncertain)
        if item.pred_mask is None or item.anomaly_map is None:
            return image
        return _with_regions(image, item.pred_mask, item.anomaly_map, in_file)


def _with_regions(image: TestedImage, mask: torch.Tensor, scores: torch.Tensor, in_file: InFile) -> TestedImage:
    """Add the regions, in pixels of the file, as a prediction of the image would give them."""
    flags = in_source_size(mask, *in_file) > 0
    return replace(image, regions=regions_of(flags, in_source_size(scores, *in_file)), any_pixel=bool(flags.any()))


@contextmanager
def written_meanwhile(
    writer: TestWriter, first: int, take: Callable[[list[TestedImage]], None]
) -> Iterator[Callable[[TestedBatch], None]]:
    """Write each batch while the next one is predicted; only one batch waits.

    Args:
        writer: Writes the batches.
        first: Position of the first image among the test images.
        take: Receives the images of each batch, in order.

    Yields:
        Function that takes a batch. It raises errors of the batch before; those of the last batch come at the end.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        waiting: list[Future[list[TestedImage]]] = []
        place = first

        def write(batch: TestedBatch) -> None:
            nonlocal place
            if waiting:
                take(waiting.pop().result())
            waiting.append(thread.submit(writer.write, batch, place))
            place += len(batch.images)

        yield write
        for last in waiting:
            take(last.result())
