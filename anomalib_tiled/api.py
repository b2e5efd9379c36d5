"""The Python interface: `fit_ensemble` makes a run, `TiledEnsemble` loads one and predicts images.

`EnsembleModel` of ``anomalib_tiled.ensemble.ensemble`` takes tensors of one size and reads no files. `TiledEnsemble` is
that model, but opens a run folder, and takes paths, arrays and images of any size.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from anomalib.models.components import AnomalibModule
from torchvision.transforms.v2.functional import resize, to_dtype
from torchvision.tv_tensors import Image

from anomalib_tiled import pipeline
from anomalib_tiled.cli.options import fit_parser, settings_from
from anomalib_tiled.config.objects import to_plain
from anomalib_tiled.config.settings import TilingSettings
from anomalib_tiled.data.image_input import as_bytes, pixels_of
from anomalib_tiled.data.part_finder import Finding, PartFinder
from anomalib_tiled.data.scope import outside_of
from anomalib_tiled.data.tile_dataset import stacked_hidden
from anomalib_tiled.data.unlabelled_images import TrainedOn
from anomalib_tiled.data.warping import moves, warped
from anomalib_tiled.ensemble.devices import usual_defaults
from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.half_precision import remark_on
from anomalib_tiled.ensemble.prediction_engine import PredictionEngine
from anomalib_tiled.ensemble.run import AUTO, Run
from anomalib_tiled.errors import ConfigurationError, UnalignedError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.plugins.tracking import trackers_of
from anomalib_tiled.results.image_prediction import ImagePrediction
from anomalib_tiled.results.metrics import Measurements, StreamingEvaluator
from anomalib_tiled.results.precision_changes import predicting_in
from anomalib_tiled.results.region_decisions import decisions_of
from anomalib_tiled.results.regions import InFile, in_source_size, regions_of
from anomalib_tiled.results.request import PredictionSettings
from anomalib_tiled.results.thresholds import Thresholds, final_thresholds, thresholds_of
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.thresholding import Thresholder
from anomalib_tiled.system.memory import SHARE_ALONE
from anomalib_tiled.system.out_of_memory import LOWER_THE_BUDGET, advising_on_memory
from anomalib_tiled.training.preparation import prepare

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anomalib.data import AnomalibDataModule, InferenceBatch
    from torchvision.transforms.v2 import Transform
    from typing_extensions import Self

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.data.image_input import GivenImage
    from anomalib_tiled.ensemble.raw_prediction import RawPrediction
    from anomalib_tiled.stages.alignment import Matrix

logger = logging.getLogger(__name__)

SIZES = ("tile_size", "stride", "image_size")
"""Attributes that a grid shares with `TilingSettings`."""

FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")

LESS_MEMORY = f'{LOWER_THE_BUDGET}, give fewer images at a time, or load the run with another device, such as "cpu".'


class TiledEnsemble(EnsembleModel):
    """All tile models and stages of a run as one anomalib model. Made by `load`, or by ``fit_ensemble``."""

    run_folder: Path
    """The run folder."""

    _thresholds: Thresholds = Thresholds()
    _augmentations: tuple[Transform, ...] = ()
    _trained_on: TrainedOn | None = None
    _finder: PartFinder | None = None

    @classmethod
    def load(  # noqa: PLR0913  # each is an option of the command `predict`
        cls,
        run_folder: str | Path,
        device: str | torch.device | None = AUTO,
        *,
        threshold: float | str | None = None,
        pixel_threshold: float | str | None = None,
        engine: str = TORCH,
        precision: str | None = None,
        allow_changes: bool = False,
    ) -> Self:
        """Load a run that was fitted.

        Args:
            run_folder: The folder that ``fit`` printed, or its ``latest``.
            device: Where to predict, such as ``cpu`` or ``cuda:1``; ``auto`` or ``None`` for the device of training.
            threshold: Score above which an image is anomalous; or ``q0.99``, or ``fpr0.01``; ``None`` for the
                calibrated threshold.
            pixel_threshold: The same for pixels.
            engine: Engine that computes frozen backbones: ``torch``, ``openvino``, ``onnx``; or ``auto``, the fastest.
            precision: Precision of models: ``float32``, ``bfloat16`` or ``float16``; ``None`` for that of the run.
                How predictions change in another one is measured on the validation images, once.
            allow_changes: Whether another precision may change predictions by more than a tolerance.

        Raises:
            RunFolderError: There is no run, it is not complete, a file was changed, or the run lacks the scores that a
                threshold is looked up in.
            ConfigurationError: The device does not exist, or lacks the precision or the engine, a threshold is invalid,
                or predictions change too much.
            DataError: A validation image is missing, so that changes cannot be measured.
        """
        image, pixel = (None if each is None else str(each) for each in (threshold, pixel_threshold))
        decisions = PredictionSettings(threshold=image, pixel_threshold=pixel)
        with usual_defaults():
            run = Run.open(RunFolder.open(Path(run_folder)))
            place = AUTO if device is None else str(device)
            precision = precision or run.settings.precision
            if remark := remark_on(precision, run.device(place)):
                warnings.warn(remark, stacklevel=2)
            run = predicting_in(run, precision, place, logger.info, engine=engine, allow_changes=allow_changes)
        ensemble = cls.from_run(run, place, decisions)
        ensemble.tile_models.engine = PredictionEngine.named(engine, ensemble.device, precision, logger.info)
        return ensemble

    @classmethod
    @usual_defaults()
    def from_run(cls, run: Run, device: str = AUTO, decisions: PredictionSettings | None = None) -> Self:
        """Load a run that is open already; errors and warnings are those of `load`.

        Args:
            run: The run.
            device: Where to predict.
            decisions: The thresholds; ``None`` for the calibrated ones.
        """
        if remark := run.memory_remark():
            warnings.warn(remark, stacklevel=4)
        opened = run.calibrated_ensemble(device, share=SHARE_ALONE)
        run.check_checkpoints(run.grid.models)
        ensemble = cls(
            opened.grid,
            opened.tile_models,
            stages=opened.stages,
            calibration=opened.calibration,
            evaluator=StreamingEvaluator(partial(Measurements.of, run.settings, run.grid)),
            scope=opened.scope,
        )
        ensemble._thresholds, notes = thresholds_of(run, decisions or PredictionSettings())
        for note in filter(None, (*notes, run.left_out_note())):
            warnings.warn(note, stacklevel=4)
        augmentations = run.datamodule.test_augmentations
        ensemble._augmentations = () if augmentations is None else (augmentations,)
        ensemble.run_folder = run.folder.path
        ensemble._finder = run.job.finder
        ensemble._trained_on = TrainedOn.of(run.split, run.grid.image_size)
        return ensemble.naming(run.regions).to(opened.device).eval()

    def decide(self, raw: RawPrediction) -> InferenceBatch:
        """Normalize and threshold whole images, by the thresholds given to `load`."""
        return self._thresholds.decide(raw, super().decide(raw))

    def predict(self, image: GivenImage) -> ImagePrediction:
        """Predict one image.

        Args:
            image: A path, a Pillow image, an array of shape (height, width, 3) or (height, width), or a tensor of shape
                (3, height, width) or (height, width). Colours are RGB; ``cv2.imread`` gives BGR, so convert it by
                ``cv2.cvtColor(image, cv2.COLOR_BGR2RGB)``. Values are bytes, or fractions from 0 to 1. Images of
                another size than in training are resized; the result has the size of the image.

        Raises:
            DataError: It is not an image, or cannot be read.
            OutOfMemoryError: Memory ran out.
            RunFolderError: A checkpoint is missing, or its content was changed.
        """
        return self.predict_batch([image])[0]

    def predict_images(self, images: Iterable[GivenImage], batch_size: int = 1) -> Iterator[ImagePrediction]:
        """Predict images lazily; only one batch is in memory at a time.

        Args:
            images: Images as `predict` takes them; may be an endless iterator.
            batch_size: Number of images to predict together, at least 1.

        Returns:
            The predictions, in the order of the images. Iterating over them raises the errors of `predict_batch`.

        Raises:
            ValueError: The batch size is less than 1.
            TypeError: A single path was given.
        """
        if batch_size < 1:
            message = f"batch_size must be at least 1, but is {batch_size}. Raise it."
            raise ValueError(message)
        remaining = iter(_several(images))
        batches = iter(lambda: list(islice(remaining, batch_size)), [])
        return (prediction for batch in batches for prediction in self.predict_batch(batch))

    @usual_defaults()
    def predict_batch(self, images: Iterable[GivenImage]) -> list[ImagePrediction]:
        """Predict images in one batch. They may differ in type and size.

        Args:
            images: Images as `predict` takes them.

        Raises:
            DataError: One is not an image, or cannot be read.
            OutOfMemoryError: Memory ran out.
            RunFolderError: As for `predict`.
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
            self._warn_if_unusual(image if isinstance(image, (str, Path)) else "The image", Size(*each.shape[-2:]))
        paths = [Path(name) if isinstance(name, (str, Path)) else None for name in given]
        found = [self._finding(image) for image in pixels]
        there = [number for number, finding in enumerate(found) if not finding.reason]
        aligned = iter(self._aligned([pixels[number] for number in there], [found[number].matrix for number in there]))
        predictions = []
        for finding, image, path in zip(found, pixels, paths, strict=True):
            if finding.reason:
                predictions.append(ImagePrediction.without_part(as_bytes(image), path, finding.reason))
            else:
                predictions.append(replace(next(aligned), image_path=path))
        return predictions

    def _aligned(self, pixels: list[torch.Tensor], matrices: list[Matrix | None]) -> list[ImagePrediction]:
        """Predict images in which the part is found.

        Args:
            pixels: The images in their own sizes.
            matrices: Their transforms; ``None`` for each if images are not aligned.
        """
        if not pixels:
            return []
        size, area = self.grid.image_size, self.grid.whole
        images = torch.stack([self._in_size(*each) for each in zip(pixels, matrices, strict=True)])
        hidden = stacked_hidden([None if each is None else outside_of(each, size, *area) for each in matrices])
        with self.batch_lock:
            raw = self.predict_raw(images, hidden=hidden)
            decided, named = self.decide(raw), decisions_of(self.decide_regions(raw), len(pixels))
        decided = decided._replace(anomaly_map=raw.shown(cast("torch.Tensor", decided.anomaly_map)))
        of_files = [InFile(Size(*image.shape[-2:]), matrix) for image, matrix in zip(pixels, matrices, strict=True)]
        predictions = [
            self._image_prediction(decided, number, image, in_file)
            for number, (image, in_file) in enumerate(zip(pixels, of_files, strict=True))
        ]
        own = final_thresholds(self.stages, self.calibration, self._thresholds)
        return [
            replace(each, raw_score=score, named_regions=regions, threshold=own.images, pixel_threshold=own.pixels)
            for each, score, regions in zip(predictions, raw.scores.tolist(), named, strict=True)
        ]

    def _finding(self, pixels: torch.Tensor) -> Finding:
        """Say whether the part is found in an image; without an aligner, every image is taken as it is."""
        if self._finder is None:
            return Finding(None)
        try:
            return Finding(self._finder.find(as_bytes(self._resized(pixels))))
        except UnalignedError as error:
            return Finding(None, str(error))

    def _warn_if_unusual(self, name: object, size: Size) -> None:
        """Warn once if the size of an image differs from those of training."""
        trained_on = self._trained_on  # another thread may set it to None
        if trained_on is not None and (remark := trained_on.remark(name, size)):
            self._trained_on = None
            warnings.warn(remark, stacklevel=5)

    def _resized(self, pixels: torch.Tensor, matrix: Matrix | None = None) -> torch.Tensor:
        """Resize an image as in the run, and align it."""
        size = self.grid.image_size
        if matrix is not None and moves(matrix):
            moved = warped(pixels.permute(1, 2, 0).contiguous().cpu().numpy(), size, matrix)
            return torch.from_numpy(moved).permute(2, 0, 1)
        return pixels if tuple(pixels.shape[-2:]) == size else resize(pixels, list(size), antialias=True)

    def _in_size(self, pixels: torch.Tensor, matrix: Matrix | None) -> torch.Tensor:
        """Resize an image as in the run, align it, and apply the augmentations of its test images."""
        image: torch.Tensor = to_dtype(Image(self._resized(pixels, matrix).cpu()), torch.float32, scale=True)
        for augmentation in self._augmentations:
            image = augmentation(image)
        return image

    def _image_prediction(
        self, decided: InferenceBatch, number: int, pixels: torch.Tensor, in_file: InFile
    ) -> ImagePrediction:
        score, label, maps, masks = (cast("torch.Tensor", getattr(decided, name)) for name in FIELDS)
        scores = in_source_size(maps[number], *in_file)
        mask = None if masks is None else in_source_size(masks[number], *in_file) > 0
        return ImagePrediction(
            score=float(score[number]),
            label=bool(label[number]),
            map=scores,
            mask=mask,
            regions=() if mask is None else regions_of(mask, scores),
            image=as_bytes(pixels),
            image_path=None,
            is_uncertain=self._thresholds.is_uncertain(float(score[number])),
        )


def _several(images: Iterable[GivenImage]) -> Iterable[GivenImage]:
    """Refuse a single path, whose letters would be taken for paths.

    Raises:
        TypeError: The images are a single path.
    """
    if isinstance(images, (str, Path)):
        message = (
            f"Several images must be given, such as a list of paths, but {str(images)!r} is a single path. Use predict "
            f'for an image, and sorted(Path({str(images)!r}).glob("*.png")) for the images of a folder.'
        )
        raise TypeError(message)
    return images


def fit_ensemble(
    model: AnomalibModule | type[AnomalibModule] | str | Mapping[str, Plain],
    data: AnomalibDataModule | Mapping[str, Plain],
    tiling: int | tuple[int, int] | TileGrid | Mapping[str, Plain],
    *,
    model_args: Mapping[str, Plain] | None = None,
    **settings: Plain,
) -> TiledEnsemble:
    """Train one model per tile location, calibrate, and load the ensemble. The same as ``anomalib tiled fit``.

    The run stores the class and arguments of each object, and builds it from these, a new model for each tile. Later
    changes of an object, such as weights that were loaded into a model, have no effect.

    Args:
        model: A new model; its class or name; or ``class_path`` and ``init_args``.
        data: A data module; or its ``class_path`` and ``init_args``.
        tiling: Side of the tiles in pixels; height and width; a grid; or ``tile_size``, ``stride`` and ``image_size``.
        model_args: Arguments of a model that is given as a class or name.
        settings: Any other setting of a configuration by its name, such as ``default_root_dir="results"``,
            ``merging=Gaussian()``, ``merging="Gaussian"`` or ``trainer={"max_epochs": 10, "callbacks": [...]}``; and
            ``keep_going=True`` to try all tiles, even after two fail for the same reason.

    Returns:
        The ensemble; later commands take its ``run_folder`` as ``--ckpt_dir``.

    Raises:
        ConfigurationError: A setting is unknown, contradicts another, or is an object that cannot be stored.
        TrainingError: Tiles failed; the message says how to resume.
    """
    for name in ("normalization", "thresholding"):
        if name in settings:
            settings[name] = _stage_at(settings[name])
    configuration = {
        **{name: to_plain(name, value) for name, value in settings.items()},
        "model": _model(model, model_args),
        "data": to_plain("data", data),
        "tiling": _tiling(tiling),
    }
    # Several processes would run the caller's script again, unless it has a __main__ guard.
    configuration.setdefault("workers", {"class_path": "LocalWorkers", "init_args": {"processes": 1}})
    parser = fit_parser("fit_ensemble")
    parsed = parser.parse_object(configuration)
    run = prepare(settings_from(parser, parsed))
    with closing(run):
        pipeline.fit(run, Observers((*find_plugins().loaded, *trackers_of(run))), keep_going=parsed.keep_going)
    return TiledEnsemble.from_run(run.without_left_out())


def _model(model: object, arguments: Mapping[str, Plain] | None) -> Plain:
    """Give the class of the model and its arguments.

    Raises:
        ConfigurationError: It is not a model, or already has arguments.
    """
    if isinstance(model, (str, type)):
        class_path = to_plain("model", model)
        return {"class_path": class_path, "init_args": to_plain("model_args", arguments or {})}
    if not isinstance(model, (AnomalibModule, Mapping)):
        message = f"model must be a model of anomalib, its class or its name, but is a {type(model).__name__}."
        raise ConfigurationError(message)
    if arguments is not None:
        message = "model_args are for a model given as a class, but this one already has arguments. Remove model_args."
        raise ConfigurationError(message)
    return to_plain("model", model)


def _stage_at(value: Plain) -> Plain:
    """Put a stage that is given alone into its group of settings, with the default place."""
    return {"method": value} if isinstance(value, (type, Normalizer, Thresholder)) else value


def _tiling(tiling: Plain) -> Plain:
    """Read the tiling in any of its forms; the parser refuses others."""
    if isinstance(tiling, (TileGrid, TilingSettings)):
        tiling = {name: getattr(tiling, name) for name in SIZES}
    return to_plain("tiling", tiling if isinstance(tiling, Mapping) else {"tile_size": tiling})
