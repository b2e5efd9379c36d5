"""From a batch of predictions to everything that is kept of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL import Image

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.files import replacing
from anomalib_tiled.results.pictures import Pictures, common_folder
from anomalib_tiled.results.predicted_image import PredictedImage
from anomalib_tiled.results.predictions import PredictionSettings
from anomalib_tiled.results.regions import Region, RegionSettings, in_source_size, regions_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib.data import ImageBatch, ImageItem

    from anomalib_tiled.grid import Size
    from anomalib_tiled.results.predictions import PredictionFolder
    from anomalib_tiled.run import Run


THRESHOLDS = ("threshold", "pixel_threshold")
"""Settings that can be changed without predicting anew."""


@dataclass(frozen=True)
class Recording:
    """Writes what is asked for of each prediction.

    Args:
        folder: Where it goes.
        settings: What is asked for.
        files: Names of what is kept of each image, and how overlays are drawn.
    """

    folder: PredictionFolder
    settings: PredictionSettings
    files: Pictures

    @classmethod
    def open(
        cls, run: Run, folder: PredictionFolder, settings: PredictionSettings, images: Sequence[Path]
    ) -> Recording:
        """Begin a folder of predictions, or go on with one.

        Args:
            run: Predicts.
            folder: The folder.
            settings: What is asked for.
            images: All images that are predicted.

        Raises:
            ConfigurationError: The folder holds predictions that were made otherwise, or of images in other folders, or
                files of another kind where pictures go.
        """
        common = common_folder(images)
        if folder.settings_file.exists():
            folder.check_same(**asdict(settings), calibration=_fingerprint(run))
            earlier = Path(str(folder.facts()["common"]))
            if not common.is_relative_to(earlier):
                message = (
                    f"{folder.path} holds predictions of images in {earlier}, and keeps their folders below it, but "
                    f"there are images in {common} too. Choose another folder with --output."
                )
                raise ConfigurationError(message)
            common = earlier
        else:
            folder.check_room(settings)
            facts = {"common": str(common), "run": str(run.folder.path), "calibration": _fingerprint(run)}
            folder.begin(settings, **facts)
        return cls(folder, settings, _files(run, folder, common))

    @classmethod
    def reopen(cls, run: Run, folder: PredictionFolder, settings: PredictionSettings) -> Recording:
        """Open a folder of predictions, to decide about its images again.

        Args:
            run: The run that they were predicted with.
            folder: The folder.
            settings: New thresholds; where one is ``None``, and in all else, what was asked for before holds.

        Raises:
            ConfigurationError: There are no predictions, or another run made them.
        """
        facts = folder.facts()
        folder.check_same(calibration=_fingerprint(run))
        asked = PredictionSettings(**{name: facts[name] for name in asdict(settings)})
        given = {name: value for name in THRESHOLDS if (value := getattr(settings, name)) is not None}
        return cls(folder, replace(asked, **given), _files(run, folder, Path(str(facts["common"]))))

    def note_settings(self) -> None:
        """Note what the predictions are decided by now."""
        self.folder.begin(self.settings, **self.folder.facts())

    def write(self, batch: ImageBatch, sizes: Sequence[Size], raw_scores: torch.Tensor, raw_maps: torch.Tensor) -> int:
        """Write the predictions of a batch.

        Args:
            batch: Images with predictions, on the CPU.
            sizes: Sizes of their files.
            raw_scores: Scores before the normalization of images, shape (batch,).
            raw_maps: Maps before it, shape (batch, 1, height, width).

        Returns:
            How many of the images are anomalous.
        """
        for item, raw_map in zip(batch, raw_maps, strict=True):
            if self.settings.maps is not None and item.pred_mask is not None:
                self._write_map(Path(str(item.image_path)), raw_map[0])
        told = [self.told(*each) for each in zip(batch, sizes, raw_scores.tolist(), strict=True)]
        self.draw(batch)
        self.folder.append(told)
        return sum(image.pred_label for image in told)

    def told(self, item: ImageItem, size: Size, raw_score: float) -> PredictedImage:
        """Give what is told of an image, and write its mask if that is asked for."""
        regions = RegionSettings(self.settings.min_area, segmentation=self.settings.coco)
        found: tuple[Region, ...] = ()
        if item.pred_mask is not None and item.anomaly_map is not None:
            mask = in_source_size(item.pred_mask, size) > 0
            found = regions_of(mask, in_source_size(item.anomaly_map, size), regions)
            if self.settings.masks:
                self._write_mask(Path(str(item.image_path)), mask)
        return PredictedImage(
            image_path=str(item.image_path),
            image_size=size,
            pred_score=float(cast("torch.Tensor", item.pred_score)),
            raw_score=raw_score,
            pred_label=int(cast("torch.Tensor", item.pred_label)),
            regions=found,
        )

    def draw(self, batch: ImageBatch) -> None:
        """Lay heat maps over the images, if that is asked for."""
        if self.settings.overlays:
            self.files.below("images").draw(batch)

    def read_map(self, image_path: Path) -> torch.Tensor:
        """Read a raw map, shape (height, width).

        Raises:
            RunFolderError: It has gone, or is damaged.
        """
        path = self._map_file(image_path)
        try:
            if path.suffix == ".npy":
                return torch.from_numpy(np.load(path))
            with Image.open(path) as picture:
                return torch.from_numpy(np.array(picture, dtype=np.float32))
        except (OSError, ValueError, EOFError) as error:
            message = f"{path} cannot be read ({error}). Predict its image again, into another folder."
            raise RunFolderError(message) from error

    def check_kept(self, *, maps: bool) -> None:
        """Check that all is there that deciding again reads, before anything is changed.

        Args:
            maps: Whether raw maps are read, and drawn over the images where overlays are kept.

        Raises:
            RunFolderError: Something has gone.
        """
        for image in self.folder.predicted() if maps else ():
            for path in (self._map_file(image.path), *([image.path] if self.settings.overlays else [])):
                if not path.is_file():
                    message = (
                        f"{path} is missing, which is needed to decide about {image.image_path} again. Put it back, or "
                        "predict into another folder. Nothing was changed."
                    )
                    raise RunFolderError(message)

    def _write_map(self, image_path: Path, raw_map: torch.Tensor) -> None:
        values = raw_map.cpu().numpy().astype(np.float32)
        with replacing(self._map_file(image_path)) as temporary:
            if self.settings.maps == "npy":
                with temporary.open("wb") as file:
                    np.save(file, values)
            else:
                Image.fromarray(values).save(temporary, format="TIFF")

    def _write_mask(self, image_path: Path, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> None:
        with replacing(self.files.below("masks").path_of(image_path)) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")

    def _map_file(self, image_path: Path) -> Path:
        return self.files.below("maps").path_of(image_path).with_suffix(f".{self.settings.maps}")


def _files(run: Run, folder: PredictionFolder, common: Path) -> Pictures:
    return Pictures(folder.path, common, stretch=run.settings.normalization.stage == "none")


def _fingerprint(run: Run) -> str:
    """Name what the stages learned, and their sensitivity: predictions of another calibration are not comparable."""
    thresholding = run.settings.thresholding
    sensitivities = f"{thresholding.image_sensitivity} {thresholding.pixel_sensitivity}"
    content = run.folder.calibration_file.read_bytes() + sensitivities.encode()
    return blake2b(content, digest_size=8).hexdigest()
