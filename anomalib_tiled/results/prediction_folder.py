"""Predictions on the disk: one line for each image, written as they come."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.results.csv_files import append, row
from anomalib_tiled.results.failures import append_failure, forget_failures
from anomalib_tiled.results.prediction_row import COLUMNS, PredictedImage
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.system.bounds import read_lines
from anomalib_tiled.system.files import open_table, read_json, replacing, write_json
from anomalib_tiled.system.os_errors import readable, storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping
    from pathlib import Path

    from anomalib_tiled.config.settings import Plain


HAS_MAPS = "has_maps"
"""Among the facts: whether the model gives anomaly maps."""

RETHRESHOLDING = "deciding"
"""Among the facts while predictions are decided about again: the thresholds that are given anew."""

NEEDED = {"common", *(field.name for field in fields(PredictionSettings))}
"""Facts without which nothing can be done with predictions."""


@dataclass(frozen=True)
class Predicted:
    """What came of a prediction.

    Args:
        images: Images that were predicted.
        existing: Images that had been predicted before.
        anomalous: Anomalous images among both.
        failed: Images that could not be read or predicted.
        seconds: Time that it took, without loading.
        contradictions: A sentence on images whose labels contradict their masks; empty if there are none.
    """

    images: int
    existing: int
    anomalous: int
    failed: int
    seconds: float
    contradictions: str = ""

    def __str__(self) -> str:
        """Say it in a line."""
        speed = f" ({self.images / self.seconds:.1f} images/s)" if self.images and self.seconds else ""
        existing = f", {self.existing} predicted before" if self.existing else ""
        failed = f", {self.failed} failed" if self.failed else ""
        done = f"{self.images} images predicted in {self.seconds:.1f} s{speed}{existing}{failed}"
        said = f"{done}: {self.anomalous} of {self.images + self.existing} are anomalous."
        return f"{said} {self.contradictions}" if self.contradictions else said


@dataclass(frozen=True)
class PredictionFolder:
    """Names of the files that predictions go into.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def settings_file(self) -> Path:
        """What the predictions were made with."""
        return self.path / "prediction.json"

    @property
    def lines_file(self) -> Path:
        """The predictions, in full."""
        return self.path / "predictions.jsonl"

    @property
    def rows_file(self) -> Path:
        """The predictions as a table."""
        return self.path / "predictions.csv"

    @property
    def failures_file(self) -> Path:
        """Images that could not be read."""
        return self.path / "failures.csv"

    @property
    def coco_file(self) -> Path:
        """Regions in COCO's form."""
        return self.path / "coco.json"

    @property
    def log_file(self) -> Path:
        """What other packages had to say."""
        return self.path / "logs" / "run.log"

    def begin(self, settings: PredictionSettings, **facts: Plain) -> None:
        """Note what the predictions are made with."""
        write_json(self.settings_file, {**facts, **asdict(settings)})

    def facts(self) -> dict[str, Plain]:
        """Read what the predictions were made with.

        Raises:
            ConfigurationError: The folder holds no predictions.
            RunFolderError: What they were made with must not be read, or cannot be read any more.
        """
        with readable(self.settings_file):
            is_there = self.settings_file.is_file()
        if not is_there:
            message = (
                f"There must be predictions in {self.path}, but there is no {self.settings_file.name}. "
                "Name their folder with --output, or give --data to predict images into it."
            )
            raise ConfigurationError(message)
        try:
            facts = read_json(self.settings_file)
            lacking = NEEDED - facts.keys()
            reason = f"lacks {', '.join(sorted(lacking))}" if lacking else None
        except RunFolderError as error:
            reason = f"cannot be read ({error.__cause__ or 'it holds no JSON object'})"
        if reason is not None:
            message = (
                f"{self.settings_file} must say what the predictions beside it were made with, but {reason}. "
                "Restore it, or predict into another folder with --output."
            )
            raise RunFolderError(message)
        return dict(facts)

    def note_maps(self, *, has_maps: bool) -> None:
        """Note whether the model gives anomaly maps, which is known once it has predicted."""
        facts = self.facts()
        if facts.get(HAS_MAPS) != has_maps:
            write_json(self.settings_file, {**facts, HAS_MAPS: has_maps})

    @contextmanager
    def rethresholding(self, settings: PredictionSettings, given: Mapping[str, str]) -> Iterator[None]:
        """Note that files are being replaced one by one, until all of them are.

        Args:
            settings: What the predictions are decided by afterwards.
            given: Those of the thresholds that are given anew, by the names of their options.
        """
        facts = self.facts()
        write_json(self.settings_file, {**facts, RETHRESHOLDING: dict(given)})
        yield
        facts.pop(RETHRESHOLDING, None)
        self.begin(settings, **facts)

    def check_rethresholded(self, given: Iterable[str] = ()) -> None:
        """Refuse predictions of which only some were decided about again, unless all are decided about now.

        Args:
            given: Names of the thresholds that are about to be given anew.

        Raises:
            ConfigurationError: Deciding was interrupted, and is not what is about to be done.
        """
        deciding = self.facts().get(RETHRESHOLDING)
        if isinstance(deciding, dict) and not deciding.keys() <= set(given):
            options = " ".join(f"--{name} {value}" for name, value in deciding.items())
            message = (
                f"Deciding again about the images in {self.path} was interrupted, so that files there may contradict "
                f"each other. Finish it first: the same --output, no --data, and {options}."
            )
            raise ConfigurationError(message)

    def check_same(self, **given: Plain) -> None:
        """Refuse to put predictions beside others that were made otherwise.

        Raises:
            ConfigurationError: They were.
        """
        own = self.facts()
        for name, value in given.items():
            if own.get(name) != value:
                message = (
                    f"{self.path} holds predictions with {name} {own.get(name)!r}, not {value!r}. "
                    "Ask for the same again, or choose another folder with --output."
                )
                raise ConfigurationError(message)

    def predicted(self) -> Iterator[PredictedImage]:
        """Read the predictions, one by one. A last line that is cut off is not one.

        Raises:
            RunFolderError: A line was altered.
        """
        for image, _ in self._lines():
            yield image

    def repair(self) -> dict[str, int]:
        """Remove a last line that was cut off, and make the table say what the lines say.

        Returns:
            Labels of the images that are done, by their paths.
        """
        done, end = {}, 0
        with self._table() as write:
            for image, end in self._lines():  # noqa: B007  # the end of the last line is what is wanted
                done[image.image_path] = image.pred_label
                write(image)
        with storage_errors(self.lines_file), self.lines_file.open("ab") as file:
            file.truncate(end)
        return done

    def replace(self, images: Iterable[PredictedImage]) -> None:
        """Put other predictions in the place of those there are, once all of them are there."""
        with replacing(self.lines_file) as lines, lines.open("w", encoding="utf-8") as file, self._table() as write:
            for image in images:
                file.write(image.to_line() + "\n")
                write(image)

    def append(self, images: Iterable[PredictedImage]) -> None:
        """Add predictions; they are on the disk afterwards. The lines come first: the table can be made from them."""
        images = list(images)
        append(self.lines_file, "".join(f"{image.to_line()}\n" for image in images))
        append(self.rows_file, "".join(row(image.to_row()) for image in images))

    def append_failure(self, path: Path, error: str) -> None:
        """Note an image that could not be read."""
        append_failure(self.failures_file, path, error)

    def forget_failures(self, paths: Container[str]) -> None:
        """Take images from the list of those that could not be read: they are tried again.

        Args:
            paths: The images; others that could not be read stay in the list.
        """
        forget_failures(self.failures_file, paths)

    @contextmanager
    def _table(self) -> Iterator[Callable[[PredictedImage], int]]:
        """Write the table anew, row by row."""
        with replacing(self.rows_file) as rows, open_table(rows, "w") as file:
            file.write(row(COLUMNS))
            yield lambda image: file.write(row(image.to_row()))

    def _lines(self) -> Iterator[tuple[PredictedImage, int]]:
        """Yield the predictions, and the byte that each ends before."""
        if not self.lines_file.is_file():
            return
        number, end = 1, 0
        try:
            for line in read_lines(self.lines_file):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield PredictedImage.from_line(line), end
                number += 1
        except ValueError as error:
            message = f"Line {number} of {self.lines_file} was altered ({error}). Choose another --output."
            raise RunFolderError(message) from error
