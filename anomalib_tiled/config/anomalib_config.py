"""What was written for anomalib itself: configurations of its tiled ensemble (1.2 and 2), and its post-processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from anomalib_tiled.config.settings import SENSITIVITIES, Plain, Settings, sections
from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.stages.thresholding import NEUTRAL

HEADING = "Configuration of anomalib's own tiled ensemble, read as (--print_config shows all of it):"

NAMED_HERE = {
    "seed": "seed_everything",
    "accelerator": "trainer.accelerator",
    "normalization_stage": "normalization.stage",
    "thresholding_stage": "thresholding.stage",
    "SeamSmoothing": "seam_smoothing",
    "TrainModels": "model, metrics and trainer",
}
"""Keys that only the reference has, and their names here."""

MOVED = {
    "seed": "seed_everything",
    "default_root_dir": "default_root_dir",
    "tiling.image_size": "tiling.image_size",
    "tiling.tile_size": "tiling.tile_size",
    "tiling.stride": "tiling.stride",
    "data": "data",
    "data.init_args.image_size": "tiling.image_size",
    "normalization_stage": "normalization.stage",
    "thresholding.stage": "thresholding.stage",
    "thresholding_stage": "thresholding.stage",
    "thresholding.method": "thresholding.method",
    "SeamSmoothing": "seam_smoothing",
    "TrainModels.model": "model",
    "TrainModels.metrics.image": "metrics.image",
    "TrainModels.metrics.pixel": "metrics.pixel",
    "TrainModels.trainer": "trainer",
    "accelerator": "trainer.accelerator",
}
"""Settings of the reference, and those that they become; ``accelerator`` wins over that of the trainer."""

GROUPS: dict[str, set[str]] = {
    "": {name.partition(".")[0] for name in MOVED},
    "tiling": {"image_size", "tile_size", "stride"},
    "data": {"class_path", "init_args"},
    "data.init_args": set(),
    "thresholding": {"stage", "method"},
    "SeamSmoothing": {"apply", "sigma", "width"},
    "TrainModels": {"model", "metrics", "trainer"},
    "TrainModels.metrics": {"image", "pixel"},
    "TrainModels.trainer": set(),
}
"""Keys of each group; none where they are those of a class."""

THRESHOLD_ARGUMENTS = {"F1AdaptiveThreshold": None, "ManualThreshold": "value"}
"""Thresholds of the reference, and the name of their argument `default_value` here, if it has a meaning."""

RENAMED_TRANSFORMS = {
    "transform": "augmentations",
    "train_transform": "train_augmentations",
    "eval_transform": "val_augmentations and test_augmentations",
}

MAXIMUM = "  mean over tiles → scoring: Max; with more tiles, a defect changes the mean less (--scoring Mean keeps it)"
LEARNED = "Thresholds of tiles are learned on the scale of their scores, not fixed at 0.5."
SPLIT = "Images are split once for all tiles, none is padded with black, and an error ends the command."


def is_reference(configuration: Plain) -> bool:
    """Whether a configuration has keys of anomalib's own tiled ensemble."""
    return isinstance(configuration, Mapping) and not NAMED_HERE.keys().isdisjoint(configuration)


def translate(configuration: Mapping[str, Plain]) -> tuple[dict[str, Plain], list[str]]:
    """Translate a configuration of anomalib's own tiled ensemble.

    Args:
        configuration: The content of its file.

    Returns:
        The settings by their names here, and a line for each moved setting and for each difference in behaviour.

    Raises:
        ConfigurationError: A key is unknown, belongs to this package, or has a value that has no meaning here.
    """
    _check_keys(configuration)
    settings: dict[str, Plain] = {}
    notes = []
    for old, new in MOVED.items():
        given = _value(configuration, old)
        if given is None or (old.startswith("data.") and not _is_of_anomalib(configuration["data"])):
            continue
        value = CONVERTED[old](given) if old in CONVERTED else given
        if (before := _value(settings, new)) not in (None, value) and old != "accelerator":
            first = next(name for name in MOVED if MOVED[name] == new)
            message = f"{new} must be given once, but {first} is {before} and {old} is {value}. Remove one of them."
            raise ConfigurationError(message)
        _put(settings, new, value)
        if old != new:
            notes.append(f"  {old} → {new}")
    if (module := _value(settings, "data.class_path")) != (old := _value(configuration, "data.class_path")):
        notes.append(f"  {old} → {module}")
    raw = _value(settings, "thresholding.stage") == "tile" != _value(settings, "normalization.stage")
    return settings, [*notes, MAXIMUM, *([LEARNED] if raw else []), SPLIT]


def _value(configuration: Mapping[str, Plain], name: str) -> Plain:
    """Give the value of a dotted name; ``None`` if it, or a group around it, is missing or null."""
    group, _, last = name.rpartition(".")
    return _group(configuration, group).get(last)


def _group(configuration: Mapping[str, Plain], name: str) -> Mapping[str, Plain]:
    """Give a group by its dotted name; empty if it is missing or null.

    Raises:
        ConfigurationError: It is not a mapping.
    """
    group = _value(configuration, name) if name else configuration
    if group is not None and not isinstance(group, Mapping):
        message = f"{name} must be a mapping, but is {group!r}."
        raise ConfigurationError(message)
    return group or {}


def _put(settings: dict[str, Plain], name: str, value: Plain) -> None:
    *groups, last = name.split(".")
    for group in groups:
        settings = settings.setdefault(group, {})
    settings[last] = value


def _check_keys(configuration: Mapping[str, Plain]) -> None:
    theirs = [key for key in configuration if key in NAMED_HERE]
    if mixed := [key for key in configuration if key in sections() - GROUPS[""]]:
        message = (
            f"A configuration must be in one form, but {', '.join(mixed)} stands beside {', '.join(theirs)} of "
            f"anomalib's own tiled ensemble. Rename: {', '.join(f'{key} is {NAMED_HERE[key]} here' for key in theirs)}."
        )
        raise ConfigurationError(message)
    for group, names in GROUPS.items():
        for key in _group(configuration, group):
            if names and key not in names:
                where = f"{group} of anomalib's own tiled ensemble" if group else "anomalib's own tiled ensemble"
                message = f"{where} has no key {key!r}. {allowed_names(str(key), names)}"
                raise ConfigurationError(message)


def _is_of_anomalib(data: Mapping[str, Plain]) -> bool:
    package, _, _ = str(data.get("class_path")).rpartition(".")
    return not package or f"{package}.".startswith("anomalib.data.")


def _data(given: Mapping[str, Plain]) -> Mapping[str, Plain]:
    """Translate names and arguments of anomalib 1.2's data modules; those of other packages stay."""
    if not _is_of_anomalib(given):
        return given
    data = {key: value for key, value in given.items() if value is not None}
    if (class_path := given.get("class_path")) is not None:
        package, _, name = class_path.rpartition(".")
        name = "MVTecAD" if name == "MVTec" else name
        data["class_path"] = f"anomalib.data.{name}" if package else name
    arguments = _group(data, "init_args")
    for old, new in RENAMED_TRANSFORMS.items():
        if arguments.get(old) is not None:  # the reference never builds it, so it has no effect there
            message = (
                f"data.init_args.{old} is called {new} since anomalib 2, and holds augmentations only. Remove resizing "
                "and normalizing, and rename it."
            )
            raise ConfigurationError(message)
    if arguments:
        gone = {"task", "image_size", *RENAMED_TRANSFORMS}
        data["init_args"] = {key: value for key, value in arguments.items() if key not in gone}
    return data


def _threshold(given: Plain) -> Mapping[str, Plain]:
    spec = given if isinstance(given, Mapping) else {"class_path": given}
    name = str(spec.get("class_path")).rpartition(".")[2]
    if name not in THRESHOLD_ARGUMENTS:
        message = f"There is no {name!r} for thresholding.method. {allowed_names(name, THRESHOLD_ARGUMENTS)}"
        raise ConfigurationError(message)
    arguments = dict(spec.get("init_args") or {})
    value = arguments.pop("default_value", 0.5)  # anomalib's own default
    if value is not None and (renamed := THRESHOLD_ARGUMENTS[name]):
        arguments[renamed] = value
    return {"class_path": name, "init_args": arguments} if arguments else {"class_path": name}


def _seam_smoothing(given: Mapping[str, Plain]) -> Mapping[str, Plain] | None:
    smoothing = dict(given)
    if not isinstance(apply := smoothing.pop("apply", True), bool):
        message = f"SeamSmoothing.apply must be true or false, but is {apply!r}."
        raise ConfigurationError(message)
    return {"class_path": "GaussianSeams", "init_args": smoothing} if apply else None


def _model(given: Plain) -> Plain:
    return {key: value for key, value in given.items() if value is not None} if isinstance(given, Mapping) else given


def _metric_list(given: Plain) -> list[Plain]:
    """Give metrics as a list; anomalib 1.2 also allows a mapping of names to classes."""
    if isinstance(given, Mapping) and "class_path" not in given:
        classes = {
            name: spec if isinstance(spec, Mapping) else {"class_path": spec or name} for name, spec in given.items()
        }
        return [{"class_path": name, **spec, "name": name} for name, spec in classes.items()]
    return given if isinstance(given, list) else [given]


def _trainer(given: Mapping[str, Plain]) -> dict[str, Plain]:
    trainer = dict(given)
    if isinstance(callbacks := trainer.get("callbacks"), list):
        trainer["callbacks"] = [_callback(each) for each in callbacks]
    return trainer


def _callback(callback: Plain) -> Plain:
    """Monitor F1Max in place of F1Score: the reference computes F1Score at the best threshold of the validation."""
    arguments = callback.get("init_args") if isinstance(callback, Mapping) else None
    if not isinstance(arguments, Mapping) or not str(arguments.get("monitor")).endswith("_F1Score"):
        return callback
    return {**callback, "init_args": {**arguments, "monitor": arguments["monitor"].removesuffix("Score") + "Max"}}


CONVERTED: dict[str, Callable[[Plain], Plain]] = {
    "data": _data,
    "thresholding.method": _threshold,
    "SeamSmoothing": _seam_smoothing,
    "TrainModels.model": _model,
    "TrainModels.metrics.image": _metric_list,
    "TrainModels.metrics.pixel": _metric_list,
    "TrainModels.trainer": _trainer,
}
"""Settings of the reference whose values have another form here."""


def read_post_processor(settings: Settings) -> tuple[Settings, str | None]:
    """Move the sensitivities of anomalib's ``PostProcessor``, an argument of models, from the model to thresholding.

    Args:
        settings: The configuration.

    Returns:
        The configuration with the model's own post-processor, which is not used here, and a line that names the moved
        settings. Without a post-processor in the arguments: the same configuration, and ``None``.

    Raises:
        ConfigurationError: The post-processor is another one, switches a step off, or contradicts ``thresholding``.
    """
    given = settings.model.init_args.get("post_processor")
    if given is None or isinstance(given, bool):  # tile_model leaves post-processing out anyway
        return settings, None
    spec = given if isinstance(given, Mapping) else {"class_path": given}
    package, _, name = str(spec.get("class_path")).rpartition(".")
    arguments = {**(spec.get("init_args") or {}), **(spec.get("dict_kwargs") or {})}
    off = [f" with {switch}: false" for switch, value in arguments.items() if value is False]
    if name != "PostProcessor" or package.partition(".")[0] not in {"", "anomalib"} or off:
        message = (
            "With tiles, model.init_args.post_processor must be anomalib's PostProcessor with all of its steps, but is "
            f"{spec.get('class_path')}{''.join(off)}. Remove it: stages normalize and threshold images, see "
            "normalization and thresholding."
        )
        raise ConfigurationError(message)
    thresholding = settings.thresholding
    for sensitivity in SENSITIVITIES:
        ours, theirs = getattr(thresholding, sensitivity), arguments.get(sensitivity)
        if theirs in {None, NEUTRAL, ours}:
            continue
        if ours != NEUTRAL:
            message = (
                f"The sensitivity must be given once, but thresholding.{sensitivity} is {ours}, and that of "
                f"model.init_args.post_processor is {theirs}. Remove the post-processor."
            )
            raise ConfigurationError(message)
        thresholding = replace(thresholding, **{sensitivity: theirs})
    model = replace(settings.model, init_args={**settings.model.init_args, "post_processor": True})
    moved = ", ".join(f"thresholding.{each}: {getattr(thresholding, each)}" for each in SENSITIVITIES)
    return replace(settings, model=model, thresholding=thresholding), f"model.init_args.post_processor → {moved}"
