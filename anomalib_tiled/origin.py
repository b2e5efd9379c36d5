"""Which installed package a class comes from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions

GROUP = "anomalib_tiled"
"""Name of the entry-point group of plugins."""


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
    for package in packages_distributions().get(top, ()):
        return Origin(package, version_of(package))
    return Origin(None, None)


def version_of(package: str) -> str | None:
    """Give the installed version of a package; ``None`` if it is not installed."""
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None
