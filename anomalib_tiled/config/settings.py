"""Settings: the user's configuration as frozen dataclasses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from jsonargparse import ArgumentParser

from anomalib_tiled.config.allowed_classes import add_object, check_classes
from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.grid import Size, Tile, WholeImage
from anomalib_tiled.stages import kinds
from anomalib_tiled.stages.kinds import StageKind
from anomalib_tiled.stages.thresholding import NEUTRAL
from anomalib_tiled.stages.uncertain import Uncertain
from anomalib_tiled.system.memory import as_bytes

T = TypeVar("T")
Made = TypeVar("Made")

# Values as YAML holds them: arguments of classes of other packages may be of any type.
Plain = Any

DECIDE_TRAINING = ("seed_everything", "tiling", "model", "data", "trainer")
"""Settings that change a trained tile."""

FLOAT32 = "float32"
"""The precision of a run that names none."""

WHOLE_SIZE = 256
"""Height and width of the shrunk image in pixels, if a global model names none."""

WHOLE_SIZE_SETTING = "global_model.init_args.image_size"

FREE = ("metrics", "visualize", "memory_budget", "unfitted_tiles", "accelerate", "loggers")
"""Settings, other than the stages, whose change needs no training."""

NEED_NO_TRAINING = ("normalization", "thresholding", *FREE)
"""Fields of the settings, other than the stages, that may be changed in a run."""

LATER = ("memory_budget", "unfitted_tiles", "unaligned_images", "accelerate", "precision")
"""Settings that configurations of earlier versions lack."""

FOLDERS = ("default_root_dir", "cache.directory")
"""Settings that say where files are, not what is in them."""

SENSITIVITIES = ("image_sensitivity", "pixel_sensitivity")
"""Settings of thresholding that change decisions, but nothing that the stages learn."""

UNCERTAIN = "uncertain"
"""Another such setting. A configuration that leaves it out is written as in earlier versions."""


@dataclass(frozen=True)
class ClassSpec:
    """A class and its arguments, as in a configuration.

    Args:
        class_path: Dotted path of the class.
        init_args: Its arguments as YAML holds them.
    """

    class_path: str
    init_args: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the class without its module."""
        return self.class_path.rpartition(".")[2]

    def build(self, base: type[T], make: Callable[..., Any] | None = None) -> T:
        """Make the object; converts arguments and builds nested classes by the type hints of the class.

        Args:
            base: A base class of the class.
            make: Called as ``make(class, **arguments)`` instead of the class itself.

        Raises:
            ConfigurationError: The class does not take these arguments or values.
        """
        errors: list[Exception] = []

        def construct(class_type: type[Made], *_: Plain, **arguments: Plain) -> Made:
            try:
                return cast("Made", (make or _call)(class_type, **arguments))
            except Exception as error:
                errors.append(error)  # jsonargparse would hide it behind a list of types that do not fit
                raise

        parser = ArgumentParser(exit_on_error=False)
        add_object(parser, base)
        parser.add_instantiator(construct, base, subclasses=True)
        try:
            parsed = parser.parse_object({"object": asdict(self)}, defaults=False)
            check_classes(parsed, self.class_path.partition(".")[0])
            return cast("T", parser.instantiate_classes(parsed).object)
        except Exception as error:  # noqa: BLE001  # raised again at once, with the message of the class itself
            cause = errors[0] if errors else error
            message = f"{self.class_path} cannot be made with {dict(self.init_args)}: {cause}"
            raise ConfigurationError(message) from cause


@dataclass(frozen=True)
class TilingSettings:
    """How images are cut into tiles.

    Args:
        image_size: Height and width in pixels to which images are resized; one number for a square;
            null for the images' own size.
        tile_size: Height and width of a tile in pixels; one number for a square.
        stride: Distance between the starts of neighbouring tiles in pixels, [height, width] or one number for both;
            null for the tile size, that is no overlap.
    """

    tile_size: int | tuple[int, int]
    image_size: int | tuple[int, int] | None = None
    stride: int | tuple[int, int] | None = None


@dataclass(frozen=True)
class NormalizationSettings:
    """Where the normalizer is applied.

    Args:
        stage: ``tile``, ``image`` or ``none``.
    """

    stage: str


@dataclass(frozen=True)
class ThresholdingSettings:
    """Where the thresholder is applied, and how sensitive decisions are.

    Args:
        stage: ``tile`` or ``image``.
        image_sensitivity: Between 0 and 1. An image is anomalous if its normalized score is greater than 1 minus this.
        pixel_sensitivity: The same for pixels.
        uncertain: Which images are uncertain; ``None`` if none are.
    """

    stage: str
    image_sensitivity: float = NEUTRAL
    pixel_sensitivity: float = NEUTRAL
    uncertain: Uncertain | None = None


@dataclass(frozen=True)
class MetricSettings:
    """The metrics of a test.

    Args:
        image: Metrics of image scores: names, dotted class paths, or {class_path, init_args, name}.
        pixel: Metrics of anomaly maps, in the same form; skipped if there are no masks.
    """

    image: tuple[str | dict[str, Plain], ...] = ("AUROC", "F1Score")
    pixel: tuple[str | dict[str, Plain], ...] = ("AUROC", "F1Score")


@dataclass(frozen=True)
class CacheSettings:
    """Where decoded images are kept.

    Args:
        directory: Folder of the cache, shared by all runs and safe to delete;
            null for the folder ``cache`` in ``default_root_dir``.
    """

    directory: str | None = None


@dataclass(frozen=True)
class Settings:
    """The whole configuration.

    Args:
        seed_everything: Seed of the split and of every tile.
        default_root_dir: Folder for the run folders.
        tiling: How images are cut into tiles.
        model: Class and arguments of the model.
        data: Class and arguments of the data module.
        trainer: Arguments of Lightning's ``Trainer``.
        stages: Class and arguments of the stage of each kind, by the kind's name; without those that are null.
        normalization: Place of the normalizer.
        thresholding: Place of the thresholder, and sensitivities.
        metrics: The metrics of a test.
        cache: Where decoded images are kept; ``None`` to decode them each time.
        visualize: Whether ``test`` draws pictures; ``beside`` for the image alone beside each, too.
        memory_budget: Most memory for models and images, such as ``4GB``; ``None`` for a share of the free memory.
        unfitted_tiles: What to do about locations on which the model cannot be fitted: ``leave_out`` or ``error``.
        unaligned_images: What to do about training images that cannot be aligned: ``error`` or ``leave_out``.
        accelerate: Whether parts of anomalib's models compute faster than anomalib's own; results differ by rounding.
        precision: Precision of frozen backbones, or of whole models: ``float32``, ``bfloat16`` or ``float16``.
        loggers: Lightning's loggers of the run as a whole.
    """

    seed_everything: int
    default_root_dir: str
    tiling: TilingSettings
    model: ClassSpec
    data: ClassSpec
    trainer: Mapping[str, Plain]
    stages: Mapping[str, ClassSpec]
    normalization: NormalizationSettings
    thresholding: ThresholdingSettings
    metrics: MetricSettings
    cache: CacheSettings | None
    visualize: bool | str
    memory_budget: str | int | None = None
    unfitted_tiles: str = "leave_out"
    unaligned_images: str = "error"
    accelerate: bool = True
    precision: str = FLOAT32
    loggers: tuple[ClassSpec, ...] = ()

    @property
    def whole_size(self) -> Size | None:
        """Height and width in pixels of the whole image, as the global model sees it; ``None`` if there is none."""
        if (spec := self.stages.get("global_model")) is None:
            return None
        if (size := spec.init_args.get("image_size", WHOLE_SIZE)) is None:  # jsonargparse takes null for any type
            message = "global_model.image_size must be a number of pixels, or [height, width], but is null. Change it."
            raise ConfigurationError(message)
        return as_size(size)

    def model_of(self, tile: Tile) -> ClassSpec:
        """Give the model of a tile, or of the whole image."""
        return self.whole_model if isinstance(tile, WholeImage) else self.model

    @property
    def whole_model(self) -> ClassSpec:
        """The model of the whole image: that of the tiles, unless the global model names one."""
        own = self.stages["global_model"].init_args.get("model")
        return self.model if own is None else _spec(own)

    @property
    def memory_bytes(self) -> int | None:
        """The memory budget in bytes; ``None`` for a share of the free memory."""
        return None if self.memory_budget is None else as_bytes(self.memory_budget)

    @property
    def cache_directory(self) -> Path | None:
        """Folder of the image cache; ``None`` for no cache."""
        if self.cache is None:
            return None
        return Path(self.cache.directory or Path(self.default_root_dir) / "cache")

    @cached_property
    def training_hash(self) -> str:
        """Hash of all settings that change a trained tile."""
        return self._hash((*DECIDE_TRAINING, *self._chosen_for_training))

    @property
    def _chosen_for_training(self) -> list[str]:
        """What else changes a trained tile, where it is not the default: older runs keep their hash."""
        deciding = [kind for kind in kinds.STAGE_KINDS if kind.decides_training]
        chosen = [kind.section for kind in deciding if self.stages.get(kind.name) != _default(kind)]
        return chosen if self.precision == FLOAT32 else [*chosen, "precision"]

    @property
    def calibration_hash(self) -> str:
        """Hash of all settings that change what the stages learn."""
        # A new kind of stage that is null by default must not invalidate the calibration of older runs.
        deciding = [kind for kind in kinds.STAGE_KINDS if kind.decides_calibration]
        later = [kind for kind in deciding if not kind.decides_training]
        chosen = [kind.section for kind in later if kind.default is not None or kind.name in self.stages]
        return self._hash((*DECIDE_TRAINING, *self._chosen_for_training, *chosen))

    def _hash(self, names: tuple[str, ...]) -> str:
        settings = self.to_mapping()
        for name in (*SENSITIVITIES, UNCERTAIN):
            settings["thresholding"].pop(name, None)
        content = json.dumps([settings[name] for name in names], default=str)
        return blake2b(content.encode(), digest_size=8).hexdigest()

    def to_mapping(self) -> dict[str, Plain]:
        """Give the content of a configuration file, as ``from_mapping`` reads it."""
        written: dict[str, Plain] = {}
        for name, value in asdict(self).items():
            written |= {kind.section: {} for kind in kinds.STAGE_KINDS} if name == "stages" else {name: value}
        for kind in kinds.STAGE_KINDS:
            spec = self.stages.get(kind.name)
            holder, name = (written[kind.group] if kind.group else written), kind.setting.rpartition(".")[2]
            holder[name] = None if spec is None else asdict(spec)
        limits = written["thresholding"].pop(UNCERTAIN) or {}
        if given := {name: value for name, value in limits.items() if value is not None}:
            written["thresholding"][UNCERTAIN] = given
        written["loggers"] = [asdict(spec) for spec in self.loggers]
        return written

    def in_order(self) -> Settings:
        """Sort the arguments of all objects by name: hashes stay the same when a program writes the file again."""
        return Settings.from_mapping({name: _sorted(value) for name, value in self.to_mapping().items()})

    def to_yaml(self) -> str:
        """Write the settings in the form that ``--config`` reads."""
        return str(yaml.safe_dump(self.to_mapping(), sort_keys=False))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Plain]) -> Settings:
        """Read settings from the content of a configuration file, which must have every key.

        Raises:
            ConfigurationError: A key is unknown or missing.
        """
        new: dict[str, Plain] = {kind.section: None for kind in kinds.STAGE_KINDS if kind.default is None}
        new |= {kind.section: {"class_path": kind.default} for kind in kinds.STAGE_KINDS if kind.name == "assignment"}
        later = {name: getattr(cls, name) for name in LATER}
        _check_keys(mapping := {"loggers": (), **later, **new, **mapping}, sections())
        return cls(
            **{key: mapping[key] for key in ("seed_everything", "default_root_dir", "visualize", *later)},
            tiling=TilingSettings(**{key: _tupled(value) for key, value in mapping["tiling"].items()}),
            model=_spec(mapping["model"]),
            data=_spec(mapping["data"]),
            trainer=dict(mapping["trainer"] or {}),
            stages={kind.name: spec for kind in kinds.STAGE_KINDS if (spec := _stage(mapping, kind)) is not None},
            normalization=NormalizationSettings(mapping["normalization"]["stage"]),
            thresholding=_thresholding(mapping["thresholding"]),
            loggers=tuple(map(_logger, mapping["loggers"] or ())),
            metrics=MetricSettings(**{key: tuple(value or ()) for key, value in mapping["metrics"].items()}),
            cache=None if mapping["cache"] is None else CacheSettings(**mapping["cache"]),
        )


def changed_in_run(own: Settings, given: Settings) -> Settings:
    """Give the settings of a run with those of other settings that may be changed in it."""
    stages = {
        kind.name: spec
        for kind in kinds.STAGE_KINDS
        if (spec := (own if kind.decides_training else given).stages.get(kind.name)) is not None
    }
    return replace(own, stages=stages, **{name: getattr(given, name) for name in NEED_NO_TRAINING})


def changeable() -> list[str]:
    """Give the keys of a configuration file that may be changed in a run."""
    stages = [kind.section for kind in kinds.STAGE_KINDS if not kind.decides_training]
    return [*stages, *FREE]


def sections() -> set[str]:
    """Give the keys of a configuration file."""
    own = {each.name for each in fields(Settings)} - {"stages"}
    return own | {kind.section for kind in kinds.STAGE_KINDS}


def as_size(value: int | Sequence[int]) -> Size:
    """Read a size: one number for a square, or height and width."""
    return Size(value, value) if isinstance(value, int) else Size(*value)


def differences(own: Settings, given: Settings) -> list[str]:
    """Name each setting that differs, such as ``tiling.stride is [64, 64], not [32, 32]``.

    Folders do not count, nor arguments that have gone with their class.
    """
    ours, theirs = (_flat(yaml.safe_load(settings.to_yaml())) for settings in (own, given))
    other_class = tuple(
        name.replace(".class_path", ".init_args.")
        for name in theirs
        if name.endswith(".class_path") and theirs[name] != ours.get(name)
    )
    return [
        f"{name} is {ours.get(name)}, not {theirs.get(name)}"
        for name in ours | theirs
        if name not in FOLDERS
        and theirs.get(name) != ours.get(name)
        and (name in ours or not name.startswith(other_class))
    ]


def _flat(value: Plain, name: str = "") -> dict[str, Plain]:
    """Give settings by their dotted names; sizes as [height, width], so that 64 equals [64, 64]."""
    if not isinstance(value, Mapping):
        is_size = value and (name.startswith("tiling.") or name == WHOLE_SIZE_SETTING)
        if isinstance(value, float) and math.isnan(value):
            return {name: "nan"}  # which equals itself
        return {name: [*as_size(value)] if is_size else value}
    return {
        inner: each
        for key, nested in value.items()
        for inner, each in _flat(nested, f"{name}.{key}" if name else key).items()
    }


def _call(class_type: Callable[..., T], **arguments: Plain) -> T:
    return class_type(**arguments)


def _check_keys(mapping: Mapping[str, Plain], expected: set[str]) -> None:
    for key in mapping:
        if key not in expected:
            message = f"There is no setting {key!r}. {allowed_names(key, expected)}"
            raise ConfigurationError(message)
    if missing := expected - set(mapping):
        message = f"The configuration lacks {', '.join(sorted(missing))}."
        raise ConfigurationError(message)


def _spec(mapping: Mapping[str, Plain]) -> ClassSpec:
    return ClassSpec(mapping["class_path"], dict(mapping.get("init_args") or {}))


def _logger(given: str | Mapping[str, Plain]) -> ClassSpec:
    return ClassSpec(given) if isinstance(given, str) else _spec(given)


def _stage(mapping: Mapping[str, Plain], kind: StageKind) -> ClassSpec | None:
    holder, name = (mapping[kind.group] if kind.group else mapping), kind.setting.rpartition(".")[2]
    given = holder.get(name)
    if given is None and not kind.optional:
        message = f"{kind.setting} must be a class and its arguments, but is null. Remove it for {kind.default}."
        raise ConfigurationError(message)
    return None if given is None else _spec(given)


def _thresholding(mapping: Mapping[str, Plain]) -> ThresholdingSettings:
    uncertain = mapping.get(UNCERTAIN)
    for name in uncertain or ():
        if name not in (known := {each.name for each in fields(Uncertain)}):
            message = f"There is no setting thresholding.uncertain.{name}. {allowed_names(name, known)}"
            raise ConfigurationError(message)
    own = {name: each for name, each in mapping.items() if name in ("stage", *SENSITIVITIES)}
    return ThresholdingSettings(**own, uncertain=None if uncertain is None else Uncertain(**uncertain))


def _sorted(value: Plain) -> Plain:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value, key=str)}
    return [_sorted(each) for each in value] if isinstance(value, (list, tuple)) else value


def _default(kind: StageKind) -> ClassSpec | None:
    return None if kind.default is None else ClassSpec(kind.default)


def _tupled(value: Plain) -> Plain:
    return tuple(value) if isinstance(value, list) else value
