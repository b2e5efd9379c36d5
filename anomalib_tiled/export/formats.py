"""File formats of graphs: how each is written, and run again to compare its predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.export.checkpoints import FORMAT as CHECKPOINTS
from anomalib_tiled.export.load_script import check
from anomalib_tiled.export.modules import explaining
from anomalib_tiled.export.onnx_graph import save_onnx
from anomalib_tiled.export.whole import Parts, ensemble_graph, ensemble_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from anomalib_tiled.export.tracing import Graph, Interface
    from anomalib_tiled.export.whole import Whole

    Arrays = Mapping[str, NDArray[np.generic]]
    Predict = Callable[[Arrays], dict[str, NDArray[np.generic]]]


class Format(ABC):
    """A file format of graphs.

    Args:
        name: Name on the command line.
        packages: Packages that it needs besides those of the ensemble.
        suffix: Suffix of the main file.
        needs: Package that runs the files, with its oldest version, as a requirement of pip.
        loader: Name of the program that is copied beside the files to load them safely; ``None`` for no program.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str]
    needs: ClassVar[str]
    loader: ClassVar[str | None] = None

    def check_installed(self) -> None:
        """Check that the packages are installed.

        Raises:
            ConfigurationError: A package is missing.
        """
        if missing := [package for package in self.packages if find_spec(package) is None]:
            message = (
                f"Exporting to {self.name} needs {', '.join(self.packages)}; not installed: {', '.join(missing)}. "
                f"Install what is missing: pip install 'anomalib-tiled[{self.name}]'"
            )
            raise ConfigurationError(message)

    def graph(self, whole: Whole) -> Graph | Parts:
        """Make the graph of a whole ensemble, or its parts.

        Args:
            whole: The ensemble.

        Raises:
            TiledError: The ensemble cannot become a graph.
        """
        return ensemble_parts(whole)

    def write(self, graph: Graph | Parts, path: Path) -> None:
        """Write a graph.

        Args:
            graph: The graph, or its parts where the format can join them.
            path: Name of the main file; others lie beside it.

        Raises:
            ConfigurationError: The format cannot express it.
        """
        with self.step("written"):
            self._write(graph, path)

    def load(self, graph: Interface, path: Path) -> Predict:
        """Return a function that runs a written graph, as a user of the files does.

        Args:
            graph: The graph, for its names.
            path: Name of the main file.

        Raises:
            ConfigurationError: The graph cannot be loaded, or, later, cannot be run.
        """
        with self.step("loaded"):
            predict = self._load(graph, path)

        def errors_explained(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
            with self.step("run"):
                return predict(inputs)

        return errors_explained

    @abstractmethod
    def _write(self, graph: Graph | Parts, path: Path) -> None: ...

    @abstractmethod
    def _load(self, graph: Interface, path: Path) -> Predict: ...

    def step(self, name: str) -> AbstractContextManager[None]:
        """Name the format and the step in errors of other packages.

        Args:
            name: The step, as a participle.

        Raises:
            ConfigurationError: The step failed.
        """
        others = " or ".join(each for each in FORMATS if each != self.name)
        packages = " and ".join(self.packages or ("torch",))
        return explaining(
            lambda reason: (
                f"The files of format {self.name} could not be {name}: {reason} See whether the disk is full, try "
                f"other versions of {packages}, export with --format {others}, or predict with "
                "`anomalib tiled predict`."
            ),
            passing=(OSError,),
        )


class TorchFormat(Format):
    """A program of ``torch.export``: ``torch.export.load(path).module()`` runs it."""

    name = "torch"
    suffix = ".pt2"
    needs = "torch>=2.9"
    loader = "load.py"

    def graph(self, whole: Whole) -> Graph:
        """Make one graph, because this format cannot join several."""
        return ensemble_graph(whole)

    def _write(self, graph: Graph | Parts, path: Path) -> None:
        """Write graph and weights into one file; weights that tiles share are written once.

        Raises:
            ConfigurationError: load.py would refuse the file.
        """
        if isinstance(graph, Parts):
            message = "This format takes a single graph."
            raise TypeError(message)
        torch.export.save(graph.program, path)
        try:
            check(path)
        except ValueError as error:
            message = (
                f"The ensemble cannot be exported to {self.name}: {error} load.py would not load it. "
                "Choose another format."
            )
            raise ConfigurationError(message) from error

    def _load(self, graph: Interface, path: Path) -> Predict:
        """Load it with PyTorch."""
        program = torch.export.load(path).module()

        def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
            tensors = (torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in graph.inputs)
            return {name: values.numpy() for name, values in program(*tensors).items()}

        return predict


class OnnxFormat(Format):
    """ONNX, for onnxruntime and other programs; weights are in a file beside the graph, so any size is possible."""

    name = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    suffix = ".onnx"
    needs = "onnxruntime>=1.18"

    def _write(self, graph: Graph | Parts, path: Path) -> None:
        """Write the graph, and its weights into one file beside it; weights that tiles share are written once."""
        save_onnx(graph, path)

    def _load(self, graph: Interface, path: Path) -> Predict:
        """Load it with onnxruntime."""
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=["CPUExecutionProvider"])

        def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
            return dict(zip(graph.outputs, session.run(list(graph.outputs), dict(inputs)), strict=True))

        return predict


class OpenVinoFormat(Format):
    """OpenVINO's own files, converted from ONNX; weights keep their 32 bits."""

    name = "openvino"
    packages = ("openvino", "onnx", "onnxscript")
    suffix = ".xml"
    needs = "openvino"

    def _write(self, graph: Graph | Parts, path: Path) -> None:
        """Write ``.xml`` and ``.bin``; weights that tiles share are written once."""
        import openvino

        with TemporaryDirectory(dir=path.parent) as folder:
            save_onnx(graph, Path(folder) / "model.onnx")
            model = openvino.convert_model(Path(folder) / "model.onnx")
            openvino.save_model(model, path, compress_to_fp16=False)
            del model  # it maps the weights of the temporary file

    def _load(self, graph: Interface, path: Path) -> Predict:
        """Load it with OpenVINO, and compute in single precision on every processor."""
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def predict(inputs: Arrays) -> dict[str, NDArray[np.generic]]:
            found = compiled(dict(inputs))
            return {name: np.array(found[name]) for name in graph.outputs}

        return predict


FORMATS: Mapping[str, Format] = {each.name: each for each in (TorchFormat(), OnnxFormat(), OpenVinoFormat())}


def format_named(name: str) -> Format:
    """Find a format of graphs by its name; checkpoints hold no graph, so they are no such format.

    Raises:
        ConfigurationError: There is no such format.
    """
    if name not in FORMATS:
        message = f"--format cannot be {name!r}. {allowed_names(name, [*FORMATS, CHECKPOINTS])}"
        raise ConfigurationError(message)
    return FORMATS[name]
