"""Graphs of PyTorch translated to ONNX."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.graphs import BATCH
from anomalib_tiled.export.modules import briefly

if TYPE_CHECKING:
    from collections.abc import Collection

    from onnx_ir import Model, Value

    from anomalib_tiled.export.graphs import Graph

OPSET = 18
"""Version of the operators that PyTorch translates to. Files of the matching version were tested with onnxruntime 1.18,
the oldest version that reads them."""

END = 2**63 - 1
"""Index that ONNX reads as the end of any dimension."""


def translated(graph: Graph, weights: Collection[str] = ()) -> Model:
    """Translate a graph.

    Args:
        graph: The graph.
        weights: Names of weights that become inputs, after the others, so that no constant is computed from them.

    Raises:
        ConfigurationError: ONNX has no operators for something in it.
    """
    try:
        made = torch.onnx.export(
            graph.program,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            custom_translation_table={torch.ops.aten.slice_scatter.default: _laid_side_by_side},
        )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        message = (
            f"The ensemble cannot be exported to ONNX: {briefly(cause)} Its model or a stage uses an operation that "
            "ONNX does not have. Export it with --format torch, or choose another model."
        )
        raise ConfigurationError(message) from error
    onnx = cast("torch.onnx.ONNXProgram", made)
    for name in weights:
        if (value := onnx.model.graph.initializers.pop(name, None)) is not None:
            value.const_value = None
            onnx.model.graph.inputs.append(value)
    onnx.optimize()
    tidy(onnx.model)
    return onnx.model


def tidy(model: Model) -> None:
    """Join equal weights, remove paths of this machine, and name the open dimension."""
    from onnx_ir import SymbolicDim
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass, DeduplicateHashedInitializersPass

    for value in model.graph.initializers.values():
        _lay_in_order(value)
    DeduplicateHashedInitializersPass(size_limit=sys.maxsize)(model)
    ClearMetadataAndDocStringPass()(model)
    first = model.graph.inputs[0].shape[0]
    if isinstance(first, SymbolicDim):
        for value in [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]:
            _rename_dimension(value, first.value)


def _lay_in_order(value: Value) -> None:
    """Copy a weight that is not contiguous, because it is a part or a transpose of another tensor."""
    import onnx_ir

    if value.const_value is not None and not (numbers := value.const_value.numpy()).flags.c_contiguous:
        value.const_value = onnx_ir.tensor(np.ascontiguousarray(numbers), value.const_value.dtype, name=value.name)


def _rename_dimension(value: Value, symbol: str | None) -> None:
    from onnx_ir import Shape, SymbolicDim

    if value.shape is not None:
        value.shape = Shape(
            [BATCH if isinstance(each, SymbolicDim) and each.value == symbol else each for each in value.shape]
        )


def _laid_side_by_side(  # noqa: PLR0913, PLR0917  # the arguments of PyTorch's operator
    into: Value,
    part: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """Replace a part of a tensor; PyTorch's own translation needs an index for each element of the part."""
    from onnxscript import opset18

    if step != 1:
        message = "a stage writes into every other row or column of a tensor"
        raise NotImplementedError(message)
    before = opset18.Slice(into, [0], [0 if start is None else start], [dim])
    behind = opset18.Slice(into, [END if end is None else end], [END], [dim])
    laid: Value = opset18.Concat(before, part, behind, axis=dim)
    return laid
