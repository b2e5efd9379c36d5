"""Numbers of predicted images, from the lines of their folder; neither images nor models are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.system.bounds import read_lines
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.results.prediction_folder import PredictionFolder
    from anomalib_tiled.runs.drift_reference import DriftReference

    Numbers = NDArray[np.float64]

SCORE, APPEARANCE, TILE, REGION = "score", "appearance", "tile", "region"
"""Kinds of quantities: the score of an image, how it looks, scores of its tiles, and of named regions."""


@dataclass(frozen=True)
class Quantity:
    """A number of each image.

    Args:
        kind: One of the kinds above.
        name: Field of `Appearance`, name of the tile or region; empty for the score of the image.
    """

    kind: str
    name: str = ""

    def __str__(self) -> str:
        """Name it in a list: a field of `Appearance`, ``score``, ``tile r00_c03`` or ``region screw``."""
        return self.name if self.kind == APPEARANCE else f"{self.kind} {self.name}".strip()


def quantities_of(reference: DriftReference) -> dict[Quantity, Numbers]:
    """Give the numbers of the reference, shape (images,) each."""
    groups = {APPEARANCE: reference.appearance, TILE: reference.tiles, REGION: reference.regions}
    named = {Quantity(kind, name): each for kind, group in groups.items() for name, each in group.items()}
    return {Quantity(SCORE): reference.scores, **named}


@dataclass(frozen=True, eq=False)
class PredictedNumbers:
    """Numbers of predicted images, in the order in which they were predicted.

    Args:
        paths: The images in which the part is found.
        values: Their numbers, shape (images, quantities); NaN where an image has none.
        unaligned: How many images there are in which the part is not found.
    """

    paths: Sequence[str]
    values: Numbers
    unaligned: int

    @classmethod
    def read(cls, folder: PredictionFolder, quantities: Sequence[Quantity]) -> PredictedNumbers:
        """Read complete lines; one that is being written is left out.

        Args:
            folder: The predictions.
            quantities: What to read.

        Raises:
            ConfigurationError: An earlier version has written a line.
            RunFolderError: A line was changed.
        """
        paths, values, unaligned, number, path = [], [], 0, 1, folder.lines_file
        try:
            for number, line in enumerate(_complete_lines(path), start=1):  # noqa: B007  # named in the message
                image = PredictedImage.from_line(line)
                if image.unaligned:
                    unaligned += 1
                elif image.appearance is not None and image.tiles:
                    paths.append(image.image_path)
                    values.append([_number(image, each) for each in quantities])
                else:
                    raise ConfigurationError(_of_an_earlier_version(folder.path))
        except ValueError as error:
            message = f"Line {number} of {path} was changed ({error}). Predict into another folder."
            raise RunFolderError(message) from error
        return cls(paths, np.array(values, np.float64).reshape(len(paths), len(quantities)), unaligned)


def _complete_lines(path: Path) -> Iterator[bytes]:
    """Read lines, without the last one while it is being written; none if nothing is predicted yet."""
    if path.is_file():
        with readable(path):
            yield from (line for line in read_lines(path) if line.endswith(b"\n"))


def _of_an_earlier_version(folder: Path) -> str:
    return (
        f"The predictions in {folder} must say how images look and what their tiles score, but an earlier version has "
        "written some of them. Predict the images again, into another folder."
    )


def _number(image: PredictedImage, quantity: Quantity) -> float:
    """Give a number of an image; NaN if it has none."""
    value: float | None
    if quantity.kind == SCORE:
        value = image.pred_score
    elif quantity.kind == REGION:
        region = image.named_regions.get(quantity.name)
        value = None if region is None else region.score
    elif quantity.kind == TILE:
        value = image.tiles.get(quantity.name)
    else:
        value = getattr(image.appearance, quantity.name, None)
    return np.nan if value is None else value
