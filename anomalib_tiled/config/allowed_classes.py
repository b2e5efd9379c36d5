"""The classes that a configuration may name; nothing else that it names is ever called.

A setting takes a subclass of its contract: a model, a data module, a stage. Their arguments may name classes in turn,
such as augmentations, callbacks and loggers. jsonargparse alone would create any class for an argument without a type,
and would call any function whose return type fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from jsonargparse import ArgumentParser, Namespace

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages import kinds
from anomalib_tiled.system.packages import is_dotted

PARTS = frozenset(
    {
        "anomalib.data.datamodules.base.image.AnomalibDataModule",
        "lightning.fabric.accelerators.accelerator.Accelerator",
        "lightning.fabric.loggers.logger.Logger",
        "lightning.fabric.plugins.environments.cluster_environment.ClusterEnvironment",
        "lightning.fabric.plugins.io.checkpoint_io.CheckpointIO",
        "lightning.fabric.plugins.precision.precision.Precision",
        "lightning.pytorch.callbacks.callback.Callback",
        "lightning.pytorch.plugins.layer_sync.LayerSync",
        "lightning.pytorch.profilers.profiler.Profiler",
        "lightning.pytorch.strategies.strategy.Strategy",
        "torch.nn.modules.module.Module",
        "torch.optim.lr_scheduler.LRScheduler",
        "torch.optim.optimizer.Optimizer",
    }
)
"""Classes of other packages whose subclasses are allowed. Paths and not classes, to import nothing."""


ADVICE = "It was not called. Name another class."


def add_object(parser: ArgumentParser, base: type) -> None:
    """Add an argument ``object``, which takes a class path and arguments, but not the name of a file with them.

    Args:
        parser: The parser to add it to.
        base: A base class of the class.
    """

    def takes(object: object) -> None:  # noqa: A002  # the name of the argument
        del object

    takes.__annotations__ = {"object": base}
    parser.add_function_arguments(takes, fail_untyped=False, sub_configs=False)


def check_classes(parsed: object, package: str = "") -> None:
    """Check all classes that settings name, before any object is created.

    Args:
        parsed: Settings as jsonargparse has read them.
        package: Package of the class that takes these arguments; its own classes are allowed too. "" for no package.

    Raises:
        ConfigurationError: A class path names a function or a class that is not allowed, or an argument is a function.
    """
    for value in _leaves(parsed):
        if isinstance(value, str):
            _check_path(value, package)
        elif isinstance(value, type):
            _check_class(value, package)
        elif callable(value) and not _is_allowed(type(value), package):
            message = f"An argument must be a value or a class, but is the function {_path_of(value)}. {ADVICE}"
            raise ConfigurationError(message)


def _leaves(value: object) -> Iterator[object]:
    """Give all class paths, and all values that are not plain."""
    if isinstance(value, (Mapping, Namespace)):
        inner = vars(value) if isinstance(value, Namespace) else value
        if isinstance(path := inner.get("class_path"), str):
            yield path
        for each in inner.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple, set)):
        for each in value:
            yield from _leaves(each)
    elif not isinstance(value, str):
        yield value


def _check_path(path: str, package: str) -> None:
    found = _lookup(path)
    if not isinstance(found, type):
        fault = "does not exist" if found is None else f"is a {type(found).__name__}"
        message = f"A class path must name a class, but {path} {fault}. {ADVICE}"
        raise ConfigurationError(message)
    _check_class(found, package)


def _lookup(path: str) -> object:
    """Give the object of a dotted path, which may be inside a class; ``None`` if there is none."""
    if not is_dotted(path):
        return None
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError:
        return getattr(_lookup(module), name, None) if "." in module else None
    except ValueError:  # the path has no module
        return None


def _check_class(found: type, package: str) -> None:
    if not _is_allowed(found, package):
        message = f"A class path must name a model, data module, stage or a part of one, but is {_path_of(found)}. "
        raise ConfigurationError(message + ADVICE)


def _is_allowed(found: type, package: str) -> bool:
    if package == found.__module__.partition(".")[0] or any(_path_of(each) in PARTS for each in found.__mro__):
        return True
    return any(issubclass(found, kind.contract) for kind in kinds.STAGE_KINDS)


def _path_of(found: object) -> str:
    return f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', type(found).__qualname__)}"
