"""Scores of normal validation images, from which a threshold can be read after the run is calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from anomalib_tiled.ensemble.observed import Observed
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.stages.distribution import ScoreDistribution
from anomalib_tiled.stages.normals import clear_of_rounding
from anomalib_tiled.system.files import replacing

ROUNDING = 1e-9
"""Keeps 0.99 × 100 from being a hair more than 99."""


@dataclass(frozen=True)
class NormalScores:
    """How often each normal score occurs.

    Args:
        scores: Ascending, shape (scores,).
        counts: Number of times that each score occurs, shape (scores,).
        margin: How far rounding may move a score.
    """

    scores: NDArray[np.float64]
    counts: NDArray[np.float64]
    margin: float = 0.0

    @classmethod
    def of(cls, distribution: ScoreDistribution) -> NormalScores:
        """Take the normal scores of a distribution."""
        counts = distribution.counts()
        occurring = counts.normal > 0
        margin = distribution.margin if occurring.any() else 0.0
        return cls(counts.upper[occurring], counts.normal[occurring], margin)

    @property
    def total(self) -> int:
        """Number of scores."""
        return int(self.counts.sum())

    def quantile(self, fraction: float) -> float:
        """Give the lowest score that at most 1 - fraction of all scores exceed, moved away from rounding."""
        needed = max(fraction * self.total - ROUNDING, 0)
        score = self.scores[min(int(np.searchsorted(np.cumsum(self.counts), needed)), len(self.scores) - 1)]
        return clear_of_rounding(float(score), self.scores, self.margin)


@dataclass(frozen=True)
class ValidationScores:
    """Normal scores of validation images and their pixels, on the scale before the normalization of images.

    Args:
        images: Scores of normal images, exactly.
        pixels: Scores of normal pixels, each the upper end of its bin, which is at most a 260 000th of the range of
            all scores wide; empty if there are no maps, or some masks are missing.
        configuration: Fingerprint of the settings that decide the scores.
    """

    images: NormalScores
    pixels: NormalScores
    configuration: str

    @classmethod
    def of(cls, observed: Observed, configuration: str) -> ValidationScores:
        """Take the normal scores of whole images, from a calibration with settings of this fingerprint."""
        nothing = NormalScores(np.zeros(0), np.zeros(0))
        pixels = NormalScores.of(observed.maps) if observed.every_mask_known else nothing
        return cls(NormalScores.of(observed.scores), pixels, configuration)

    def write(self, path: Path) -> None:
        """Write a ``.npz`` file."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                configuration=np.array(self.configuration),
                image_scores=self.images.scores,
                image_counts=self.images.counts,
                pixel_scores=self.pixels.scores,
                pixel_counts=self.pixels.counts,
                margins=np.array([self.images.margin, self.pixels.margin]),
            )

    @classmethod
    def read(cls, path: Path) -> ValidationScores | None:
        """Read a file that ``write`` has written; ``None`` if there is none.

        Raises:
            RunFolderError: The file has changed.
        """
        try:
            with np.load(path) as content:
                written = str(content["configuration"])
                of_images, of_pixels = content["margins"].tolist()
                images = NormalScores(content["image_scores"], content["image_counts"], of_images)
                pixels = NormalScores(content["pixel_scores"], content["pixel_counts"], of_pixels)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile) as error:
            message = f"{path} has changed ({error!r}). Delete it, and run `anomalib tiled fit --ckpt_dir` again."
            raise RunFolderError(message) from error
        return cls(images, pixels, written)
