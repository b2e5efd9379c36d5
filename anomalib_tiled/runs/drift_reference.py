"""How the normal images look and score that a run was calibrated with: a file of the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from anomalib_tiled.runs.run_folder import RunFolder

    Numbers = NDArray[np.float64]

GROUPS = ("appearance", "tile", "region")
"""Quantities that have names; that of `DriftReference.scores` is alone."""


@dataclass(frozen=True, eq=False)
class DriftReference:
    """Numbers of the normal images that a run was calibrated with, each of shape (images,).

    Args:
        subset: ``val``, or ``train`` if there were no validation images: then scores of new images are higher.
        configuration: Fingerprint of the settings that decide the scores.
        scores: ``pred_score`` of each image.
        appearance: How the images look: fields of `Appearance`, by their names.
        tiles: Score of each tile that its model gives, by its name; NaN where no pixel of the tile counts.
        regions: Score of each named region, by its name.
    """

    subset: str
    configuration: str
    scores: Numbers
    appearance: Mapping[str, Numbers]
    tiles: Mapping[str, Numbers]
    regions: Mapping[str, Numbers]

    def write(self, folder: RunFolder) -> None:
        """Write the file, and its checksum.

        Raises:
            StorageError: The disk is full.
        """
        path, groups = folder.drift_reference_file, (self.appearance, self.tiles, self.regions)
        named: dict[str, Any] = {}
        for group, columns in zip(GROUPS, groups, strict=True):
            named[f"{group}_names"] = np.array([*columns], np.str_)
            named[group] = np.array([*columns.values()], np.float32).reshape(len(columns), len(self.scores)).T
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                subset=np.array(self.subset),
                configuration=np.array(self.configuration),
                scores=np.asarray(self.scores, np.float32),
                **named,
            )
        folder.note_checksum(path)

    @classmethod
    def read(cls, folder: RunFolder) -> DriftReference:
        """Read the file.

        Raises:
            RunFolderError: It is missing, as in runs of earlier versions, or was changed.
        """
        advice = f"Calibrate again: `anomalib tiled fit --ckpt_dir {folder.path}`."
        path = folder.drift_reference_file
        if not path.is_file():
            message = (
                f"{folder.path} must hold how normal images look and score, but {path.name} is missing: an earlier "
                f"version has calibrated the run. {advice}"
            )
            raise RunFolderError(message)
        try:
            with np.load(BytesIO(folder.read(path, advice)), allow_pickle=False) as file:
                appearance, tiles, regions = (_columns(file[f"{group}_names"], file[group]) for group in GROUPS)
                own = str(file["subset"]), str(file["configuration"]), file["scores"].astype(np.float64)
                return cls(*own, appearance, tiles, regions)
        except (ValueError, KeyError, TypeError, BadZipFile) as error:
            message = f"{path} cannot be read ({error!r}). {advice}"
            raise RunFolderError(message) from error


def _columns(names: NDArray[np.str_], values: NDArray[np.float32]) -> dict[str, Numbers]:
    return {str(name): column.astype(np.float64) for name, column in zip(names, values.T, strict=True)}
