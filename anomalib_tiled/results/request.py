"""The request for a prediction: images, settings, folder; and the summary that answers it."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import NotRequired, TypedDict

from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.results.prediction_row import count_of
from anomalib_tiled.stages.uncertain import Uncertain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.results.prediction_row import PredictedImage

THRESHOLDS = ("threshold", "pixel_threshold")
"""Settings that can change without predicting again."""

FORM = re.compile(r"(q|fpr)?\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
"""A number, or a fraction after ``q`` or ``fpr``."""


@dataclass(frozen=True)
class PredictionRequest:
    """What to predict, and where to write the results.

    Args:
        data: Files, folders, patterns, or ``-`` for the list.
        listed: Lines of the list.
        output: Folder for the results.
        settings: Settings of the prediction.
        skip_existing: Whether to resume the predictions in the folder.
        device: Where to predict; ``auto`` for the device in the run's configuration.
        engine: Name of the engine that computes backbones.
        precision: Precision that models compute in; ``None`` for the precision of the run.
        allow_changes: Whether another precision may change predictions by more than the tolerance.
        on_places: Whether the workers of the run predict, and not this process.
        watch: Whether to go on with images that appear, until Ctrl-C or SIGTERM; the data are folders then.
        show: Called with each prediction once it is recorded; ``None`` if nobody looks.
    """

    data: tuple[str, ...]
    listed: Iterable[str]
    output: Path
    settings: PredictionSettings
    skip_existing: bool
    device: str
    engine: str = TORCH
    precision: str | None = None
    allow_changes: bool = False
    on_places: bool = False
    watch: bool = False
    show: Callable[[PredictedImage], None] | None = None


@dataclass(frozen=True)
class PredictionSettings:
    """Settings that decide the contents of a folder of predictions.

    Args:
        threshold: Threshold of images as typed; ``None`` for the calibrated one.
        pixel_threshold: Threshold of pixels as typed; ``None`` for the calibrated one.
        min_area: Area of the smallest region to list, in pixels of the image.
        overlays: Whether to write images with heat maps; ``beside`` for the image alone beside each, too.
        masks: Whether to write masks.
        maps: Format of raw maps to write, ``tiff`` or ``npy``; ``None`` for no maps.
        coco: Whether to write regions in COCO's format too.
        uncertain: Width of the scores of uncertain images around the threshold; ``None`` for that of the run.

    Raises:
        ConfigurationError: A threshold has another form, or the smallest area or the width is negative.
    """

    threshold: str | None = None
    pixel_threshold: str | None = None
    min_area: int = 1
    overlays: bool | str = False
    masks: bool = False
    maps: str | None = None
    coco: bool = False
    uncertain: float | None = None

    def __post_init__(self) -> None:
        """Check thresholds, smallest area and width."""
        if self.min_area < 0:
            message = f"--min_area must be a number of pixels, 0 for regions of any size, but is {self.min_area}."
            raise ConfigurationError(message)
        if self.uncertain is not None and not (math.isfinite(self.uncertain) and self.uncertain > 0):
            message = f"--uncertain must be a width greater than 0 on the scale of the scores, but is {self.uncertain}."
            raise ConfigurationError(message)
        _ = self.rules

    def to_json(self) -> dict[str, Plain]:
        """Give what a folder of predictions keeps; of uncertain scores it keeps the limits, not the width."""
        return {name: value for name, value in asdict(self).items() if name != "uncertain"}

    @property
    def given(self) -> dict[str, str]:
        """What can change without predicting again and is given, as typed, by the names of the options."""
        return self.given_thresholds | ({} if self.uncertain is None else {"uncertain": f"{self.uncertain:g}"})

    def limits(self, configured: Uncertain | None) -> Uncertain | None:
        """Give which images are uncertain.

        Args:
            configured: Which ones are in the configuration of the run.
        """
        return configured if self.uncertain is None else Uncertain(width=self.uncertain)

    @property
    def given_thresholds(self) -> dict[str, str]:
        """The thresholds that replace calibrated ones, as typed, by the names of their options."""
        return {name: text for name in THRESHOLDS if (text := getattr(self, name)) is not None}

    @property
    def rules(self) -> dict[str, ThresholdRule]:
        """The same, read."""
        return {name: ThresholdRule.read(f"--{name}", text) for name, text in self.given_thresholds.items()}


class Limits(TypedDict):
    """Limits of uncertain scores, as of a `Band`."""

    lower: float
    upper: float


class PredictionFacts(TypedDict):
    """What a folder of predictions says of all of them: settings as of `PredictionSettings`, and more.

    Args:
        common: Folder that all images are in.
        aligned: Whether the run aligns images.
        has_maps: Whether the model gives anomaly maps.
        named_regions: Names of the named regions, if the run has some.
        uncertain: Limits of the scores of uncertain images, if there are some.
    """

    common: str
    threshold: str | None
    pixel_threshold: str | None
    min_area: int
    overlays: bool | str
    masks: bool
    maps: str | None
    coco: bool
    aligned: NotRequired[bool]
    has_maps: NotRequired[bool]
    named_regions: NotRequired[list[str]]
    uncertain: NotRequired[Limits]


@dataclass(frozen=True)
class ThresholdRule:
    """A threshold as the user types it.

    Args:
        text: The typed text.
        fraction: Fraction of normal validation scores at or below the threshold; ``None`` for a score.
        score: The score; NaN for a fraction.
    """

    text: str
    fraction: float | None
    score: float

    @classmethod
    def read(cls, option: str, text: str) -> ThresholdRule:
        """Read ``0.7``, ``q0.99`` (a quantile of normal scores) or ``fpr0.01`` (a rate of false alarms).

        Args:
            option: Name of the option, for messages.
            text: The typed text.

        Raises:
            ConfigurationError: The text is none of these.
        """
        kind, typed = found.groups() if (found := FORM.fullmatch(text.strip())) else (None, "nan")
        number = float(typed)
        if not math.isfinite(number) or (kind is not None and not 0 <= number <= 1):
            message = (
                f"{option} must be a score such as 0.7, a quantile of normal validation scores such as q0.99, or a "
                f"rate of false alarms such as fpr0.01 (both between 0 and 1), but is {text!r}."
            )
            raise ConfigurationError(message)
        if kind is None:
            return cls(text, None, number)
        return cls(text, number if kind == "q" else 1 - number, math.nan)


@dataclass
class Predicted:
    """Summary of a prediction.

    Args:
        existing: Images that had been predicted before.
        images: Images that were predicted.
        failed: Images that could not be read or predicted.
        anomalous: Anomalous images among those of now and before, without uncertain ones.
        uncertain: Uncertain images among those of now and before.
        seconds: Duration, without loading.
        unaligned: Images among those that were predicted now in which the part is not found; they are anomalous.
        contradictions: In how many images label and pixels contradict each other in which way; empty words for none.
    """

    existing: int
    images: int = 0
    failed: int = 0
    anomalous: int = 0
    uncertain: int = 0
    seconds: float = 0.0
    unaligned: int = 0
    contradictions: Counter[str] = field(default_factory=Counter)

    def count(self, image: PredictedImage) -> None:
        """Take in the decisions about an image."""
        self.anomalous += image.verdict == "anomalous"
        self.uncertain += image.verdict == "uncertain"
        self.unaligned += bool(image.unaligned)
        self.contradictions[image.contradiction] += 1

    def __str__(self) -> str:
        """The summary in a line."""
        speed = f" ({self.images / self.seconds:.1f} images/s)" if self.images and self.seconds else ""
        existing = f", {self.existing} predicted before" if self.existing else ""
        failed = f", {self.failed} failed" if self.failed else ""
        done = f"{self.images} images predicted in {self.seconds:.1f} s{speed}{existing}{failed}"
        lost = f", {self.unaligned} of them because the part is not found" if self.unaligned else ""
        doubtful = f", {self.uncertain} uncertain" if self.uncertain else ""
        summary = f"{done}: {self.anomalous} of {self.images + self.existing} are anomalous{lost}{doubtful}."
        return f"{summary} {count_of(self.contradictions.elements())}".rstrip()
