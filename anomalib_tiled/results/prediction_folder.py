"""Predictions on the disk: settings, a line and a row for each image, failures, regions in COCO's format.

The lines are the predictions in full; table and COCO file can be made from them. All files are written so that a
prediction that was interrupted can be resumed, and nothing is mixed with other predictions or overwrites other files.
"""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, count, repeat
from math import inf
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.results.prediction_row import CATEGORY, COLUMNS, UNALIGNED, VERDICT, PredictedImage
from anomalib_tiled.results.region_decisions import region_columns
from anomalib_tiled.results.request import PredictionFacts
from anomalib_tiled.stages.uncertain import Band
from anomalib_tiled.system.bounds import read_lines
from anomalib_tiled.system.files import json_line, open_table, read_json, read_table, replacing, write_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.temporary import TEMPORARY, remove_abandoned
from anomalib_tiled.system.validation import validated

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.results.request import PredictionSettings

ALIGNED = "aligned"
"""Key of the facts: the run aligns images, so the table has a column for those in which the part is not found."""

HAS_MAPS = "has_maps"
"""Key of the facts: whether the model gives anomaly maps."""

NAMED_REGIONS = "named_regions"
"""Key of the facts: names of the named regions, if the run has some."""

UNCERTAIN = "uncertain"
"""Key of the facts: the limits of the scores of uncertain images, if there are some; then the table has verdicts."""

RETHRESHOLDING = "deciding"
"""Key of the facts while new thresholds are applied: these thresholds."""

FAILURE_COLUMNS = ["image_path", "error"]

PICTURES = ("images", "masks", "maps")
"""Folders of the files for each image."""


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

    @property
    def parts(self) -> Path:
        """What places have predicted and the command has not collected yet; gone when all is predicted."""
        return self.path / "predict.parts"

    def picture_folders(self, settings: PredictionSettings) -> list[Path]:
        """Give the folders for the requested overlays, masks and maps."""
        requested = (settings.overlays, settings.masks, settings.maps is not None)
        return [self.path / name for name, is_requested in zip(PICTURES, requested, strict=True) if is_requested]

    def check_free(self, settings: PredictionSettings, *, resume: bool) -> None:
        """Refuse a folder in which a prediction would mix with another one, or overwrite other files.

        Args:
            settings: Settings of the prediction.
            resume: Whether to resume the predictions in the folder.

        Raises:
            ConfigurationError: The folder holds predictions already, or files that would be replaced.
            RunFolderError: The folder holds predictions without their settings.
        """
        if self._is_begun():
            if resume or not self.holds_results():
                return
            message = (
                f"{self.path} holds predictions already. Choose another folder with --output, resume with "
                "--skip_existing, leave --data out to apply other thresholds to its images, or delete it."
            )
            raise ConfigurationError(message)
        if _is_filled(self.lines_file):
            message = (
                f"{self.lines_file} holds predictions, but {self.settings_file.name} with their settings is missing "
                "beside it. Restore it, or choose another folder with --output."
            )
            raise RunFolderError(message)
        coco = [self.coco_file] if settings.coco else []
        written = [*self.picture_folders(settings), *coco, self.rows_file, self.failures_file, self.parts]
        if taken := [path.name for path in written if _is_filled(path)]:
            message = (
                f"A prediction into {self.path} would overwrite {', '.join(taken)} there. "
                "Choose another folder with --output, or move these away."
            )
            raise ConfigurationError(message)

    def clean_up(self, settings: PredictionSettings) -> None:
        """Remove what places have left half done; for the process that has locked the folder, once they have ended.

        Args:
            settings: Settings of the prediction.
        """
        for folder in (self.parts, *self.picture_folders(settings)):
            remove_abandoned(folder.rglob(TEMPORARY), patience=-inf)

    def holds_results(self) -> bool:
        """Whether there are results of a prediction; one without any may still leave its settings and failures."""
        pictures = (self.path / name for name in PICTURES)
        filled = any(map(_is_filled, (self.lines_file, self.coco_file, *pictures)))
        return self._is_begun() and (filled or any(self.parts.glob("*.jsonl")))

    def begin(self, settings: PredictionSettings, **facts: Plain) -> None:
        """Write the settings and facts of the predictions."""
        write_json(self.settings_file, {**facts, **settings.to_json()})

    def facts(self) -> dict[str, Plain]:
        """Read the settings and facts of the predictions.

        Raises:
            ConfigurationError: The folder holds no predictions.
            RunFolderError: The settings cannot be read.
        """
        if not self._is_begun():
            message = (
                f"There must be predictions in {self.path}, but there is no {self.settings_file.name}. "
                "Choose their folder with --output, or give --data to predict images into it."
            )
            raise ConfigurationError(message)
        try:
            content = read_json(self.settings_file)
            return {**content, **validated(PredictionFacts, content)}
        except RunFolderError as error:
            reason = f"cannot be read ({error.__cause__ or 'it holds no JSON object'})"
        except ValueError as error:
            reason = str(error)
        message = (
            f"{self.settings_file} must hold the settings of the predictions beside it, but {reason}. "
            "Restore it, or predict into another folder with --output."
        )
        raise RunFolderError(message)

    def note_maps(self, *, has_maps: bool) -> None:
        """Record whether the model gives anomaly maps, which is known after its first prediction."""
        facts = self.facts()
        if facts.get(HAS_MAPS) != has_maps:
            write_json(self.settings_file, {**facts, HAS_MAPS: has_maps})

    def uncertain(self) -> Band | None:
        """Read which scores uncertain images have; ``None`` if no image is uncertain."""
        limits = self.facts().get(UNCERTAIN) if self._is_begun() else None
        return None if limits is None else Band(**limits)

    def check_same_limits(self, uncertain: Band | None) -> None:
        """Refuse to add predictions to others with other uncertain images.

        Args:
            uncertain: Scores of uncertain images; ``None`` if no image is.

        Raises:
            ConfigurationError: The scores differ.
        """
        if (own := self.uncertain()) != uncertain:
            message = (
                f"{self.path} holds predictions with {_in_words(own)}, but now there are {_in_words(uncertain)}. Set "
                "thresholding.uncertain of the run, or --uncertain, as before; or choose another folder with --output; "
                "or leave --data out, and give --threshold or --uncertain to judge the images there anew."
            )
            raise ConfigurationError(message)

    @contextmanager
    def rethresholding(
        self, settings: PredictionSettings, given: Mapping[str, str], uncertain: Band | None
    ) -> Iterator[None]:
        """Record the new thresholds while files are replaced one by one, until all are replaced.

        Args:
            settings: Settings of the predictions afterwards.
            given: The new thresholds, by the names of their options.
            uncertain: Scores of uncertain images afterwards; ``None`` if no image is.
        """
        facts = {name: value for name, value in self.facts().items() if name != UNCERTAIN} | in_facts(uncertain)
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

    def check_same(self, *, calibration: Plain = None, **options: Plain) -> None:
        """Refuse to add predictions to others with different options.

        Args:
            calibration: Fingerprint of the calibration of the run.
            options: Options of the command; those of the folder that are left out are not compared.

        Raises:
            ConfigurationError: The calibration or an option differs.
        """
        own = self.facts()
        if calibration is not None and own.get("calibration") != calibration:
            message = (
                f"{self.path} holds predictions of another run, or of this run before it was calibrated anew. "
                "Choose another folder with --output."
            )
            raise ConfigurationError(message)
        for name, value in options.items():
            if own.get(name) != value:
                message = (
                    f"{self.path} holds predictions {_with_option(name, own.get(name))}, but this command is "
                    f"{_with_option(name, value)}. Give the same options, or choose another folder with --output."
                )
                raise ConfigurationError(message)

    def predicted(self) -> Iterator[PredictedImage]:
        """Read the predictions, one by one, without a last line that was cut off.

        Raises:
            RunFolderError: A line was changed.
        """
        for image, _ in self._lines():
            yield image

    def repair(self) -> dict[str, str]:
        """Remove a last line that was cut off, and write the table again from the lines.

        Returns:
            Verdicts on the predicted images, by their paths.
        """
        done: dict[str, str] = {}
        end = 0
        with self._table() as write:
            for image, end in self._lines():  # noqa: B007  # the end of the last line is used below
                done[image.image_path] = image.verdict
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
        with _appending(self.lines_file) as file:
            file.write("".join(f"{image.to_line()}\n" for image in images))
        with _appending(self.rows_file) as file:
            _write_rows(file, map(self._row, images))

    def append_failure(self, path: Path, error: str) -> None:
        """Note an image that could not be read, and the reason."""
        heading = [] if self.failures_file.exists() else [FAILURE_COLUMNS]
        with _appending(self.failures_file) as file:
            _write_rows(file, [*heading, [path, error]])

    def forget_failures(self, paths: Container[str]) -> set[str]:
        """Remove images from the list of those that could not be read, to try them again.

        Args:
            paths: The images; others stay in the list.

        Returns:
            The images that were in the list.

        Raises:
            RunFolderError: The file was changed, and is no such list.
        """
        if not self.failures_file.exists():
            return set()
        try:
            table = list(csv.reader(read_table(self.failures_file)))
        except (ValueError, csv.Error) as error:
            message = (
                f"{self.failures_file} must be a list of images that failed, but was changed ({error}). Move it away."
            )
            raise RunFolderError(message) from error
        whole = [cells for cells in table[1:] if len(cells) == len(FAILURE_COLUMNS)]  # the last row may be cut off
        if others := [cells for cells in whole if cells[0] not in paths]:
            with replacing(self.failures_file) as temporary, open_table(temporary, "w") as file:
                _write_rows(file, [FAILURE_COLUMNS, *others])
        else:
            with storage_errors(self.failures_file):
                self.failures_file.unlink()
        return {cells[0] for cells in whole if cells[0] in paths}

    def write_coco(self) -> None:
        """Write ``coco.json``. The lines are read twice, so that memory does not depend on their number."""
        numbers = count(1)
        images = (image.coco_image(number) for number, image in enumerate(self.predicted(), start=1))
        regions = (image.coco_annotations(number, numbers) for number, image in enumerate(self.predicted(), start=1))
        with replacing(self.coco_file) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"categories": [{json.dumps(CATEGORY)}],\n"images": [')
            _write_list(file, images)
            file.write('],\n"annotations": [')
            _write_list(file, chain.from_iterable(regions))
            file.write("]}\n")

    def _is_begun(self) -> bool:
        with storage_errors(self.path):
            return self.settings_file.exists()

    @contextmanager
    def _table(self) -> Iterator[Callable[[PredictedImage], None]]:
        """Write a new table, row by row."""
        with replacing(self.rows_file) as rows, open_table(rows, "w") as file:
            _write_rows(file, [self._columns()])
            yield lambda image: _write_rows(file, [self._row(image)])

    def _columns(self) -> list[str]:
        """Give the columns of the table: verdicts and those of named regions and alignment only if the run has any."""
        facts = self.facts() if self._is_begun() else {}
        own = [*COLUMNS, *([VERDICT] if facts.get(UNCERTAIN) else [])]
        return [*own, *([UNALIGNED] if facts.get(ALIGNED) else []), *region_columns(facts.get(NAMED_REGIONS, []))]

    def _row(self, image: PredictedImage) -> list[Plain]:
        """Give the row of an image; the cells of named regions stay empty if the part is not found."""
        row = image.to_row()
        return [*row, *[""] * (len(self._columns()) - len(row))] if image.unaligned else row

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


def in_facts(uncertain: Band | None) -> dict[str, Plain]:
    """Give what the facts say about uncertain images: nothing if no image is."""
    return {} if uncertain is None else {UNCERTAIN: asdict(uncertain)}


def _in_words(uncertain: Band | None) -> str:
    if uncertain is None:
        return "no uncertain images"
    return f"scores from {uncertain.lower:.6g} to {uncertain.upper:.6g} as uncertain"


def _is_filled(path: Path) -> bool:
    with storage_errors(path):
        return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


@contextmanager
def _appending(path: Path) -> Iterator[TextIO]:
    with storage_errors(path), open_table(path, "a") as file:
        yield file


def _write_rows(file: TextIO, rows: Iterable[Iterable[object]]) -> None:
    csv.writer(file, lineterminator="\n").writerows(rows)


def _write_list(file: TextIO, entries: Iterable[Mapping[str, Plain]]) -> None:
    separators = chain(["\n"], repeat(",\n"))
    file.writelines(before + json_line(entry) for entry, before in zip(entries, separators))  # noqa: B905  # separators never end


def _with_option(name: str, value: Plain) -> str:
    """Say how an option of the command is given, such as ``with --threshold 0.5``."""
    if value in (None, False):
        return f"without --{name}"
    return f"with --{name}" if value is True else f"with --{name} {value}"
