"""Raw maps of predictions, brought to the scale of reported scores as `predict` does it; needs PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from anomalib_tiled.ensemble.calibration import Calibration, Stages
from anomalib_tiled.ensemble.raw_prediction import final_scores
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.results.prediction_writer import PredictionWriter
from anomalib_tiled.results.regions import in_source_size
from anomalib_tiled.results.request import PredictionSettings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size
    from anomalib_tiled.report.reported_run import ReportedRun
    from anomalib_tiled.results.prediction_folder import PredictionFolder


class RawMaps:
    """Reads the maps beside predictions.

    Args:
        run: The run that predicted them.
        folder: Folder of the predictions.
        form: Format of the maps, ``npy`` or ``tiff``.
        common: Folder that all images are in.
    """

    def __init__(self, run: ReportedRun, folder: PredictionFolder, form: str, common: Path) -> None:
        files = Pictures(folder.path, common)
        self._reader = PredictionWriter(folder, PredictionSettings(maps=form), files)
        self._stages, image = Stages.build(run.settings), Calibration.from_json(run.calibration).image
        self._learned = None if image is None else image.maps

    def scores(self, path: Path, size: Size) -> NDArray[np.float32]:
        """Read the map of an image as reported scores, shrunk: each pixel has the highest score of those it covers.

        Args:
            path: The image.
            size: Height and width of the result.

        Raises:
            RunFolderError: The map is missing or damaged.
        """
        raw = torch.from_numpy(in_source_size(self._reader.read_map(path), size))
        if self._learned is None:
            return raw.numpy()
        hidden = raw.isnan()
        return final_scores(self._stages, raw.nan_to_num(), self._learned).masked_fill(hidden, torch.nan).numpy()
