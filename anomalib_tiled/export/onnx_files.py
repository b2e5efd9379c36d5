"""ONNX files of an ensemble: each kind of part is translated once, and placed as often as there are tiles."""

from __future__ import annotations

import sys
from hashlib import blake2b
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.graphs import BATCH, joining_graph
from anomalib_tiled.export.modules import briefly

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx_ir import Model, Tensor, Value

    from anomalib_tiled.export.graphs import EnsembleGraphs, Graph, TileGraph
    from anomalib_tiled.grid import Tile

OPSET = 18
"""Version of the operators that PyTorch translates to. Files of the matching version were tested with onnxruntime 1.18,
the oldest version that reads them."""

END = 2**63 - 1
"""Index that ONNX reads as the end of any dimension."""

SMALLEST_WEIGHT = 256
"""Smallest tensor in bytes that is stored beside the graph."""

ALIGNMENT = 4096
"""Bytes that weights begin at a multiple of, so that they can be mapped into memory."""


def save_graph(graph: Graph, path: Path) -> None:
    """Write a graph, and weights into another file of the same name with ``.data``.

    Args:
        graph: The graph.
        path: Name of the file of the graph.

    Raises:
        ConfigurationError: ONNX has no operators for something in it.
    """
    _save(_translated(graph), path)


def _save(model: Model, path: Path) -> None:
    import onnx_ir

    onnx_ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=SMALLEST_WEIGHT)


def save_ensemble(graphs: EnsembleGraphs, path: Path) -> Graph:
    """Join the graphs of tiles and stages, and write the result.

    Args:
        graphs: The ensemble, with the graphs of its tiles.
        path: Name of the file of the graph.

    Returns:
        The graph of the stages, which has the outputs and the batch size of the file.

    Raises:
        TiledError: A stage cannot become a graph, or ONNX has no operators for something in it.
    """
    grid = graphs.ensemble.grid
    outputs = [tile.graph.outputs for tile in graphs.tiles]
    whole = outputs[-1] if grid.whole_image is not None else ()
    joining = joining_graph(graphs.ensemble, outputs[0], whole, any_batch=graphs.any_batch)
    stages, templates = _translated(joining), _Templates()
    placing = _Placing(stages)
    images = placing.images(graphs.example(), joining.batch)
    predictions = []
    for tile, graph in zip(grid.predicted, graphs.tiles, strict=True):
        template = templates.of(graph)
        names = [str(each.name) for each in template.graph.inputs[1:]]
        weights = [placing.weight(f"{tile.name}.{name}", graph.weights[name]) for name in names]
        predictions.append(placing.place(template, tile.name, [placing.cut(images, tile), *weights]))
    of_whole = predictions.pop() if grid.whole_image is not None else []
    stacked = [placing.stack(each) for each in zip(*predictions, strict=True)]
    _save(placing.finish(placing.place(stages, "joining", [*stacked, *of_whole])), path)
    return joining


class SharedWeights:
    """One file for the weights of several graphs; equal weights are stored once.

    Args:
        path: The file; the graphs lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}
        self._templates = _Templates()

    def save(self, tile: TileGraph, path: Path) -> None:
        """Write the graph of a tile, and those of its weights that the file does not hold yet.

        Args:
            tile: The graph.
            path: Name of its file.

        Raises:
            ConfigurationError: ONNX has no operators for something in it.
        """
        import onnx_ir

        model = self._templates.filled(tile)
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= SMALLEST_WEIGHT:
                offset, length = self._place(tensor.tobytes())
                value.const_value = onnx_ir.ExternalTensor(
                    self.path.name,
                    offset,
                    length,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=value.name,
                    base_dir=self.path.parent,
                )
        onnx_ir.save(model, path)

    def _place(self, content: bytes) -> tuple[int, int]:
        digest = blake2b(content).digest()
        if digest not in self._places:
            with self.path.open("ab") as file:
                file.write(bytes(-file.tell() % ALIGNMENT))
                self._places[digest] = (file.tell(), file.write(content))
        return self._places[digest]


class _Templates:
    """Graphs of tile models whose weights are inputs: tiles whose models differ only in weights share one graph."""

    def __init__(self) -> None:
        self._translated: dict[Graph, Model] = {}

    def of(self, tile: TileGraph) -> Model:
        """Give the graph of a tile without weights."""
        if tile.graph not in self._translated:
            self._translated[tile.graph] = _translated(tile.graph, tile.weights)
        return self._translated[tile.graph]

    def filled(self, tile: TileGraph) -> Model:
        """Give the graph of a tile with its weights."""
        model = self.of(tile).clone()
        for value in list(model.graph.inputs)[1:]:
            model.graph.inputs.remove(value)
            value.const_value = _tensor(tile.weights[str(value.name)], str(value.name))
            model.graph.initializers.add(value)
        _tidy(model)
        return model


class _Placing:
    """A graph that grows by copies of others.

    Args:
        last: The graph that is placed last; its operator versions and output names are used.
    """

    def __init__(self, last: Model) -> None:
        import onnx_ir
        from onnx_ir.tape import Tape

        versions = dict(last.graph.opset_imports)
        self._graph = onnx_ir.Graph([], [], nodes=[], opset_imports=versions, name="ensemble")
        self._tape = Tape(self._graph)
        self._last = last
        self._known: dict[object, Value] = {}

    def images(self, example: torch.Tensor, batch: int | None) -> Value:
        """Add the input, and scale bytes to [0, 1]."""
        import onnx_ir

        shape = onnx_ir.Shape([BATCH if batch is None else batch, *example.shape[1:]])
        kind = onnx_ir.TensorType(_tensor(example, "images").dtype)
        images = onnx_ir.Value(name="images", shape=shape, type=kind)
        self._graph.inputs.append(images)
        if example.dtype == torch.float32:
            return images
        as_float = self._tape.op("Cast", [images], {"to": onnx_ir.DataType.FLOAT})
        return self._tape.op("Div", [as_float, self._constant(np.float32(255))])

    def cut(self, images: Value, tile: Tile) -> Value:
        """Cut a tile out of the images."""
        corners = [(tile.rows.start, tile.columns.start), (tile.rows.stop, tile.columns.stop), (2, 3)]
        constants = [self._constant(np.array(each)) for each in corners]
        return self._tape.op("Slice", [images, *constants], name=f"cut of {tile.name}")

    def weight(self, name: str, tensor: torch.Tensor) -> Value:
        """Add a weight; a weight that tiles share is added once, with the name that the first tile gives it."""
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if place not in self._known:
            self._known[place] = self._tape.initializer(_tensor(tensor, name))
        return self._known[place]

    def place(self, model: Model, name: str, inputs: Sequence[Value]) -> list[Value]:
        """Place a copy of a graph, whose names get a prefix; give the outputs of the copy."""
        copy = model.graph.clone()
        known = dict(zip(copy.inputs, inputs, strict=True))
        for value in copy.initializers.values():
            known[value] = self._shared(model, value, name)
        outputs = [known.get(value, value) for value in copy.outputs]
        nodes = list(copy)
        copy.outputs.clear()
        for value, given in known.items():
            value.replace_all_uses_with(given)
        copy.remove(nodes)
        for node in nodes:
            node.name = f"{name}.{node.name}"
            for value in node.outputs:
                value.name = f"{name}.{value.name}"
        self._graph.extend(nodes)
        return outputs

    def stack(self, values: Sequence[Value]) -> Value:
        """Stack the outputs of the tiles, each of shape (batch, ...), along the second axis."""
        axis = self._constant(np.array([1]))
        return self._tape.op("Concat", [self._tape.op("Unsqueeze", [value, axis]) for value in values], {"axis": 1})

    def finish(self, outputs: Sequence[Value]) -> Model:
        """Give the whole graph; its outputs are named as those of the graph that was placed last."""
        import onnx_ir

        last = self._last
        for value, like in zip(outputs, last.graph.outputs, strict=True):
            value.name = like.name
            self._graph.outputs.append(value)
        made = {"producer_name": last.producer_name, "producer_version": last.producer_version}
        model = onnx_ir.Model(self._graph, ir_version=last.ir_version, **made)
        _tidy(model)
        return model

    def _shared(self, model: Model, value: Value, name: str) -> Value:
        """Add a constant of a graph, once for all its copies."""
        place = id(model), value.name
        if place not in self._known:
            self._known[place] = self._tape.initializer(value.const_value, f"{name}.{value.name}")
        return self._known[place]

    def _constant(self, numbers: NDArray[np.generic] | np.generic) -> Value:
        """Add numbers, once for all their uses."""
        import onnx_ir

        place = numbers.tobytes(), numbers.shape, numbers.dtype
        if place not in self._known:
            tensor = onnx_ir.tensor(np.asarray(numbers), name=f"constant_{len(self._known)}")
            self._known[place] = self._tape.initializer(tensor)
        return self._known[place]


def _tensor(tensor: torch.Tensor, name: str) -> Tensor:
    from onnx_ir.tensor_adapters import TorchTensor

    return TorchTensor(tensor.detach(), name=name)


def _translated(graph: Graph, weights: Collection[str] = ()) -> Model:
    """Translate a graph; the named weights become inputs, so that no constant is computed from them."""
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
    _tidy(onnx.model)
    return onnx.model


def _tidy(model: Model) -> None:
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
