"""How predictions with another arithmetic differ from those of the run, on its validation images.

Another arithmetic is one of less precision, or that of another engine. No maps are kept: scores of images are, and
counts of the scores of pixels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from anomalib_tiled.config.settings import MetricSettings
from anomalib_tiled.ensemble.uninspected import uninspected_pixels
from anomalib_tiled.errors import ConfigurationError, NotFiniteError
from anomalib_tiled.results.metrics import Measurements
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anomalib.data import ImageBatch, InferenceBatch
    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run

    Predict = Callable[[torch.Tensor], InferenceBatch]

METRICS = MetricSettings(image=("AUROC",), pixel=("AUPRO",))


@dataclass(frozen=True)
class Metric:
    """A metric of the run, and of the predictions with another arithmetic.

    Args:
        before: Of the run.
        after: Of the other predictions.
    """

    before: float
    after: float

    @property
    def loss(self) -> float:
        """By how much it falls; below 0 if it rises."""
        return self.before - self.after


@dataclass(frozen=True)
class Changes:
    """How predictions with another arithmetic differ from those of a run, on the images that it was calibrated with.

    Args:
        images: Number of images: the validation images of the run, or its training images if it has none.
        largest: Largest change of the score of an image, on the scale of the scores, which is normalized unless the
            run normalizes nothing; as a fraction of the highest score of the run if that is above 1.
        mean: Mean change of these scores.
        labels: Number of images whose label changes.
        image_auroc: AUROC of the image scores; ``None`` unless there are normal and anomalous images.
        pixel_aupro: AUPRO of the anomaly maps; ``None`` without maps, without masks, or unless there are anomalous
            pixels and others.
    """

    images: int
    largest: float
    mean: float
    labels: int
    image_auroc: Metric | None
    pixel_aupro: Metric | None

    def __str__(self) -> str:
        """The numbers in words."""
        metrics = {"image AUROC": self.image_auroc, "pixel AUPRO": self.pixel_aupro}
        known = [f"{name} {each.before:.4f}, now {each.after:.4f}" for name, each in metrics.items() if each]
        scores = f"scores move by {self.mean:.2g}, at most by {self.largest:.2g}"
        return "; ".join([f"{scores}; {self.labels} of {self.images} labels change", *known])

    def to_json(self) -> dict[str, object]:
        """Give the numbers by their names, in words that JSON has."""
        return asdict(self)


@dataclass(frozen=True)
class Tolerance:
    """How far predictions with another arithmetic may differ from those of a run.

    Args:
        mean: Mean change of the scores of images, on the scale of `Changes`: a tenth of the way from the lowest score
            of 0 to the threshold of 0.5.
        labels: Share of the images whose label may change; of fewer than a hundred images, none may at a hundredth.
        image_auroc: By how much it may fall.
        pixel_aupro: By how much it may fall.
    """

    mean: float = 0.05
    labels: float = 0.01
    image_auroc: float = 0.01
    pixel_aupro: float = 0.01

    def beyond(self, changes: Changes) -> list[str]:
        """Name each number that changes further, with what is allowed.

        Args:
            changes: The changes.
        """
        found = []
        if changes.mean > self.mean:
            found.append(f"scores move by {changes.mean:.3g} on average (allowed: {self.mean:g})")
        if changes.labels > self.labels * changes.images:
            share = f"{100 * self.labels:g} %, {int(self.labels * changes.images)} images"
            found.append(f"{changes.labels} of {changes.images} labels change (allowed: {share})")
        metrics = {
            "image AUROC": (changes.image_auroc, self.image_auroc),
            "pixel AUPRO": (changes.pixel_aupro, self.pixel_aupro),
        }
        for name, (metric, allowed) in metrics.items():
            if metric is not None and metric.loss > allowed:
                values = f"from {metric.before:.4f} to {metric.after:.4f}"
                found.append(f"{name} falls {values} (allowed: by {allowed:g})")
        return found

    def check(self, changes: Changes, arithmetic: str, advice: str) -> None:
        """Refuse changes that go further.

        Args:
            changes: The changes.
            arithmetic: What predicts otherwise than the run, such as ``int8`` or ``onnx``.
            advice: What to do, as sentences.

        Raises:
            ConfigurationError: A number is beyond what is allowed; the message names each.
        """
        if beyond := self.beyond(changes):
            message = (
                f"Predictions with {arithmetic} must be nearly those of the run, but on {changes.images} validation "
                f"images {'; '.join(beyond)}. {advice}"
            )
            raise ConfigurationError(message)

    def to_json(self) -> dict[str, object]:
        """Give the numbers by the names of those of `Changes`."""
        return asdict(self)


TOLERANCE = Tolerance()
"""What is allowed unless the user accepts more."""


def changes_of(run: Run, ensemble: EnsembleModel, predict: Predict) -> Changes:
    """Predict the validation images with a run and with another arithmetic, batch by batch, and compare.

    Both see the images without augmentations, and all pixels, also those that do not count: metrics leave these out.

    Args:
        run: The run.
        ensemble: Its ensemble, calibrated.
        predict: Predicts images with values in [0, 1], shape (batch, 3, height, width), as ``EnsembleModel.forward``
            does; on any device.

    Raises:
        DataError: An image of the run is missing or cannot be read.
        NotFiniteError: The other arithmetic predicts infinities or NaN.
    """
    images = replace(run.images("calibration"), augmentations=None)
    comparison = _Comparison(ensemble)
    for batch, hidden in track(zip(images, images.hidden(), strict=True), "Comparing predictions", len(images)):
        pixels = torch.as_tensor(batch.image).as_subclass(torch.Tensor)
        comparison.add(batch, hidden, ensemble(pixels), predict(pixels))
    return comparison.changes()


class _Comparison:
    """Counts the differences of two predictions of the same images.

    Args:
        ensemble: The ensemble, for the pixels that it does not see.
    """

    def __init__(self, ensemble: EnsembleModel) -> None:
        uninspected = uninspected_pixels(ensemble.grid)
        self._before, self._after = (Measurements(METRICS, uninspected=uninspected) for _ in range(2))
        self._differences: list[float] = []
        self._highest, self._labels = 1.0, 0

    def add(
        self, batch: ImageBatch, hidden: torch.Tensor | None, before: InferenceBatch, after: InferenceBatch
    ) -> None:
        """Compare the predictions of a batch.

        Args:
            batch: The images.
            hidden: Their pixels that do not count, shape (batch, 1, height, width); ``None`` if all do.
            before: What the run predicts.
            after: What the other arithmetic predicts.

        Raises:
            NotFiniteError: A score of the other arithmetic is infinite or NaN.
        """
        _check_finite(after, batch.image_path or ())
        differences = np.abs(_numbers(after.pred_score) - _numbers(before.pred_score))
        self._differences += differences.tolist()
        self._highest = max(self._highest, float(np.abs(_numbers(before.pred_score)).max()))
        self._labels += int(np.count_nonzero(_numbers(after.pred_label) != _numbers(before.pred_label)))
        for measurements, prediction in ((self._before, before), (self._after, after)):
            fields: dict[str, Any] = {
                name: None if each is None else each.cpu() for name, each in prediction._asdict().items()
            }
            measurements.update(batch.update(**fields), hidden)

    def changes(self) -> Changes:
        """Give the differences of all images."""
        before, after = self._before.compute(), self._after.compute()
        differences = np.array(self._differences) / self._highest
        return Changes(
            images=len(differences),
            largest=float(differences.max(initial=0)),
            mean=float(differences.mean()) if differences.size else 0.0,
            labels=self._labels,
            image_auroc=_metric(before.get("image_AUROC"), after.get("image_AUROC")),
            pixel_aupro=_metric(before.get("pixel_AUPRO"), after.get("pixel_AUPRO")),
        )


def _check_finite(prediction: InferenceBatch, paths: Iterable[str]) -> None:
    """Refuse a prediction of which metrics would make nonsense."""
    scores = [each for each in (prediction.pred_score, prediction.anomaly_map) if each is not None]
    if not all(bool(torch.isfinite(each).all()) for each in scores):
        message = (
            f"Scores must be finite, but infinities or NaN are predicted for {', '.join(paths)}. Predict with float32, "
            "or with another engine."
        )
        raise NotFiniteError(message)


def _numbers(values: torch.Tensor | None) -> NDArray[np.float64]:
    """Give scores, or labels as 0 and 1, shape (batch,); a calibrated ensemble gives both."""
    return torch.as_tensor(values).cpu().double().numpy()


def _metric(before: object, after: object) -> Metric | None:
    return Metric(before, after) if isinstance(before, float) and isinstance(after, float) else None
