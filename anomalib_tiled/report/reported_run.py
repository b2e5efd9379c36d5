"""The run that a report is about: what its files say, without its models."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from anomalib_tiled.runs.image_decisions import ImageDecisions
from anomalib_tiled.runs.run_grid import read_grid
from anomalib_tiled.runs.run_regions import read_regions
from anomalib_tiled.runs.run_split import read_split
from anomalib_tiled.stages.thresholding import reported_threshold
from anomalib_tiled.system.files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.config.settings import Plain, Settings
    from anomalib_tiled.data.split import Split
    from anomalib_tiled.grid import TileGrid
    from anomalib_tiled.results.prediction_row import PredictedImage
    from anomalib_tiled.runs.run_folder import RunFolder


@dataclass(frozen=True)
class ReportedRun:
    """A run whose results are shown.

    Args:
        folder: The run folder.
        settings: Its configuration.
        grid: Where its tiles lie.
        calibration: Content of ``calibration.json``.
    """

    folder: RunFolder
    settings: Settings
    grid: TileGrid
    calibration: dict[str, Plain]

    @classmethod
    def read(cls, folder: RunFolder) -> ReportedRun:
        """Read the files of a run.

        Raises:
            RunFolderError: It is not calibrated, or a file was changed.
        """
        settings = folder.settings()
        advice = f"Calibrate: `anomalib tiled fit --ckpt_dir {folder.path}`."
        folder.read(folder.calibration_file, advice)
        grid = read_grid(folder, settings, read_regions(folder, settings))
        grid = grid.without(folder.left_out(grid, settings))
        return cls(folder, settings, grid, read_json(folder.calibration_file, advice))

    @property
    def title(self) -> str:
        """Name of the run, such as ``Padim/boards/v3``."""
        return "/".join(self.folder.path.parts[-3:])

    @cached_property
    def split(self) -> Split:
        """Which image was used for what."""
        return read_split(self.folder)

    @cached_property
    def decisions(self) -> ImageDecisions:
        """How it decides about images."""
        return ImageDecisions.read(self.folder)

    @property
    def fingerprint(self) -> str:
        """Identifies what decides about images."""
        return self.folder.calibration_fingerprint(self.settings)

    @property
    def is_normalized(self) -> bool:
        """Whether scores are between 0 and 1."""
        return self.settings.normalization.stage != "none"

    @property
    def pixel_threshold(self) -> float | None:
        """Pixels with a higher score are anomalous; ``None`` if each tile has a threshold of its own, and a scale."""
        thresholding, place = self.settings.thresholding, self.settings.normalization.stage
        level = self.calibration["image"] if thresholding.stage == "image" else None
        if level is None and place != "tile":
            return None
        learned = 0.0 if level is None else float(level["maps"]["threshold"])
        return reported_threshold(learned, sensitivity=thresholding.pixel_sensitivity, normalize_at=place)

    def threshold_for(self, images: Sequence[PredictedImage]) -> tuple[float, str]:
        """Give the threshold that images were decided by, and a note if no score separates their labels.

        It is looked up in the images where others were decided by one that the run does not know: another threshold was
        given to `predict`, or tiles were thresholded.

        Args:
            images: The images with their scores and labels.
        """
        found = [(each.pred_score, bool(each.pred_label)) for each in images]
        scored = [(score, label) for score, label in found if score is not None]
        own = self.decisions.threshold
        guess = (0.5 if self.is_normalized else None) if own is None else own
        if guess is not None and all((score > guess) == label for score, label in scored):
            return guess, ""
        normal = [score for score, label in scored if not label]
        anomalous = [score for score, label in scored if label]
        if normal and anomalous and max(normal) < min(anomalous):
            return (max(normal) + min(anomalous)) / 2, ""
        if not normal or not anomalous:
            edge = min(anomalous) if anomalous else max(normal, default=0.0)
            return (edge if normal else edge - abs(edge) * 1e-6), ""
        note = (
            "Labels do not follow from the scores of images, as each tile has a threshold of its own. The line stands "
            "where most labels agree with it."
        )
        return _best(scored), note

    @property
    def configured_by(self) -> str:
        """Which setting makes a chosen threshold the run's own, as of a `Scale`."""
        normalize_at, threshold_at = self.settings.normalization.stage, self.settings.thresholding.stage
        return "sensitivity" if normalize_at in {"tile", threshold_at} else "manual"

    @property
    def quoted(self) -> str:
        """The run folder, quoted for a shell."""
        return shlex.quote(str(self.folder.path))


def _best(scored: Sequence[tuple[float, bool]]) -> float:
    """Give the score that agrees with most labels as a threshold."""
    scores, labels = (np.array(each) for each in zip(*sorted(scored), strict=True))
    agreeing = np.cumsum(~labels) + labels[::-1].cumsum()[::-1] - labels
    return float(scores[np.argmax(agreeing)])
