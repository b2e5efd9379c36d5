"""Formats that graphs are written in, and how each is run to see that it computes the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from anomalib_tiled.errors import ConfigurationError, allowed_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from anomalib_tiled.exporting.tracing import Graph

    Arrays = Mapping[str, NDArray[np.generic]]
    Predict = Callable[[Arrays], dict[str, NDArray[np.generic]]]


class Format(ABC):
    """How a graph is written.

    Args:
        name: Name on the command line.
        packages: Packages that it needs besides those that the ensemble needs.
        suffix: End of the name of the main file.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str]

    def check_installed(self) -> None:
        """Check that the packages are there.

        Raises:
            ConfigurationError: One is missing.
        """
        if missing := [package for package in self.packages if find_spec(package) is None]:
            message = (
                f"Exporting to {self.name} needs {', '.join(self.packages)}; not installed: {', '.join(missing)}. "
                f"Install what is missing: pip install 'anomalib-tiled[{self.name}]'"
            )
            raise ConfigurationError(message)

    @abstractmethod
    def write(self, graph: Graph, path: Path) -> None:
        """Write a graph.

        Args:
            graph: The graph.
            path: Name of the main file; others lie beside it.

        Raises:
            ConfigurationError: The format cannot express it.
        """

    @abstractmethod
    def load(self, graph: Graph, path: Path) -> Predict:
        """Give what runs a written graph, as a user of the files does.

        Args:
            graph: The graph, for its names.
            path: Name of the main file.
        """


class TorchFormat(Format):
    """A program of ``torch.export``: ``torch.export.load(path).module()`` runs it."""

    name = "torch"
    suffix = ".pt2"

    def write(self, graph: Graph, path: Path) -> None:
        """Write graph and weights into one file; weights that tiles share are written once."""
        torch.export.save(graph.program, path)

    def load(self, graph: Graph, path: Path) -> Predict:
        """Load it with PyTorch."""
        program = torch.export.load(path).module()

        def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
            tensors = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in graph.inputs)
            return {name: values.numpy() for name, values in program(*tensors).items()}

        return predict


FORMATS: Mapping[str, Format] = {each.name: each for each in (TorchFormat(),)}


def format_named(name: str) -> Format:
    """Find a format.

    Raises:
        ConfigurationError: There is none of that name.
    """
    if name not in FORMATS:
        message = f"--format cannot be {name!r}. {allowed_names(name, FORMATS)}"
        raise ConfigurationError(message)
    return FORMATS[name]
