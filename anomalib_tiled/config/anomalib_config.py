"""Translate configurations of the tiled ensemble of anomalib 1.2 and 2 into settings of this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import sections
from anomalib_tiled.errors import ConfigurationError, allowed_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.config.settings import Plain

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

KEYS = {
    "": (*NAMED_HERE, "default_root_dir", "tiling", "thresholding", "data"),
    "tiling": ("image_size", "tile_size", "stride"),
    "thresholding": ("method", "stage"),
    "data": ("class_path", "init_args"),
    "SeamSmoothing": ("apply", "sigma", "width"),
    "TrainModels": ("model", "metrics", "trainer"),
    "TrainModels.metrics": ("image", "pixel"),
}
"""Keys of each group."""

STAGES = {"normalization_stage": ("tile", "image", "none"), "thresholding_stage": ("tile", "image")}
THRESHOLD_ARGUMENTS = {"F1AdaptiveThreshold": None, "ManualThreshold": "value"}
"""Thresholds of the reference, and the name of their argument `default_value` here, if it has a meaning."""

RENAMED_DATA = {"MVTec": "MVTecAD"}
RENAMED_TRANSFORMS = {
    "transform": "augmentations",
    "train_transform": "train_augmentations",
    "eval_transform": "val_augmentations and test_augmentations",
}


@dataclass(frozen=True)
class Translation:
    """The translation of a configuration of the reference, or of a part of it.

    Args:
        settings: The settings, by their names here.
        notes: A line for each translated key and for each difference in behaviour.
    """

    settings: Mapping[str, Plain] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_reference(configuration: Plain) -> bool:
    """Whether a configuration has keys of anomalib's own tiled ensemble."""
    return isinstance(configuration, Mapping) and not NAMED_HERE.keys().isdisjoint(configuration)


def translate(configuration: Mapping[str, Plain]) -> Translation:
    """Translate a configuration of anomalib's own tiled ensemble.

    Args:
        configuration: The content of its file.

    Raises:
        ConfigurationError: A key is unknown, belongs to this package, or has a value that has no meaning here.
    """
    _check_not_mixed(configuration)
    for group in KEYS:
        _check_keys(group, _group(configuration, group))
    sections = (_general, _tiling, _data, _stages, _seam_smoothing, _training, _differences)
    parts = [section(configuration) for section in sections]
    settings = {key: value for part in parts for key, value in part.settings.items()}
    return Translation(settings, tuple(note for part in parts for note in part.notes))


def _general(configuration: Mapping[str, Plain]) -> Translation:
    names = {"seed": "seed_everything", "default_root_dir": "default_root_dir"}
    settings = {new: configuration[old] for old, new in names.items() if configuration.get(old) is not None}
    changed = [key for key in ("seed", "accelerator") if configuration.get(key) is not None]
    return Translation(settings, _moved(changed, [NAMED_HERE[key] for key in changed]))


def _tiling(configuration: Mapping[str, Plain]) -> Translation:
    """Translate the tiling; in anomalib 1.2, the image size is an argument of the data module."""
    tiling = dict(_group(configuration, "tiling"))
    of_data = _group(configuration, "data.init_args").get("image_size")
    if of_data is None:
        return Translation({"tiling": tiling} if tiling else {})
    if tiling.get("image_size") is None:
        return Translation(
            {"tiling": {**tiling, "image_size": of_data}}, _moved(["data.init_args.image_size"], ["tiling.image_size"])
        )
    if _is_anomalib_data(configuration) and tiling["image_size"] != of_data:
        message = (
            "The size of the images must be given once, but tiling.image_size is "
            f"{tiling['image_size']} and data.init_args.image_size is {of_data}. Remove the latter."
        )
        raise ConfigurationError(message)
    return Translation({"tiling": tiling})


def _data(configuration: Mapping[str, Plain]) -> Translation:
    """Translate names and arguments of anomalib 1.2's data modules; keep those of other packages."""
    data = dict(_group(configuration, "data"))
    if not data or not _is_anomalib_data(configuration):
        return Translation({"data": data} if data else {})
    notes: tuple[str, ...] = ()
    if (given := data.get("class_path")) is not None:
        data["class_path"] = _data_class(given)
        if data["class_path"] != given:
            notes = _moved([given], [data["class_path"]])
    arguments = _data_arguments(_group(configuration, "data.init_args"))
    if arguments.settings or "init_args" in data:
        data["init_args"] = dict(arguments.settings)
    return Translation({"data": data}, (*notes, *arguments.notes))


def _data_class(given: str) -> str:
    package, _, name = given.rpartition(".")
    name = RENAMED_DATA.get(name, name)
    return f"anomalib.data.{name}" if package else name


def _data_arguments(given: Mapping[str, Plain]) -> Translation:
    """Remove the arguments that the data modules of anomalib 2 do not have."""
    for old, new in RENAMED_TRANSFORMS.items():
        if given.get(old) is not None:  # the reference never builds it, so it has no effect there
            message = (
                f"data.init_args.{old} is called {new} since anomalib 2, and holds augmentations only. Remove resizing "
                "and normalizing, and rename it."
            )
            raise ConfigurationError(message)
    kept = {key: value for key, value in given.items() if key not in {"task", "image_size", *RENAMED_TRANSFORMS}}
    left_out = "  data.init_args.task → left out: masks are used where there are some"
    return Translation(kept, () if given.get("task") is None else (left_out,))


def _stages(configuration: Mapping[str, Plain]) -> Translation:
    thresholding = dict(_group(configuration, "thresholding"))
    stages = {
        "normalization_stage": configuration.get("normalization_stage"),
        "thresholding_stage": _thresholding_stage(configuration, thresholding.pop("stage", None)),
    }
    for key, stage in stages.items():
        if (key in configuration or stage is not None) and stage not in STAGES[key]:
            message = f"There is no {key} {stage!r}. {allowed_names(str(stage), STAGES[key])}"
            raise ConfigurationError(message)
    settings = {key.removesuffix("_stage"): {"stage": stage} for key, stage in stages.items() if stage is not None}
    if (method := thresholding.get("method")) is not None:
        settings["thresholding"] = {**settings.get("thresholding", {}), "method": _threshold(method)}
    moved = [key for key in stages if configuration.get(key) is not None]
    return Translation(settings, _moved(moved, [NAMED_HERE[key] for key in moved]))


def _thresholding_stage(configuration: Mapping[str, Plain], grouped: Plain) -> Plain:
    alone = configuration.get("thresholding_stage")
    if alone is not None and grouped is not None and alone != grouped:
        message = (
            f"The stage of thresholding must be given once, but thresholding_stage is {alone} and thresholding.stage "
            f"is {grouped}. Remove one of them."
        )
        raise ConfigurationError(message)
    return grouped if alone is None else alone


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


def _seam_smoothing(configuration: Mapping[str, Plain]) -> Translation:
    smoothing = dict(_group(configuration, "SeamSmoothing"))
    if not smoothing:
        return Translation()
    if not isinstance(apply := smoothing.pop("apply", True), bool):
        message = f"SeamSmoothing.apply must be true or false, but is {apply!r}."
        raise ConfigurationError(message)
    if not apply:
        return Translation({"seam_smoothing": None}, _moved(["SeamSmoothing.apply: false"], ["seam_smoothing: null"]))
    spec = {"seam_smoothing": {"class_path": "GaussianSeams", "init_args": smoothing}}
    return Translation(spec, _moved(["SeamSmoothing"], ["seam_smoothing: GaussianSeams"]))


def _training(configuration: Mapping[str, Plain]) -> Translation:
    given = {key: value for key, value in _group(configuration, "TrainModels").items() if value is not None}
    if isinstance(model := given.get("model"), Mapping):
        given["model"] = {key: value for key, value in model.items() if value is not None}
    translated = {"model": given.get("model"), "metrics": _metrics(configuration), "trainer": _trainer(configuration)}
    settings = {key: value for key, value in translated.items() if value}
    return Translation(settings, _moved([f"TrainModels.{key}" for key in given], list(given)))


def _metrics(configuration: Mapping[str, Plain]) -> dict[str, list[Plain]]:
    """Give the metrics of each level; a missing level keeps its default, which is that of the reference."""
    metrics = _group(configuration, "TrainModels.metrics")
    return {level: _metric_list(given) for level, given in metrics.items() if given is not None}


def _metric_list(given: Plain) -> list[Plain]:
    """Give metrics as a list; anomalib 1.2 also allows a mapping of names to classes."""
    if isinstance(given, Mapping) and "class_path" not in given:
        classes = {
            name: spec if isinstance(spec, Mapping) else {"class_path": spec or name} for name, spec in given.items()
        }
        return [{"class_path": name, **spec, "name": name} for name, spec in classes.items()]
    return given if isinstance(given, list) else [given]


def _trainer(configuration: Mapping[str, Plain]) -> dict[str, Plain]:
    """Give the trainer's arguments; the accelerator at the top level wins, as in the reference."""
    trainer = dict(_group(configuration, "TrainModels.trainer"))
    if configuration.get("accelerator") is not None:
        trainer["accelerator"] = configuration["accelerator"]
    if isinstance(callbacks := trainer.get("callbacks"), list):
        trainer["callbacks"] = [_callback(each) for each in callbacks]
    return trainer


def _callback(callback: Plain) -> Plain:
    """Monitor F1Max in place of F1Score: the reference computes F1Score at the best threshold of the validation."""
    if not isinstance(callback, Mapping) or not isinstance(arguments := callback.get("init_args"), Mapping):
        return callback
    if not isinstance(monitor := arguments.get("monitor"), str) or not monitor.endswith("_F1Score"):
        return callback
    return {**callback, "init_args": {**arguments, "monitor": monitor.removesuffix("Score") + "Max"}}


def _differences(configuration: Mapping[str, Plain]) -> Translation:
    """List the differences in behaviour from the reference."""
    stages = _stages(configuration).settings
    notes = [
        "  mean over tiles → scoring: Max; with more tiles, a defect changes the mean less (--scoring Mean keeps it)"
    ]
    if stages.get("thresholding", {}).get("stage") == "tile" != stages.get("normalization", {}).get("stage"):
        notes.append("Thresholds of tiles are learned on the scale of their scores, not fixed at 0.5.")
    notes.append("Images are split once for all tiles, none is padded with black, and an error ends the command.")
    return Translation(notes=tuple(notes))


def _moved(old: Sequence[str], new: Sequence[str]) -> tuple[str, ...]:
    return (f"  {', '.join(old)} → {', '.join(new)}",) if old else ()


def _is_anomalib_data(configuration: Mapping[str, Plain]) -> bool:
    package, _, _ = str(_group(configuration, "data").get("class_path")).rpartition(".")
    return not package or f"{package}.".startswith("anomalib.data.")


def _group(configuration: Mapping[str, Plain], name: str) -> Mapping[str, Plain]:
    """Give the group of a dotted name; empty if it is missing or null.

    Raises:
        ConfigurationError: It is not a mapping.
    """
    group = configuration
    for key in name.split(".") if name else ():
        found = group.get(key)
        if found is not None and not isinstance(found, Mapping):
            message = f"{name} must be a mapping, but {key} is {found!r}."
            raise ConfigurationError(message)
        group = found or {}
    return group


def _check_keys(group: str, given: Iterable[str]) -> None:
    for key in given:
        if key not in KEYS[group]:
            where = f"{group} of anomalib's own tiled ensemble" if group else "anomalib's own tiled ensemble"
            message = f"{where} has no key {key!r}. {allowed_names(str(key), KEYS[group])}"
            raise ConfigurationError(message)


def _check_not_mixed(configuration: Mapping[str, Plain]) -> None:
    ours = sections() - {*KEYS[""]}
    found = [key for key in configuration if key in ours]
    theirs = [key for key in configuration if key in NAMED_HERE]
    if found:
        message = (
            f"A configuration must be in one form, but {', '.join(found)} stands beside {', '.join(theirs)} of "
            f"anomalib's own tiled ensemble. Rename: {', '.join(f'{key} is {NAMED_HERE[key]} here' for key in theirs)}."
        )
        raise ConfigurationError(message)
