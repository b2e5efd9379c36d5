"""Stages and what they learn from the validation images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from anomalib_tiled.config.settings import SENSITIVITIES, ClassSpec, Plain, Settings
from anomalib_tiled.ensemble.false_alarms import FalseAlarms
from anomalib_tiled.ensemble.fusion import Branches
from anomalib_tiled.errors import ConfigurationError, RunFolderError, allowed_names
from anomalib_tiled.stages.global_model import GlobalModel
from anomalib_tiled.stages.merging import Merger
from anomalib_tiled.stages.normalization import Normalizer
from anomalib_tiled.stages.scoring import Scorer
from anomalib_tiled.stages.seams import SeamSmoother
from anomalib_tiled.stages.thresholding import NEUTRAL, F1AdaptiveThreshold, Thresholder, check_sensitivity
from anomalib_tiled.stages.uncertain import Uncertain, check_limits

AppliedTo = Literal["tile", "image", "none"]
NORMALIZATION_PLACES: tuple[AppliedTo, ...] = ("tile", "image", "none")
THRESHOLDING_PLACES: tuple[AppliedTo, ...] = ("tile", "image")


@dataclass(frozen=True)
class Stages:
    """The stages of an ensemble and where they are applied.

    Args:
        merger: From tile maps to image maps.
        scorer: From tile scores to image scores.
        smoother: Smooths maps near seams; ``None`` for no smoothing.
        normalizer: From raw scores to scores in [0, 1].
        thresholder: Finds the threshold: scores above it are anomalous.
        normalize_at: ``tile``, ``image`` or ``none``.
        threshold_at: ``tile`` or ``image``.
        image_sensitivity: An image (or tile) with a normalized score greater than 1 minus this is anomalous.
        pixel_sensitivity: The same for pixels.
        global_model: Joins tiles and whole image; ``None`` if only tiles have models.
        uncertain: Which images are uncertain; ``None`` if none are.

    Raises:
        ConfigurationError: A sensitivity is not between 0 and 1, or would be applied to scores that are not normalized;
            or images cannot be uncertain, because tiles are thresholded, or the threshold is not within the limits.
    """

    merger: Merger
    scorer: Scorer
    smoother: SeamSmoother | None
    normalizer: Normalizer
    thresholder: Thresholder
    normalize_at: AppliedTo
    threshold_at: AppliedTo
    image_sensitivity: float = NEUTRAL
    pixel_sensitivity: float = NEUTRAL
    global_model: GlobalModel | None = None
    uncertain: Uncertain | None = None

    def __post_init__(self) -> None:
        """Check that sensitivities and limits have a meaning."""
        places = {"normalize_at": self.normalize_at, "threshold_at": self.threshold_at}
        for name in SENSITIVITIES:
            check_sensitivity(name, getattr(self, name), **places)
        if self.uncertain is not None:
            check_limits(self.uncertain, sensitivity=self.image_sensitivity, **places)

    @classmethod
    def build(cls, settings: Settings) -> Stages:
        """Make the stages that a configuration names.

        Raises:
            ConfigurationError: A stage refuses its arguments, or a place is not allowed.
        """
        chosen = settings.stages
        smoothing = chosen.get("seam_smoothing")
        return cls(
            merger=chosen["merging"].build(Merger),
            scorer=chosen["scoring"].build(Scorer),
            smoother=None if smoothing is None else smoothing.build(SeamSmoother),
            normalizer=chosen["normalization"].build(Normalizer),
            thresholder=chosen["thresholding"].build(Thresholder),
            normalize_at=_applied_to("normalization", settings.normalization.stage, NORMALIZATION_PLACES),
            threshold_at=_applied_to("thresholding", settings.thresholding.stage, THRESHOLDING_PLACES),
            image_sensitivity=settings.thresholding.image_sensitivity,
            pixel_sensitivity=settings.thresholding.pixel_sensitivity,
            global_model=_global_model(chosen.get("global_model")),
            uncertain=settings.thresholding.uncertain,
        )

    @property
    def tile_rule(self) -> Thresholder:
        """The thresholder of tiles; F1AdaptiveThreshold if tile thresholds only centre the normalization."""
        own = self.threshold_at == "tile" or isinstance(self.thresholder, F1AdaptiveThreshold)
        return self.thresholder if own else F1AdaptiveThreshold()

    @property
    def learn_from_tiles(self) -> bool:
        """Whether something is learned for each tile."""
        return "tile" in {self.normalize_at, self.threshold_at}

    @property
    def learn_from_images(self) -> bool:
        """Whether something is learned from whole images."""
        return "image" in {self.normalize_at, self.threshold_at}


@dataclass(frozen=True)
class Learned:
    """Threshold and normalization of one scale of scores.

    Args:
        threshold: Scores above it are anomalous; on the scale before normalization.
        normalization: What the normalizer learned; ``None`` if scores are not normalized here.
    """

    threshold: float
    normalization: dict[str, float] | None


@dataclass(frozen=True)
class Level:
    """Calibration of one tile, or of whole images.

    Args:
        scores: Scale of the scores.
        maps: Scale of the anomaly maps.
    """

    scores: Learned
    maps: Learned


@dataclass(frozen=True)
class Calibration:
    """Everything that the stages learned, as plain numbers.

    Args:
        image: Calibration of whole images; ``None`` if there is none.
        tiles: Calibration of each tile, by its name; empty if there is none.
        notes: Notes about the calibration for readers of the results.
        borrowed: Names of tiles whose normal scores do not vary, each with the name of the tile whose scores it was
            calibrated on instead.
        false_alarms: How many new normal images will be called anomalous; ``None`` if the validation images do not
            tell, and for runs of earlier versions.
        regions: Calibration of each named region, by its name; empty if there are none, or if nothing is learned from
            whole images.
        branches: The scales of tiles and whole image; ``None`` without a global model.
    """

    image: Level | None = None
    tiles: dict[str, Level] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    borrowed: dict[str, str] = field(default_factory=dict)
    false_alarms: FalseAlarms | None = None
    regions: dict[str, Learned] = field(default_factory=dict)
    branches: Branches | None = None

    def note_on_false_alarms(self, *, on_test: bool) -> tuple[str, ...]:
        """Give a note if many false alarms are to be expected, else none.

        Args:
            on_test: Whether the validation images are the test images.
        """
        note = None if self.false_alarms is None else self.false_alarms.note(on_test=on_test)
        return () if note is None else (note,)

    def to_json(self) -> dict[str, object]:
        """Give the content of ``calibration.json``, without what is not known, as in earlier versions."""
        later = {"false_alarms": self.false_alarms, "regions": self.regions, "branches": self.branches}
        return {name: value for name, value in asdict(self).items() if name not in later or later[name]}

    @classmethod
    def from_json(cls, content: Mapping[str, Plain]) -> Calibration:
        """Rebuild a calibration from the content of ``calibration.json``.

        Raises:
            RunFolderError: The content has changed.
        """
        try:
            image, tiles, notes = content["image"], content["tiles"], content["notes"]
            false_alarms = content.get("false_alarms")  # earlier versions did not estimate them
            return cls(
                image=None if image is None else _level(image),
                tiles={name: _level(level) for name, level in tiles.items()},
                notes=tuple(notes),
                borrowed=dict(content.get("borrowed", {})),  # earlier versions knew none
                false_alarms=None if false_alarms is None else FalseAlarms(**false_alarms),
                regions={name: Learned(**learned) for name, learned in content.get("regions", {}).items()},
                branches=None if (branches := content.get("branches")) is None else Branches.from_json(branches),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = f"calibration.json has changed ({error!r}). Delete it, and run fit --ckpt_dir again."
            raise RunFolderError(message) from error


def _global_model(spec: ClassSpec | None) -> GlobalModel | None:
    """Make the stage without its model, which is trained and loaded like that of a tile."""
    if spec is None:
        return None
    return replace(spec, init_args={**spec.init_args, "model": None}).build(GlobalModel)


def _applied_to(setting: str, given: str, allowed: tuple[AppliedTo, ...]) -> AppliedTo:
    for place in allowed:
        if place == given:
            return place
    message = f"{setting}.stage cannot be {given!r}. {allowed_names(given, allowed)}"
    raise ConfigurationError(message)


def _level(content: Mapping[str, Plain]) -> Level:
    return Level(Learned(**content["scores"]), Learned(**content["maps"]))
