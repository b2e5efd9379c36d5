"""A run as an object: what ``anomalib_tiled.TiledEnsemble`` is in Python.

`anomalib_tiled.ensemble.ensemble.TiledEnsemble` takes tensors of one size and knows no files. This one is the same model, and
knows how to open a run folder, and to predict images as people hold them.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torchvision.transforms.v2.functional import resize, to_dtype
from torchvision.tv_tensors import Image

from anomalib_tiled.data.image_input import as_bytes, pixels_of
from anomalib_tiled.data.image_sizes import TrainedOn
from anomalib_tiled.ensemble.ensemble import TiledEnsemble as TensorEnsemble
from anomalib_tiled.ensemble.run import AUTO, Run
from anomalib_tiled.ensemble.torch_defaults import usual_defaults
from anomalib_tiled.grid import Size
from anomalib_tiled.results.image_prediction import ImagePrediction
from anomalib_tiled.results.metrics import Measurements, StreamingEvaluator
from anomalib_tiled.results.prediction_folder import PredictionSettings
from anomalib_tiled.results.regions import RegionSettings, in_source_size, regions_of
from anomalib_tiled.results.rethreshold import thresholds_of
from anomalib_tiled.results.thresholds import Thresholds
from anomalib_tiled.runs.changed_files import altered
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.memory import SHARE_ALONE
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, advising_on_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomalib.data import InferenceBatch
    from torchvision.transforms.v2 import Transform
    from typing_extensions import Self

    from anomalib_tiled.data.image_input import GivenImage
    from anomalib_tiled.ensemble.ensemble import RawPrediction


FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")

LESS_MEMORY = f'{LOWER_THE_BUDGET}, give fewer images at a time, or load the run with another device, such as "cpu".'


class TiledEnsemble(TensorEnsemble):
    """All tile models of a run and its stages as one anomalib model. Made by `load`, or by ``fit_ensemble``."""

    run_folder: Path
    """The folder that it was loaded from."""

    _thresholds: Thresholds = Thresholds()
    _augmentations: tuple[Transform, ...] = ()
    _trained_on: TrainedOn | None = None

    @classmethod
    @usual_defaults()
    def load(
        cls,
        run_folder: str | Path,
        device: str | torch.device | None = AUTO,
        *,
        threshold: float | str | None = None,
        pixel_threshold: float | str | None = None,
        allow_altered: bool = False,
    ) -> Self:
        """Load a run that was fitted.

        Args:
            run_folder: The folder that ``fit`` printed, or its ``latest``.
            device: Where to predict, such as ``cpu`` or ``cuda:1``; ``auto`` or ``None`` for what the run was trained
                on.
            threshold: Score above which an image is anomalous; or ``q0.99``, or ``fpr0.01``; ``None`` for what was
                calibrated.
            pixel_threshold: The same of pixels.
            allow_altered: Whether files that were altered since they were finished are used, with a warning for each.

        Raises:
            RunFolderError: There is no run, it is not complete, a file was altered and that is not allowed, or it lacks
                the scores that a threshold is looked up in. Checkpoints with the size and the time that they were
                finished with are not read here; if one was altered nevertheless, the first prediction raises this.
            ConfigurationError: There is no such device, or the threshold is none.
        """
        folder = RunFolder.open(Path(run_folder), allow_altered=allow_altered)
        for note in altered(folder) if allow_altered else ():
            warnings.warn(note, stacklevel=2)
        run = Run.open(folder)
        if remark := run.memory_remark():
            warnings.warn(remark, stacklevel=2)
        opened = run.calibrated_ensemble(AUTO if device is None else str(device), share=SHARE_ALONE)
        run.check_changed()
        ensemble = cls(
            opened.grid,
            opened.tile_models,
            stages=opened.stages,
            calibration=opened.calibration,
            evaluator=StreamingEvaluator(partial(Measurements.of, run.settings, run.grid)),
        )
        image, pixel = (None if each is None else str(each) for each in (threshold, pixel_threshold))
        ensemble._thresholds, notes = thresholds_of(run, PredictionSettings(threshold=image, pixel_threshold=pixel))
        for note in filter(None, (*notes, run.left_out_note())):
            warnings.warn(note, stacklevel=2)
        augmentations = run.datamodule.test_augmentations
        ensemble._augmentations = () if augmentations is None else (augmentations,)
        ensemble.run_folder = run.folder.path
        ensemble._trained_on = TrainedOn.of(run.split, run.grid.image_size)
        return ensemble.to(opened.device).eval()

    def decide(self, raw: RawPrediction) -> InferenceBatch:
        """Normalize and threshold whole images, by the thresholds that were given to `load`."""
        return self._thresholds.decide(raw, super().decide(raw))

    def predict(self, image: GivenImage) -> ImagePrediction:
        """Predict one image.

        Args:
            image: A path, a Pillow image, an array of shape (height, width, 3) or (height, width), or a tensor of shape
                (3, height, width) or (height, width). Colours are RGB: what ``cv2.imread`` reads is BGR, and needs
                ``cv2.cvtColor(image, cv2.COLOR_BGR2RGB)``. Numbers are bytes, or fractions from 0 to 1. Another size
                than that of training is resized; the result has the size of the image.

        Raises:
            DataError: It is no image, or cannot be read.
            OutOfMemoryError: Memory ran out.
            RunFolderError: A checkpoint is gone, or was altered in a way that `load` does not see, or since.
        """
        return self.predict_batch([image])[0]

    def predict_images(self, images: Iterable[GivenImage], batch_size: int = 1) -> Iterator[ImagePrediction]:
        """Predict images as they are asked for; only a batch is in memory at a time.

        Args:
            images: Images as `predict` takes them; may be without end.
            batch_size: Images that are predicted together, at least 1.

        Returns:
            The predictions, in the order of the images. What `predict_batch` raises comes out of it.

        Raises:
            ValueError: The batch size is less than 1.
            TypeError: A single path was given.
        """
        if batch_size < 1:
            message = f"batch_size must be at least 1, but is {batch_size}."
            raise ValueError(message)
        remaining = iter(_several(images))
        batches = iter(lambda: list(islice(remaining, batch_size)), [])
        return (prediction for batch in batches for prediction in self.predict_batch(batch))

    @usual_defaults()
    def predict_batch(self, images: Iterable[GivenImage]) -> list[ImagePrediction]:
        """Predict images together. They may be of several kinds and sizes.

        Args:
            images: Images as `predict` takes them.

        Raises:
            DataError: One is no image, or cannot be read.
            OutOfMemoryError: Memory ran out.
            RunFolderError: As of `predict`.
            TypeError: A single path was given.
        """
        given = list(_several(images))
        if not given:
            return []
        with advising_on_memory(LESS_MEMORY):
            return self._predicted(given)

    def _predicted(self, given: list[GivenImage]) -> list[ImagePrediction]:
        pixels = [pixels_of(image) for image in given]
        for image, each in zip(given, pixels, strict=True):
            self._look_at(image if isinstance(image, (str, Path)) else "The image", Size(*each.shape[-2:]))
        images = torch.stack([self._in_size(image) for image in pixels])
        with self.batch_lock:
            raw = self.predict_raw(images)
            decided = self.decide(raw)
        paths = [Path(name) if isinstance(name, (str, Path)) else None for name in given]
        told = [self._told(decided, number, image, paths[number]) for number, image in enumerate(pixels)]
        return [replace(each, raw_score=score) for each, score in zip(told, raw.scores.tolist(), strict=True)]

    def _look_at(self, name: object, size: Size) -> None:
        """Warn once of an image that does not look like those that were trained on."""
        trained_on = self._trained_on  # another thread may set it to None
        if trained_on is not None and (remark := trained_on.remark(name, size)):
            self._trained_on = None
            warnings.warn(remark, stacklevel=5)

    def _in_size(self, pixels: torch.Tensor) -> torch.Tensor:
        """Resize an image as those of the run were, and change it as those that were tested."""
        size = self.grid.image_size
        resized = pixels if tuple(pixels.shape[-2:]) == size else resize(pixels, list(size), antialias=True)
        image: torch.Tensor = to_dtype(Image(resized.cpu()), torch.float32, scale=True)
        for change in self._augmentations:
            image = change(image)
        return image

    def _told(self, decided: InferenceBatch, number: int, pixels: torch.Tensor, path: Path | None) -> ImagePrediction:
        size = Size(*pixels.shape[-2:])
        score, label, maps, masks = (cast("torch.Tensor", getattr(decided, name)) for name in FIELDS)
        scores = in_source_size(maps[number], size)
        mask = None if masks is None else in_source_size(masks[number], size) > 0
        return ImagePrediction(
            score=float(score[number]),
            label=bool(label[number]),
            map=scores,
            mask=mask,
            regions=() if mask is None else regions_of(mask, scores, RegionSettings()),
            image=as_bytes(pixels),
            image_path=path,
        )


def _several(images: Iterable[GivenImage]) -> Iterable[GivenImage]:
    """Refuse a path, of which each letter would be taken for one.

    Raises:
        TypeError: It is one.
    """
    if isinstance(images, (str, Path)):
        message = (
            f"Several images must be given, such as a list of paths, but {str(images)!r} is a single path. Use predict "
            f'for an image, and sorted(Path({str(images)!r}).glob("*.png")) for the images of a folder.'
        )
        raise TypeError(message)
    return images
