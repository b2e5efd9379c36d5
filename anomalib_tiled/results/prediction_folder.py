"""Predictions on the disk: one line for each image, written batch by batch."""

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
"""Key of the facts: whether the model gives anomaly maps."""

RETHRESHOLDING = "deciding"
"""Key of the facts while new thresholds are applied: these thresholds."""

NEEDED = {"common", *(field.name for field in fields(PredictionSettings))}
"""Facts that are necessary to use predictions."""


@dataclass(frozen=True)
class Predicted:
    """Summary of a prediction.

    Args:
        images: Images that were predicted.
        existing: Images that had been predicted before.
        anomalous: Anomalous images among both.
        failed: Images that could not be read or predicted.
        seconds: Duration, without loading.
        contradictions: A sentence on images whose labels contradict their masks; empty if there are none.
    """

    images: int
    existing: int
    anomalous: int
    failed: int
    seconds: float
    contradictions: str = ""

    def __str__(self) -> str:
        """The summary in a line."""
        speed = f" ({self.images / self.seconds:.1f} images/s)" if self.images and self.seconds else ""
        existing = f", {self.existing} predicted before" if self.existing else ""
        failed = f", {self.failed} failed" if self.failed else ""
        done = f"{self.images} images predicted in {self.seconds:.1f} s{speed}{existing}{failed}"
        summary = f"{done}: {self.anomalous} of {self.images + self.existing} are anomalous."
        return f"{summary} {self.contradictions}" if self.contradictions else summary


@dataclass(frozen=True)
class PredictionFolder:
    """The files of predictions.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def settings_file(self) -> Path:
        """Settings and facts of the predictions."""
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
        """Regions in COCO's format."""
        return self.path / "coco.json"

    @property
    def log_file(self) -> Path:
        """Log, with the messages of other packages."""
        return self.path / "logs" / "run.log"

    def begin(self, settings: PredictionSettings, **facts: Plain) -> None:
        """Write the settings and facts of the predictions."""
        write_json(self.settings_file, {**facts, **asdict(settings)})

    def facts(self) -> dict[str, Plain]:
        """Read the settings and facts of the predictions.

        Raises:
            ConfigurationError: The folder holds no predictions.
            RunFolderError: The settings cannot be read.
        """
        with readable(self.settings_file):
            is_there = self.settings_file.is_file()
        if not is_there:
            message = (
                f"There must be predictions in {self.path}, but there is no {self.settings_file.name}. "
                "Choose their folder with --output, or give --data to predict images into it."
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
                f"{self.settings_file} must hold the settings of the predictions beside it, but {reason}. "
                "Restore it, or predict into another folder with --output."
            )
            raise RunFolderError(message)
        return dict(facts)

    def note_maps(self, *, has_maps: bool) -> None:
        """Record whether the model gives anomaly maps, which is known after its first prediction."""
        facts = self.facts()
        if facts.get(HAS_MAPS) != has_maps:
            write_json(self.settings_file, {**facts, HAS_MAPS: has_maps})

    @contextmanager
    def rethresholding(self, settings: PredictionSettings, given: Mapping[str, str]) -> Iterator[None]:
        """Record the new thresholds while files are replaced one by one, until all are replaced.

        Args:
            settings: Settings of the predictions afterwards.
            given: The new thresholds, by the names of their options.
        """
        facts = self.facts()
        write_json(self.settings_file, {**facts, RETHRESHOLDING: dict(given)})
        yield
        facts.pop(RETHRESHOLDING, None)
        self.begin(settings, **facts)

    def check_rethresholded(self, given: Iterable[str] = ()) -> None:
        """Refuse predictions to only some of which new thresholds were applied, unless all of them change now.

        Args:
            given: Names of the thresholds that change now.

        Raises:
            ConfigurationError: Applying other thresholds was interrupted, and has to be finished first.
        """
        unfinished = self.facts().get(RETHRESHOLDING)
        if isinstance(unfinished, dict) and not unfinished.keys() <= set(given):
            options = " ".join(f"--{name} {value}" for name, value in unfinished.items())
            message = (
                f"Applying new thresholds to the images in {self.path} was interrupted, so files there may contradict "
                f"each other. Finish it first: the same --output, no --data, and {options}."
            )
            raise ConfigurationError(message)

    def check_same(self, **given: Plain) -> None:
        """Refuse to add predictions to others with different settings.

        Raises:
            ConfigurationError: The settings differ.
        """
        own = self.facts()
        for name, value in given.items():
            if own.get(name) != value:
                message = (
                    f"{self.path} holds predictions with {name} {own.get(name)!r}, not {value!r}. "
                    "Use the same settings, or choose another folder with --output."
                )
                raise ConfigurationError(message)

    def predicted(self) -> Iterator[PredictedImage]:
        """Read the predictions, one by one, without a last line that was cut off.

        Raises:
            RunFolderError: A line was changed.
        """
        for image, _ in self._lines():
            yield image

    def repair(self) -> dict[str, int]:
        """Remove a last line that was cut off, and write the table again from the lines.

        Returns:
            Labels of the predicted images, by their paths.
        """
        done, end = {}, 0
        with self._table() as write:
            for image, end in self._lines():  # noqa: B007  # the end of the last line is used below
                done[image.image_path] = image.pred_label
                write(image)
        with storage_errors(self.lines_file), self.lines_file.open("ab") as file:
            file.truncate(end)
        return done

    def replace(self, images: Iterable[PredictedImage]) -> None:
        """Replace all predictions, once all new ones are written."""
        with replacing(self.lines_file) as lines, lines.open("w", encoding="utf-8") as file, self._table() as write:
            for image in images:
                file.write(image.to_line() + "\n")
                write(image)

    def append(self, images: Iterable[PredictedImage]) -> None:
        """Append predictions. The lines come first: the table can be made from them."""
        images = list(images)
        append(self.lines_file, "".join(f"{image.to_line()}\n" for image in images))
        append(self.rows_file, "".join(row(image.to_row()) for image in images))

    def append_failure(self, path: Path, error: str) -> None:
        """Note an image that could not be read."""
        append_failure(self.failures_file, path, error)

    def forget_failures(self, paths: Container[str]) -> None:
        """Remove images from the list of those that could not be read, to try them again.

        Args:
            paths: The images; others stay in the list.
        """
        forget_failures(self.failures_file, paths)

    @contextmanager
    def _table(self) -> Iterator[Callable[[PredictedImage], int]]:
        """Write a new table, row by row."""
        with replacing(self.rows_file) as rows, open_table(rows, "w") as file:
            file.write(row(COLUMNS))
            yield lambda image: file.write(row(image.to_row()))

    def _lines(self) -> Iterator[tuple[PredictedImage, int]]:
        """Yield the predictions, each with the position in bytes where it ends."""
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
            message = f"Line {number} of {self.lines_file} was changed ({error}). Choose another --output."
            raise RunFolderError(message) from error
