"""The results of a test image by image: a line and small pictures of each, from which a report is made.

Commands that only read them need no PyTorch.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.runs.result_files import TESTED, TESTED_FACTS, THUMBNAILS, remove_thumbnails
from anomalib_tiled.system.bounds import read_lines
from anomalib_tiled.system.files import read_json, replacing, write_json
from anomalib_tiled.system.validation import validated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

ADVICE = "Test the run again."


class TestedFacts(TypedDict):
    """How images were tested.

    Args:
        calibration: Fingerprint of the calibration.
        finished: When the test ended, in ISO 8601.
        seconds: Duration of the test.
        host: Name of the machine.
        device: Where images were joined; ``None`` if that is not known.
        peak_memory: Most memory of the process, in bytes; ``None`` if that is not known.
        versions: Versions of packages, by their names; ``None`` for one that is not installed.
        notes: What a reader of the results should know, a sentence each.
    """

    calibration: str
    finished: str
    seconds: float
    host: str
    device: str | None
    peak_memory: int | None
    versions: dict[str, str | None]
    notes: list[str]


@dataclass(frozen=True)
class TestedImage(PredictedImage):
    """A test image with its prediction.

    Args:
        gt_label: 1 for anomalous, 0 for normal, ``None`` if unknown.
        heat_range: Scores that the heat map shows as 0 and as 255; ``None`` if the model gives no maps.
    """

    __test__ = False  # no test of pytest

    gt_label: int | None = None
    heat_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class ThumbnailFiles:
    """The small pictures of an image, all of one size; each is there only if there is something to show.

    Args:
        folder: The folder of all thumbnails.
        place: Position of the image among the test images, counted from 0.
    """

    folder: Path
    place: int

    @property
    def picture(self) -> Path:
        """The image, scaled."""
        return self.folder / f"{self.place:05d}.jpg"

    @property
    def heat_map(self) -> Path:
        """Scores as grey values: a pixel has the highest score of those that it covers."""
        return self.folder / f"{self.place:05d}.heat.png"

    @property
    def mask(self) -> Path:
        """Predicted mask: white if any of the pixels that it covers is anomalous."""
        return self.folder / f"{self.place:05d}.mask.png"

    @property
    def truth(self) -> Path:
        """Ground truth, as the mask."""
        return self.folder / f"{self.place:05d}.truth.png"


@dataclass(frozen=True)
class TestedFolder:
    """The files of a test with a line and pictures for each image.

    Args:
        path: The folder of the results: the run folder, or that of ``test --output``.
    """

    __test__ = False  # no test of pytest

    path: Path

    @property
    def lines_file(self) -> Path:
        """The test images with their predictions."""
        return self.path / TESTED

    @property
    def facts_file(self) -> Path:
        """How they were tested; written last."""
        return self.path / TESTED_FACTS

    @property
    def thumbnails(self) -> Path:
        """Folder of the small pictures."""
        return self.path / THUMBNAILS

    def thumbnails_of(self, place: int) -> ThumbnailFiles:
        """Give the small pictures of the image at a position."""
        return ThumbnailFiles(self.thumbnails, place)

    @contextmanager
    def lines(self) -> Iterator[Callable[[Iterable[TestedImage]], None]]:
        """Replace the results of an earlier test, batch by batch.

        Earlier lines and pictures go at once, so that pictures never stand beside lines of another test.

        Yields:
            Function that takes the next images.
        """
        for path in (self.facts_file, self.lines_file):
            path.unlink(missing_ok=True)
        remove_thumbnails(self.thumbnails)
        with replacing(self.lines_file) as temporary, temporary.open("w", encoding="utf-8") as file:
            yield lambda images: file.writelines(f"{image.to_line()}\n" for image in images)

    def write_facts(self, facts: Mapping[str, object]) -> None:
        """Write how images were tested, once all are."""
        write_json(self.facts_file, facts)

    def is_there(self) -> bool:
        """Whether a test has written its results here to the end."""
        return self.facts_file.is_file() and self.lines_file.is_file()

    def facts(self) -> TestedFacts:
        """Read how images were tested.

        Raises:
            RunFolderError: The file was changed.
        """
        content = read_json(self.facts_file, ADVICE)
        try:
            return validated(TestedFacts, content)
        except ValueError as error:
            message = f"{self.facts_file} must say how images were tested, but {error}. {ADVICE}"
            raise RunFolderError(message) from error

    def images(self) -> Iterator[TestedImage]:
        """Read the test images, one by one.

        Raises:
            RunFolderError: A line was changed.
        """
        number = 0
        try:
            for number, line in enumerate(read_lines(self.lines_file), start=1):  # noqa: B007  # for the message
                yield TestedImage.from_line(line)
        except ValueError as error:
            message = f"Line {number} of {self.lines_file} must hold a test image, but was changed ({error}). {ADVICE}"
            raise RunFolderError(message) from error
