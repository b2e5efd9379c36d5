"""How a run decides about images: the threshold, and which images are uncertain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.stages.thresholding import reported_threshold
from anomalib_tiled.system.files import read_json

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Settings
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.stages.uncertain import Band


@dataclass(frozen=True)
class ImageDecisions:
    """How a run decides about images, on the scale of reported scores.

    Args:
        threshold: Images with a higher score are anomalous; ``None`` if tiles are thresholded.
        uncertain: Scores of uncertain images; ``None`` if no image is.
    """

    threshold: float | None
    uncertain: Band | None = None

    @classmethod
    def of(cls, settings: Settings, learned: float | None) -> ImageDecisions:
        """Give the decisions by the calibrated threshold.

        Args:
            settings: The configuration.
            learned: The threshold of image scores in the calibration; ``None`` if it has none.

        Raises:
            ConfigurationError: The threshold is not within the limits of ``thresholding.uncertain``.
        """
        thresholding, normalize_at = settings.thresholding, settings.normalization.stage
        if learned is None or thresholding.stage != "image":
            return cls(None)
        sensitivity = thresholding.image_sensitivity
        threshold = reported_threshold(learned, sensitivity=sensitivity, normalize_at=normalize_at)
        uncertain = thresholding.uncertain
        return cls(threshold, None if uncertain is None else uncertain.around(threshold))

    @classmethod
    def read(cls, folder: RunFolder) -> ImageDecisions:
        """Read those of a run, from its configuration and its calibration.

        Raises:
            RunFolderError: A file is missing, or was changed.
            ConfigurationError: As for `of`.
        """
        calibration = read_json(folder.calibration_file, f"Calibrate: `anomalib tiled fit --ckpt_dir {folder.path}`.")
        try:
            level = calibration["image"]
            learned = None if level is None else float(level["scores"]["threshold"])  # type: ignore[index]  # any JSON
        except (KeyError, TypeError, ValueError) as error:
            message = f"{folder.calibration_file} has changed ({error!r}). Delete it, and run fit --ckpt_dir again."
            raise RunFolderError(message) from error
        return cls.of(folder.settings(), learned)
