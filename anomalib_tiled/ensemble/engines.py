"""Engines that compute graphs of PyTorch on a CPU: OpenVINO and onnxruntime.

They compile a graph in the memory of the process. Compiling a backbone takes a few seconds, less than importing
anomalib, so no file is written, and none can be out of date.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, cast

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch.export import ExportedProgram

    Compute = Callable[[torch.Tensor], list[torch.Tensor]]
    """Takes images, and gives the outputs of a graph in their order; all on the CPU."""

TORCH = "torch"
"""PyTorch itself, the default."""

AUTO = "auto"
"""The fastest engine that is installed, PyTorch among them."""

OF_OPENVINO = {FLOAT32: "f32", "bfloat16": "bf16"}
"""Names of precisions in OpenVINO."""


class Engine(ABC):
    """Computes a graph on a CPU.

    Args:
        name: Name on the command line.
        packages: Packages that it needs besides those of the ensemble.
        precisions: Precisions that it can compute in.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]] = (FLOAT32,)

    def missing(self) -> list[str]:
        """List the packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def check_installed(self) -> None:
        """Check that the packages are installed.

        Raises:
            ConfigurationError: A package is missing.
        """
        if missing := self.missing():
            message = (
                f"The engine {self.name} needs {', '.join(self.packages)}; not installed: {', '.join(missing)}. "
                f"Install what is missing: pip install 'anomalib-tiled[{self.name}]'"
            )
            raise ConfigurationError(message)

    @abstractmethod
    def compile(self, program: ExportedProgram, precision: str, threads: int) -> Compute:
        """Compile a graph.

        Args:
            program: The graph, with images as its only input, in single precision.
            precision: Precision to compute in, one of its own; images and outputs have single precision.
            threads: Number of processor threads that it may use.
        """


class OpenVino(Engine):
    """OpenVINO, which reads graphs of PyTorch itself."""

    name = "openvino"
    packages = ("openvino",)
    precisions = tuple(OF_OPENVINO)

    def compile(self, program: ExportedProgram, precision: str, threads: int) -> Compute:
        """Compile a graph."""
        import openvino
        import torch

        hints = {
            "INFERENCE_PRECISION_HINT": OF_OPENVINO[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU", hints)
        outputs = range(len(compiled.outputs))

        def compute(images: torch.Tensor) -> list[torch.Tensor]:
            found = compiled(images.contiguous().numpy(), share_inputs=True)  # outputs are copied
            return [torch.from_numpy(found[place]) for place in outputs]

        return compute


class OnnxRuntime(Engine):
    """onnxruntime, by way of ONNX."""

    name = "onnx"
    packages = ("onnx", "onnxscript", "onnxruntime")

    def compile(self, program: ExportedProgram, precision: str, threads: int) -> Compute:
        """Compile a graph."""
        del precision
        import torch
        from onnxruntime import InferenceSession, SessionOptions

        onnx = cast("torch.onnx.ONNXProgram", torch.onnx.export(program, dynamo=True, verbose=False))
        options = SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # PyTorch computes in between
        content = onnx.model_proto.SerializeToString()
        session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def compute(images: torch.Tensor) -> list[torch.Tensor]:
            return [torch.from_numpy(each) for each in session.run(None, {name: images.contiguous().numpy()})]

        return compute


ENGINES: Mapping[str, Engine] = {each.name: each for each in (OpenVino(), OnnxRuntime())}
"""Engines besides PyTorch, by their names."""
