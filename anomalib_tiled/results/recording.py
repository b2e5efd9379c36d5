"""What becomes known while images are predicted goes into a record: that of the command, or that of a shard of images.

Recording    of the command: folder of the predictions, terminal, summary
Part         of a shard: a file, from which the command records it, in the order of the images
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anomalib_tiled.data.placement import DISPLACED
from anomalib_tiled.errors import DataError, OutOfMemoryError, RunFolderError, UnalignedError
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.request import Predicted
from anomalib_tiled.results.shards import batches_of
from anomalib_tiled.system.bounds import parse_json, read_lines
from anomalib_tiled.system.files import json_line, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.errors import TiledError
    from anomalib_tiled.results.prediction_folder import PredictionFolder

WITHOUT_MAPS = "Note: The model gives no anomaly maps, so there are no masks, regions and raw maps."


class Record(Protocol):
    """Takes what becomes known while images are predicted, in this order."""

    def note(self, kind: str, text: str) -> None:
        """Take a line that a reader of the results should know, once.

        Args:
            kind: Only the first line of a kind is reported.
            text: The line.
        """

    def add(self, images: Sequence[PredictedImage], *, has_maps: bool | None) -> None:
        """Take predicted images, whose own files are written.

        Args:
            images: The images.
            has_maps: Whether the model gives anomaly maps; ``None`` if it has not seen the images.
        """

    def fail(self, path: Path, error: TiledError) -> None:
        """Take an image that cannot be read or predicted, or whose files cannot be written, and the reason.

        An image in which the part is not found has not failed: it is anomalous.
        """


class Recording:
    """Writes the predictions of a command into its folder.

    Args:
        folder: The folder, which is begun.
        images: The requested images.
        report: Called with each line that a reader of the results should know.
        show: Called with each prediction once it is recorded; ``None`` if nobody looks.
    """

    def __init__(
        self,
        folder: PredictionFolder,
        images: Sequence[Path],
        report: Callable[[str], None],
        show: Callable[[PredictedImage], None] | None = None,
    ) -> None:
        self._folder, self._report, self._show = folder, report, show
        done = folder.repair()
        self.done = done.keys()
        """Paths of all images in the folder that were predicted before."""
        failed = folder.forget_failures({*map(str, images), *done})
        self._images, missing = images, [path for path in images if str(path) not in done]
        self._failed = [path for path in missing if str(path) in failed]
        self._fresh = {path for path in missing if str(path) not in failed}
        self.waiting = len(missing)
        """Number of images that an earlier command has not predicted."""
        before = Counter(done.get(str(path)) for path in images)
        existing = len(images) - len(missing)
        self._summary = Predicted(existing, anomalous=before["anomalous"], uncertain=before["uncertain"])
        self._uncertain = folder.uncertain()
        self._kinds: Counter[str] = Counter()
        self._maps_noted = False
        self._out_of_memory: str | None = None

    @property
    def tried(self) -> int:
        """Number of images that were predicted or have failed."""
        return self._summary.images + self._summary.failed

    def groups(self, size: int) -> list[list[Path]]:
        """Give the waiting images in groups, each of which is cut into batches by itself.

        A command that was killed may have recorded some images of a batch only. The others are a group, so that all
        images after them stay in their batches.

        Args:
            size: Images of a batch.

        Returns:
            Images that failed before, what is left of batches, and whole batches.
        """
        left: list[Path] = []
        whole: list[Path] = []
        for batch in batches_of(self._images, size):
            fresh = [path for path in batch if path in self._fresh]
            (whole if len(fresh) == len(batch) else left).extend(fresh)
        return [self._failed, left, whole]

    def note(self, kind: str, text: str) -> None:
        """Report a line, unless one of its kind was reported."""
        self._kinds[kind] += 1
        if self._kinds[kind] == 1:
            self._report(text)

    def add(self, images: Sequence[PredictedImage], *, has_maps: bool | None) -> None:
        """Append predictions."""
        if has_maps is not None and not self._maps_noted:
            self._folder.note_maps(has_maps=has_maps)
            self._maps_noted = True
            if not has_maps:
                self._report(WITHOUT_MAPS)
        images = [image.judged(self._uncertain) for image in images]
        self._folder.append(images)
        self._summary.images += len(images)
        for image in images:
            self._summary.count(image)
            if self._show is not None:
                self._show(image)
        self._out_of_memory = None

    def fail(self, path: Path, error: TiledError) -> None:
        """Append a failure.

        Args:
            path: The image.
            error: The reason. One image without enough memory may simply be too large; two in a row are not.

        Raises:
            OutOfMemoryError: There was too little memory for the image before, too.
        """
        reason = str(error)
        if isinstance(error, UnalignedError):
            self.add([PredictedImage.without_part(path, reason)], has_maps=None)
            return
        if isinstance(error, OutOfMemoryError):
            if self._out_of_memory is not None:
                raise error
            self._out_of_memory, reason = reason, f"{path} is left out. {reason}"
        self._summary.failed += 1
        self._folder.append_failure(path, reason)
        self._report(f"skipped: {reason}")

    def take_back(self, paths: Collection[Path]) -> None:
        """Remove failures of images that are tried again."""
        self._folder.forget_failures({*map(str, paths)})
        self._summary.failed -= len(paths)

    def finish(self, *, coco: bool, seconds: float) -> Predicted:
        """Write the file that needs all predictions.

        Args:
            coco: Whether to write it.
            seconds: Duration of the prediction.

        Raises:
            OutOfMemoryError: There was too little memory for an image, and no other image was ever predicted.
        """
        summary = self._summary
        if self._out_of_memory is not None and not (summary.images or summary.existing):
            raise OutOfMemoryError(self._out_of_memory)
        if coco:
            self._folder.write_coco()
        if (displaced := self._kinds[DISPLACED]) > 1:
            self._report(f"warning: In {displaced} images the part lies elsewhere than in training images.")
        shutil.rmtree(self._folder.parts, ignore_errors=True)
        summary.seconds = seconds
        return summary


class Part:
    """Keeps what becomes known of a shard, for a file.

    Args:
        images_may_be_too_large: Whether an image for which memory runs out is skipped. It is not where other places may
            use the memory: then the shard is tried again alone.
    """

    def __init__(self, *, images_may_be_too_large: bool) -> None:
        self._too_large = images_may_be_too_large
        self._events: list[dict[str, Plain]] = []
        self._kinds: set[str] = set()

    def note(self, kind: str, text: str) -> None:
        """Keep a line, unless one of its kind was kept that need not be counted."""
        if kind == DISPLACED or kind not in self._kinds:
            self._kinds.add(kind)
            self._events.append({"note": text, "kind": kind})

    def add(self, images: Sequence[PredictedImage], *, has_maps: bool | None) -> None:
        """Keep predictions."""
        self._events.append({"images": [image.to_line() for image in images], "has_maps": has_maps})

    def fail(self, path: Path, error: TiledError) -> None:
        """Keep a failure.

        Raises:
            OutOfMemoryError: The memory of the machine ran out, and other places may have used it.
        """
        if isinstance(error, UnalignedError):
            self.add([PredictedImage.without_part(path, str(error))], has_maps=None)
            return
        is_memory = isinstance(error, OutOfMemoryError)
        if isinstance(error, OutOfMemoryError) and error.of_machine and not self._too_large:
            raise error
        self._events.append({"failed": str(path), "error": str(error), "is_memory": is_memory})

    def write(self, path: Path) -> None:
        """Write the file, once all of the shard is known."""
        write_text(path, "".join(f"{json_line(event)}\n" for event in self._events))


def record_part(path: Path, record: Record) -> None:
    """Record what a file of a shard holds, and remove the file.

    Args:
        path: The file; also removed after an error, which its images would end in again.
        record: Takes everything in the order in which it became known.

    Raises:
        RunFolderError: The file was changed.
    """
    try:
        for line in read_lines(path):
            _record_event(parse_json(line), record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} was changed ({error}). Resume: its images are predicted again."
        raise RunFolderError(message) from error
    finally:
        path.unlink(missing_ok=True)


def _record_event(event: Plain, record: Record) -> None:
    if "note" in event:
        record.note(event["kind"], event["note"])
    elif "failed" in event:
        kind = OutOfMemoryError if event["is_memory"] else DataError
        record.fail(Path(event["failed"]), kind(event["error"]))
    else:
        images = [PredictedImage.from_line(line.encode()) for line in event["images"]]
        record.add(images, has_maps=event["has_maps"])
