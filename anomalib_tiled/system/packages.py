"""The installed package that a class comes from."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP = "anomalib_tiled"
"""Name of the entry-point group of plugins."""


@dataclass(frozen=True)
class Origin:
    """A package and its version.

    Args:
        package: Its name for pip; ``None`` for a module that belongs to no installed package.
        version: Its version; ``None`` for such a module.
    """

    package: str | None
    version: str | None

    def __str__(self) -> str:
        """Name and version, for messages."""
        return "no installed package" if self.package is None else f"{self.package} {self.version}"


def origin_of(class_path: str) -> Origin:
    """Look up the package that a class, or a module, comes from.

    Args:
        class_path: Its dotted path; it need not be importable.
    """
    top = class_path.partition(".")[0]
    for entry in entry_points(group=GROUP):  # an editable install lists no modules, but its entry point names one
        if entry.dist is not None and entry.module.partition(".")[0] == top:
            return Origin(entry.dist.name, entry.dist.version)
    if (version := version_of(top)) is not None:  # mostly package and module have the same name
        return Origin(top, version)
    for package in _packages_with_modules((*sys.path,)).get(top, ()):
        return Origin(package, version_of(package))
    return Origin(None, None)


@lru_cache(maxsize=1)
def _packages_with_modules(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """List the packages of each module, once for a ``sys.path``: that reads the files of every package."""
    del path
    return packages_distributions()


def code_of(class_path: str) -> list[str]:
    """Identify the code that a model predicts with: versions of packages, or a checksum of its module.

    Args:
        class_path: Dotted path of the class.
    """
    packages = [f"{package} {version_of(package)}" for package in ("anomalib-tiled", "anomalib", "torch")]
    origin = origin_of(class_path)
    if origin.package is not None:
        return [*packages, str(origin)]
    module = find_spec(class_path.rpartition(".")[0])
    path = None if module is None else module.origin
    return [*packages, "" if path is None else sha256(Path(path).read_bytes()).hexdigest()]


def version_of(package: str) -> str | None:
    """Give the installed version of a package; ``None`` if it is not installed."""
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def is_dotted(path: str) -> bool:
    """Whether a text can be the dotted path of a class or module; ``import_module`` accepts ``ev-il`` too."""
    return all(part.isidentifier() for part in path.split("."))


def refuse_code_in(folder: Path, configuration: object) -> None:
    """Refuse a configuration that names code, or more configuration, in its own folder.

    Python finds a module there if the folder, or one above it, is the working directory or in ``PYTHONPATH``. The check
    imports nothing.

    Args:
        folder: The folder.
        configuration: Content of a file in it.

    Raises:
        ConfigurationError: The configuration leads into the folder.
    """
    folder, known = folder.resolve(), set[Path]()
    for text in _texts(configuration):
        if any(_passes_through(folder, place, known) for place in _places(text)):
            message = f"classes must come from installed packages, but {text} is in the run folder itself"
            raise ConfigurationError(message)


def _texts(configuration: object) -> Iterator[str]:
    """Give all texts of a configuration, and the texts in those that are YAML themselves: jsonargparse reads them."""
    values, seen = [configuration], set[int]()
    for value in values:  # the list grows meanwhile
        if id(value) in seen:  # YAML aliases may repeat a part, also within itself
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            values += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set)):
            values += value
        elif isinstance(value, str):
            yield value
            values += _within(value)


def _within(text: str) -> list[object]:
    """Read a text as jsonargparse does: PyYAML alone refuses some, such as those with impossible dates."""
    from jsonargparse import get_loader  # slow, and this module is imported for --help
    from yaml import YAMLError

    try:
        value = get_loader("yaml")(text)
    except (YAMLError, ValueError):
        return []
    return [] if isinstance(value, str) else [value]


def _places(text: str) -> Iterator[Path]:
    """Give the files and folders that a text may name, as a file name or step by step as a dotted path."""
    if os.path.isfile(file := os.path.expanduser(text)):  # noqa: PTH111, PTH113  # raises no error for any text
        yield Path(file).absolute()
    first, *rest = text.split(".")
    places = _places_of(first) if first and rest else []  # nothing imports what has no dot
    yield from places
    for part in rest:
        places = [place / part for place in places]
        yield from places


def _places_of(package: str) -> list[Path]:
    """Give all places that Python may import a package or top-level module from."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    found = [] if os.sep in package else [os.path.join(entry, package) for entry in sys.path]  # noqa: PTH118
    # Packages may extend themselves by folders of their name. Path.is_dir raises an error without permission.
    places = [place for place in found if os.path.isdir(place)]  # noqa: PTH112
    if spec is not None:
        own = [spec.origin] if spec.has_location and spec.origin else []
        more = [*(spec.submodule_search_locations or ()), *getattr(sys.modules.get(package), "__path__", ())]
        places += [*own, *(place for place in more if Path(place).is_absolute())]  # others are names for finders
    return [Path(place).absolute() for place in places]


def _passes_through(folder: Path, place: Path, known: set[Path]) -> bool:
    """Whether a file, or a folder or link on the way to it, is in a folder; notes those that are known not to be."""
    steps = [step for step in (place, *place.parents) if step not in known]
    try:
        if any(step.resolve().is_relative_to(folder) for step in steps):
            return True
    except (OSError, ValueError, RuntimeError):  # there is no such file
        return False
    known.update(steps)
    return False
