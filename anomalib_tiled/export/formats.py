"""File formats of an ensemble: how each is written, and run again to compare its predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from anomalib_tiled.errors import ConfigurationError, allowed_names
from anomalib_tiled.export.modules import explaining
from anomalib_tiled.export.onnx_files import save_ensemble

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from openvino import Model

    from anomalib_tiled.export.comparison import Array, Predict
    from anomalib_tiled.export.graphs import EnsembleGraphs, Graph

CHECKPOINTS = "checkpoints"
"""Format without a graph: a checkpoint of Lightning for each tile."""


class Format(ABC):
    """A file format of an ensemble.

    Args:
        name: Name on the command line.
        packages: Packages that it needs besides those of the ensemble.
        suffix: Suffix of the main file.
        needs: Package that runs the files, with its oldest version, as a requirement of pip.
        loader: Name of the program that is copied beside the files to load them; ``None`` for no program.
        extra: Extra of this package that installs the packages; ``None`` for that of the name.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str]
    needs: ClassVar[str]
    loader: ClassVar[str | None] = None
    extra: ClassVar[str | None] = None

    def check_installed(self) -> None:
        """Check that the packages are installed.

        Raises:
            ConfigurationError: A package is missing.
        """
        if missing := [package for package in self.packages if find_spec(package) is None]:
            message = (
                f"Exporting to {self.name} needs {', '.join(self.packages)}; not installed: {', '.join(missing)}. "
                f"Install what is missing: pip install 'anomalib-tiled[{self.extra or self.name}]'"
            )
            raise ConfigurationError(message)

    def write(self, graphs: EnsembleGraphs, path: Path) -> Graph:
        """Write an ensemble as one model.

        Args:
            graphs: The ensemble, with the graphs of its tiles.
            path: Name of the main file; others lie beside it.

        Returns:
            A graph with the outputs and the batch size of the file.

        Raises:
            TiledError: The ensemble cannot become a graph, or the format cannot express it.
        """
        with self.step("written"):
            return self._write(graphs, path)

    def load(self, path: Path) -> Predict:
        """Return a function that runs a file, as its users do.

        Args:
            path: Name of the main file.

        Raises:
            ConfigurationError: The file cannot be loaded, or, later, cannot be run.
        """
        with self.step("loaded"):
            predict = self._load(path)

        def errors_explained(inputs: Mapping[str, Array]) -> dict[str, Array]:
            with self.step("run"):
                return predict(inputs)

        return errors_explained

    @abstractmethod
    def _write(self, graphs: EnsembleGraphs, path: Path) -> Graph: ...

    @abstractmethod
    def _load(self, path: Path) -> Predict: ...

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
            f"The files of format {self.name} could not be {name}: {{}} See whether the disk is full, try other "
            f"versions of {packages}, export with --format {others}, or predict with `anomalib tiled predict`.",
            passing=(OSError,),
        )


class TorchFormat(Format):
    """A program of ``torch.export``: ``torch.export.load(path).module()`` runs it."""

    name = "torch"
    suffix = ".pt2"
    needs = "torch>=2.9"
    loader = "load.py"

    def _write(self, graphs: EnsembleGraphs, path: Path) -> Graph:
        """Write graph and weights into one file; weights that tiles share are written once."""
        graph = graphs.whole()
        torch.export.save(graph.program, path)
        return graph

    def _load(self, path: Path) -> Predict:
        """Load it with PyTorch."""
        program = torch.export.load(path).module()

        def predict(inputs: Mapping[str, Array]) -> dict[str, Array]:
            images = torch.from_numpy(np.ascontiguousarray(inputs["images"]))
            return {name: values.numpy() for name, values in program(images).items()}

        return predict


class OnnxFormat(Format):
    """ONNX, for onnxruntime and other programs; weights are in a file beside the graph, so any size is possible."""

    name = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")
    suffix = ".onnx"
    needs = "onnxruntime>=1.18"

    def _write(self, graphs: EnsembleGraphs, path: Path) -> Graph:
        """Write the graph, and its weights into one file beside it; weights that tiles share are written once."""
        return save_ensemble(graphs, path)

    def _load(self, path: Path) -> Predict:
        """Load it with onnxruntime."""
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


class OpenVinoFormat(Format):
    """OpenVINO's own files, converted from ONNX; weights keep their 32 bits."""

    name = "openvino"
    packages = ("openvino", "onnx", "onnxscript")
    suffix = ".xml"
    needs = "openvino"

    def _write(self, graphs: EnsembleGraphs, path: Path) -> Graph:
        """Write ``.xml`` and ``.bin``; weights that tiles share are written once."""
        import openvino

        with TemporaryDirectory(dir=path.parent) as folder:
            graph = save_ensemble(graphs, Path(folder) / "model.onnx")
            model = openvino.convert_model(Path(folder) / "model.onnx")
            self._save(model, path)
            del model  # it maps the weights of the temporary file
        return graph

    def _save(self, model: Model, path: Path) -> None:
        """Write a model; other precisions write it otherwise."""
        import openvino

        openvino.save_model(model, path, compress_to_fp16=False)

    def _load(self, path: Path) -> Predict:
        """Load it with OpenVINO, and compute in single precision on every processor."""
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = [output.get_any_name() for output in compiled.outputs]

        def predict(inputs: Mapping[str, Array]) -> dict[str, Array]:
            found = compiled(dict(inputs))
            return {name: np.array(found[name]) for name in names}

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
