"""Which installed package a class comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions
from importlib.util import find_spec
from pathlib import Path

from anomalib_tiled.errors import ConfigurationError

GROUP = "anomalib_tiled"
"""Name of the entry-point group of plugins."""

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""What may be the path of a class."""


@dataclass(frozen=True)
class Origin:
    """A package and its version.

    Args:
        package: Name that pip knows it by; ``None`` for a module that belongs to no installed package.
        version: Its version; ``None`` likewise.
    """

    package: str | None
    version: str | None

    def __str__(self) -> str:
        """Name and version, as a sentence takes them."""
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
    if (version := version_of(top)) is not None:  # mostly the package is called as its module
        return Origin(top, version)
    for package in packages_distributions().get(top, ()):  # reads what every package has installed
        return Origin(package, version_of(package))
    return Origin(None, None)


def code_of(class_path: str) -> list[str]:
    """Name the code that a model of a class predicts with: versions of packages, or a checksum of its module.

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


def refuse_code_in(folder: Path, configuration: object) -> None:
    """Refuse a configuration that names a module which lies in the folder that it was read from.

    Python finds such a module if the folder is the working directory, or in ``PYTHONPATH``. Nothing is imported here.

    Args:
        folder: The folder.
        configuration: What a file of it holds.

    Raises:
        ConfigurationError: It does.
    """
    if isinstance(configuration, Mapping):
        configuration = list(configuration.values())
    if isinstance(configuration, list):
        for each in configuration:
            refuse_code_in(folder, each)
    elif isinstance(configuration, str) and DOTTED.fullmatch(configuration) and _lies_in(folder, configuration):
        message = f"classes must come from installed packages, but {configuration} lies in the run folder itself"
        raise ConfigurationError(message)


def _lies_in(folder: Path, class_path: str) -> bool:
    try:
        spec = find_spec(class_path.partition(".")[0])
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    return any(Path(place).resolve().is_relative_to(folder) for place in places if place)
