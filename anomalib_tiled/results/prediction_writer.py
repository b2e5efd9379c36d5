"""Writes the files of each prediction: masks, maps and overlays."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.data.image_files import DAMAGE
from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.errors import ConfigurationError, DataError, RunFolderError, StorageError
from anomalib_tiled.results.composition import BESIDE, Layers, Style
from anomalib_tiled.results.margin import Caption
from anomalib_tiled.results.pictures import Pictures, common_folder, given_folders
from anomalib_tiled.results.prediction_folder import ALIGNED, NAMED_REGIONS, PredictionFolder, in_facts
from anomalib_tiled.results.prediction_row import Details, PredictedImage
from anomalib_tiled.results.region_decisions import named_regions
from anomalib_tiled.results.regions import InFile, in_source_size, regions_of
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.system.files import is_file, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anomalib.data import ImageItem
    from numpy.typing import NDArray

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.results.region import Region
    from anomalib_tiled.results.request import PredictionRequest
    from anomalib_tiled.results.thresholds import FinalThresholds
    from anomalib_tiled.stages.uncertain import Band


def arithmetic_of(run: Run, request: PredictionRequest) -> dict[str, Plain]:
    """Give precision and engine of a folder of predictions; ``None`` for those that need not be the same again.

    Args:
        run: The run that predicts.
        request: Settings of the prediction.
    """
    engine = None if run.job.predicts_in == FLOAT32 or request.engine == TORCH else request.engine
    return {"precision": run.precision, "engine": engine}


@dataclass(frozen=True)
class PredictionWriter:
    """Writes the requested files of each prediction.

    Args:
        folder: Folder of the predictions.
        settings: Which files to write.
        files: Names the files of each image, and draws overlays.
    """

    folder: PredictionFolder
    settings: PredictionSettings
    files: Pictures

    @classmethod
    def open(
        cls, run: Run, request: PredictionRequest, images: Sequence[Path], uncertain: Band | None = None
    ) -> PredictionWriter:
        """Begin a folder of predictions, or resume one.

        Args:
            run: The run that predicts.
            request: Settings of the prediction, and its folder.
            images: All images to predict.
            uncertain: Scores of uncertain images; ``None`` if no image is.

        Raises:
            ConfigurationError: The folder holds predictions with other settings, pictures of images in other folders,
                or files that would be replaced.
            RunFolderError: The settings of the predictions in the folder are lost.
        """
        folder, settings = PredictionFolder(request.output), request.settings
        calibration = run.folder.calibration_fingerprint(run.settings)
        arithmetic = arithmetic_of(run, request)
        folder.check_free(settings, resume=request.skip_existing)
        images = [path for path in images if is_file(path)] or images  # missing ones are reported later
        common = common_folder(images, given_folders(request.data))
        if folder.holds_results():
            folder.check_rethresholded()
            folder.check_same(**settings.to_json(), **arithmetic, calibration=calibration)
            folder.check_same_limits(uncertain)
            common = _earlier_folder(folder, settings, images)
        else:
            facts: dict[str, Plain] = {"common": str(common), "run": str(run.folder.path)}
            facts |= {name: value for name, value in arithmetic.items() if value is not None}
            facts |= {
                "calibration": calibration,
                **({ALIGNED: True} if run.is_aligned else {}),
            }
            facts |= {NAMED_REGIONS: names} if (names := named_regions(run.regions)) else {}
            folder.begin(settings, **facts, **in_facts(uncertain))
            if not request.skip_existing:  # else earlier failures stay in the list
                folder.failures_file.unlink(missing_ok=True)
        return cls(folder, settings, _files(run, settings, folder.path, common))

    @classmethod
    def reopen(cls, run: Run, folder: PredictionFolder, settings: PredictionSettings) -> PredictionWriter:
        """Open a folder of predictions, to apply new thresholds.

        Args:
            run: The run that made the predictions.
            folder: The folder.
            settings: New thresholds; ``None`` keeps the earlier one. All other settings stay, too.

        Raises:
            ConfigurationError: There are no predictions, another run made them, or applying other thresholds was
                interrupted.
        """
        facts = folder.facts()
        folder.check_rethresholded(settings.given)
        folder.check_same(calibration=run.folder.calibration_fingerprint(run.settings))
        changed: dict[str, Any] = {**{name: facts[name] for name in settings.to_json()}, **settings.given_thresholds}
        settings = PredictionSettings(**changed)
        return cls(folder, settings, _files(run, settings, folder.path, Path(str(facts["common"]))))

    def deciding(self, thresholds: FinalThresholds, uncertain: Band | None) -> PredictionWriter:
        """Give the same with the thresholds and verdicts that the overlays show."""
        return replace(self, files=self.files.deciding(thresholds, uncertain))

    def write(
        self,
        item: ImageItem,
        in_file: InFile,
        raw_score: float,
        raw_map: torch.Tensor,
        details: Details | None = None,
    ) -> PredictedImage:
        """Write the requested files of an image, and give its prediction.

        Args:
            item: The image with its prediction, on the CPU.
            in_file: Size of the image file, and how the image was aligned: then the raw map is moved back, too.
            raw_score: Score before the normalization of images.
            raw_map: Map before the normalization of images, shape (height, width), on the CPU.
            details: What else its line holds; ``None`` for nothing.

        Raises:
            DataError: The image is missing or has changed, or its name is too long.
        """
        path = Path(str(item.image_path))
        with _errors_naming_image(path):
            prediction = self.write_decision(item, in_file, raw_score)
            if self.settings.maps is not None and item.pred_mask is not None:
                scores = raw_map.numpy() if in_file.matrix is None else in_source_size(raw_map, *in_file)
                with replacing(self._map_file(path)) as temporary:
                    _write_map(temporary, scores.astype(np.float32), self.settings.maps)
            return prediction if details is None else details.added_to(prediction)

    def write_decision(self, item: ImageItem, in_file: InFile, raw_score: float) -> PredictedImage:
        """Write only those files of an image that depend on thresholds. Arguments and result are those of `write`."""
        path, layers = Path(str(item.image_path)), Layers.of(item, in_file)
        found: tuple[Region, ...] = ()
        if (mask := layers.predicted) is not None and layers.scores is not None:
            found = regions_of(mask, layers.scores, self.settings.min_area, segmentation=self.settings.coco)
        prediction = PredictedImage(
            image_path=str(path),
            image_size=in_file.size,
            pred_score=float(cast("torch.Tensor", item.pred_score)),
            raw_score=raw_score,
            pred_label=int(cast("torch.Tensor", item.pred_label)),
            regions=found,
            any_pixel=None if mask is None else bool(mask.any()),
            unaligned=None if in_file.matrix is None else "",
        )
        if self.settings.overlays:
            self.files.below("images").draw_one(path, layers, self._caption(prediction))
        if self.settings.masks and mask is not None:
            with replacing(self.files.below("masks").path_of(path)) as temporary:
                Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
        return prediction

    def _caption(self, image: PredictedImage) -> Caption:
        number = None if image.any_pixel is None else len(image.regions)
        verdict = image.judged(self.files.uncertain).verdict
        return Caption(verdict, image.pred_score, regions=number, remark=image.contradiction)

    def read_map(self, image_path: Path) -> torch.Tensor:
        """Read a raw map, shape (height, width).

        Raises:
            RunFolderError: The map is missing or damaged.
        """
        path = self._map_file(image_path)
        try:
            return torch.from_numpy(_read_map(path))
        except (*DAMAGE, Image.DecompressionBombError) as error:
            message = f"{path} cannot be read ({error}). Predict its image into another folder again."
            raise RunFolderError(message) from error

    def check_kept(self, *, maps: bool) -> None:
        """Check that all files that new thresholds need exist, before anything is changed.

        Args:
            maps: Whether raw maps are read, and drawn over the images if there are overlays.

        Raises:
            RunFolderError: A file is missing.
        """
        for image in (each for each in self.folder.predicted() if maps and not each.unaligned):
            for path in (self._map_file(image.path), *([image.path] if self.settings.overlays else [])):
                if not path.is_file():
                    message = (
                        f"{path} is missing, but new thresholds for {image.image_path} need it. Restore it, or predict "
                        "into another folder. Nothing was changed."
                    )
                    raise RunFolderError(message)

    def _map_file(self, image_path: Path) -> Path:
        return self.files.below("maps").path_of(image_path).with_suffix(f".{self.settings.maps}")


def _write_map(path: Path, values: NDArray[np.float32], form: str) -> None:
    if form == "npy":
        with path.open("wb") as file:
            np.save(file, values)
    else:
        Image.fromarray(values).save(path, format="TIFF")


def _read_map(path: Path) -> NDArray[np.float32]:
    with path.open("rb") as file:
        content = np.lib.format.read_array(file) if path.suffix == ".npy" else Image.open(file)
        values = np.array(content, dtype=np.float32)
    if values.ndim != 2 or np.isinf(values).any() or np.isnan(values).all():  # noqa: PLR2004  # height and width
        message = f"its values of shape {values.shape} are no map of scores, none of them infinite, and not all NaN"
        raise ValueError(message)
    return values


def _earlier_folder(folder: PredictionFolder, settings: PredictionSettings, images: Sequence[Path]) -> Path:
    """Give the common folder of earlier images, and check that new images are in it too."""
    earlier, common = Path(str(folder.facts()["common"])), common_folder(images)
    if (settings.masks or settings.overlays or settings.maps) and not common.is_relative_to(earlier):
        message = (
            f"{folder.path} holds masks, overlays or maps of images in {earlier}, so new images must be there too, but "
            f"some are in {common}. Choose another folder with --output."
        )
        raise ConfigurationError(message)
    return earlier


@contextmanager
def _errors_naming_image(image_path: Path) -> Iterator[None]:
    """Name the image in the error when a file name is too long."""
    try:
        yield
    except StorageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.ENAMETOOLONG:
            raise
        message = (
            f"{image_path} has a name or a path that is too long for the files of its prediction ({cause.filename}). "
            "Shorten it, choose another --output, or predict without masks, overlays and maps."
        )
        raise DataError(message) from error


def _files(run: Run, settings: PredictionSettings, folder: Path, common: Path) -> Pictures:
    stretch, beside = run.settings.normalization.stage == "none", settings.overlays == BESIDE
    return Pictures(folder, common, Style(stretch=stretch, beside=beside))
