"""Metrics in a configuration: name, class and arguments."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from anomalib.metrics import AUPRO, PRO, AnomalibMetric
from torchmetrics import Metric
from torchmetrics.classification import BinaryConfusionMatrix, BinaryStatScores

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.system.packages import is_dotted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anomalib_tiled.config.settings import Plain

COUNTED = {
    "image": ("AUPR", "AUROC", "F1Max", "F1Score"),
    "pixel": ("AUPR", "AUPRO", "AUROC", "F1Max", "F1Score"),
}
"""Metrics that are computed from counts if they have no arguments, for images and for pixels."""

PACKAGES = ("anomalib.metrics", "torchmetrics.classification", "torchmetrics.segmentation", "torchmetrics")
"""Packages to search, in this order, for a class that is given by its name alone."""

KEYS = ("class_path", "init_args", "name")
GIVEN_HERE = ("fields", "prefix", "strict")
"""Arguments of anomalib's metrics that this package sets itself."""

OF_EVERY_METRIC = (
    *("compute_on_cpu", "dist_sync_on_step", "process_group", "dist_sync_fn", "distributed_available_fn"),
    *("sync_on_compute", "compute_with_cache"),
)
"""Arguments of every torchmetrics metric that are of no use on one device."""

OF_REGIONS = (AUPRO, PRO)
"""Metrics that make no sense for whole images."""

BINARY_DECISIONS = (BinaryStatScores, BinaryConfusionMatrix)
"""Metrics that judge decisions, and apply a threshold to scores."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric in a configuration.

    Args:
        level: ``image`` or ``pixel``.
        class_path: Name or dotted path of the class.
        name: Its name in the results.
        init_args: Its arguments.
    """

    level: str
    class_path: str
    name: str
    init_args: Mapping[str, Plain] = field(default_factory=dict)

    @property
    def is_counted(self) -> bool:
        """Whether it is computed from counts instead of by its class."""
        return self.class_path in COUNTED[self.level] and not self.init_args

    @property
    def where(self) -> str:
        """The metric in messages."""
        return f"The metric {self.class_path!r} in metrics.{self.level}"


def read_metrics(level: str, given: Sequence[str | Mapping[str, Plain]]) -> tuple[MetricSpec, ...]:
    """Read a list of metrics.

    Args:
        level: ``image`` or ``pixel``.
        given: Names, dotted class paths, or mappings with ``class_path``, ``init_args`` and ``name``.

    Raises:
        ConfigurationError: An entry has another form, or two have the same name.
    """
    specs = tuple(_spec(level, each) for each in given)
    for name, count in Counter(spec.name for spec in specs).items():
        if count > 1:
            message = (
                f"Every metric in metrics.{level} needs a name of its own, but {count} are called {name!r}. "
                f"Name them, for example {{class_path: {name}, name: {name}2, init_args: ...}}, or remove one."
            )
            raise ConfigurationError(message)
    return specs


def make_metric(spec: MetricSpec) -> Metric:
    """Make the object of a metric.

    A metric of decisions gets no ``threshold``: `ClassMetric` applies it before.

    Raises:
        ConfigurationError: There is no such class, or it refuses its arguments.
    """
    metric_class = _find(spec)
    parameters = _parameters(metric_class)
    _check_given_here(spec)
    arguments = {name: _converted(parameters.get(name), value) for name, value in spec.init_args.items()}
    if "task" in parameters and parameters["task"].default is inspect.Parameter.empty:
        arguments.setdefault("task", "binary")
    if issubclass(metric_class, BINARY_DECISIONS) or arguments.get("task") == "binary":
        arguments.pop("threshold", None)
    if issubclass(metric_class, AnomalibMetric):
        arguments["fields"] = ("predicted", "truth")
    try:
        return metric_class(**arguments)
    except Exception as error:  # a third party's class may refuse in any way
        raise ConfigurationError(_refusal(spec, parameters, error)) from error


def _spec(level: str, given: str | Mapping[str, Plain]) -> MetricSpec:
    mapping = given if isinstance(given, Mapping) else {"class_path": given}
    for key in mapping:
        if key not in KEYS:
            message = f"A metric in metrics.{level} has no key {key!r}. {allowed_names(str(key), KEYS)}"
            raise ConfigurationError(message)
    class_path, init_args = mapping.get("class_path"), mapping.get("init_args") or {}
    name = mapping.get("name") or str(class_path).rpartition(".")[2]
    if not (isinstance(class_path, str) and isinstance(name, str) and isinstance(init_args, Mapping)):
        message = (
            f"A metric in metrics.{level} must be a name, a dotted class path, or {{class_path: ..., init_args: "
            f"{{...}}, name: ...}}, but is {given!r}."
        )
        raise ConfigurationError(message)
    return MetricSpec(level, class_path, name, init_args)


def _find(spec: MetricSpec) -> type[Metric]:
    package, _, name = spec.class_path.rpartition(".")
    packages = (package,) if package else PACKAGES
    for found in _classes(spec, name, packages if is_dotted(spec.class_path) else ()):
        if spec.level == "pixel" or not issubclass(found, OF_REGIONS):
            return found
    allowed = allowed_names(spec.class_path, COUNTED[spec.level])
    message = (
        f"There is no metric {spec.class_path!r} for metrics.{spec.level}. {allowed} Or give the name of another "
        "metric of anomalib or torchmetrics, or the dotted class path of any."
    )
    raise ConfigurationError(message)


def _classes(spec: MetricSpec, name: str, packages: Iterable[str]) -> Iterator[type[Metric]]:
    for package in packages:
        try:
            found = getattr(import_module(package), name, None)
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and f"{package}.".startswith(f"{error.name}."):
                continue  # no such package; a missing dependency of an existing one is an error
            message = f"{spec.where} cannot be used, because {package} cannot be imported: {error}. Fix or install it."
            raise ConfigurationError(message) from error
        if isinstance(found, type) and issubclass(found, Metric):
            yield found


def _parameters(metric_class: type[Metric]) -> dict[str, inspect.Parameter]:
    """Give the arguments of a class, including those that it passes on to its bases."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in metric_class.__mro__:
        maker = vars(base).get("__init__") or vars(base).get("__new__")
        if base is Metric or maker is None or base is AnomalibMetric:
            if base is Metric:
                break
            continue
        taken = list(inspect.signature(getattr(maker, "__func__", maker)).parameters.values())[1:]
        for each in taken:
            if each.kind in {each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY}:
                parameters.setdefault(each.name, each)
        if not any(each.kind is each.VAR_KEYWORD for each in taken):
            break
    return parameters


def _check_given_here(spec: MetricSpec) -> None:
    for name in spec.init_args:
        if name in GIVEN_HERE:
            message = f"{spec.where} gets {name!r} from its list, metrics.{spec.level}. Remove it from init_args."
            raise ConfigurationError(message)


def _refusal(spec: MetricSpec, parameters: Mapping[str, inspect.Parameter], error: Exception) -> str:
    allowed = sorted({*parameters} - {*GIVEN_HERE, *OF_EVERY_METRIC})
    for name in spec.init_args:
        unknown = name not in {*parameters, *OF_EVERY_METRIC}
        if unknown and (name in str(error) or isinstance(error, TypeError)):
            return f"{spec.where} has no argument {name!r}. {allowed_names(name, allowed)}"
    return (
        f"{spec.where} cannot be made with {dict(spec.init_args)}: {error}. Its arguments: "
        f"{', '.join(allowed) or 'none'}."
    )


def _converted(parameter: inspect.Parameter | None, value: Plain) -> Plain:
    """Turn 2 into 2.0 where a class takes only floats, since YAML authors write either."""
    wants_float = parameter is not None and parameter.annotation in {float, "float"}
    return float(value) if wants_float and type(value) is int else value
