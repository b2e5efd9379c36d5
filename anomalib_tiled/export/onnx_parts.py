"""ONNX of a whole ensemble: each kind of part is translated once, and placed as often as there are tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from anomalib_tiled.export.onnx_translation import tidy, translated
from anomalib_tiled.export.tracing import BATCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from onnx_ir import Model, Tensor, Value

    from anomalib_tiled.export.tile_graphs import TileGraph
    from anomalib_tiled.export.tracing import Graph
    from anomalib_tiled.export.whole import Parts
    from anomalib_tiled.grid import Tile


class Templates:
    """Graphs of tile models whose weights are inputs: tiles whose models differ only in weights share one graph."""

    def __init__(self) -> None:
        self._translated: dict[int, tuple[Graph, Model]] = {}

    def of(self, tile: TileGraph) -> Model:
        """Give the graph of a tile without weights.

        Args:
            tile: The graph of the tile.
        """
        key = id(tile.graph)
        if key not in self._translated:  # stored with its graph, so that no other graph gets the same id
            self._translated[key] = tile.graph, translated(tile.graph, tile.weights)
        return self._translated[key][1]

    def filled(self, tile: TileGraph) -> Model:
        """Give the graph of a tile with its weights.

        Args:
            tile: The graph of the tile.
        """
        model = self.of(tile).clone()
        for value in list(model.graph.inputs)[1:]:
            model.graph.inputs.remove(value)
            value.const_value = _tensor(tile.weights[str(value.name)], str(value.name))
            model.graph.initializers.add(value)
        tidy(model)
        return model


def joined(parts: Parts) -> Model:
    """Join the parts of an ensemble to one graph.

    Args:
        parts: The parts.

    Raises:
        ConfigurationError: ONNX has no operators for something in it.
    """
    joining, templates, whole = translated(parts.joining), Templates(), parts.whole
    placing = _Placing(joining)
    images = placing.input(parts)
    if parts.before is not None:
        [images] = placing.place(translated(parts.before), "before", [images])
    elif whole.dtype == torch.uint8:
        images = placing.fractions(images)
    predictions = []
    for tile, graph in zip(whole.ensemble.grid.tiles, whole.tiles, strict=True):
        template = templates.of(graph)
        names = [str(each.name) for each in template.graph.inputs[1:]]
        weights = [placing.weight(f"{tile.name}.{name}", graph.weights[name]) for name in names]
        predictions.append(placing.place(template, tile.name, [placing.cut(images, tile), *weights]))
    stacked = [placing.stack(each) for each in zip(*predictions, strict=True)]
    return placing.finish(placing.place(joining, "joining", stacked))


class _Placing:
    """A graph that grows by copies of others.

    Args:
        last: The graph that is placed last; its operator versions and output names are used.
    """

    def __init__(self, last: Model) -> None:
        import onnx_ir

        versions = dict(last.graph.opset_imports)
        self._graph = onnx_ir.Graph([], [], nodes=[], opset_imports=versions, name="ensemble")
        self._last = last
        self._known: dict[object, Value] = {}

    def input(self, parts: Parts) -> Value:
        """Add the input for images.

        Args:
            parts: The parts, with the type and size of the images.
        """
        import onnx_ir

        [(name, example)] = parts.whole.example.items()
        tensor = _tensor(example, name)
        shape = onnx_ir.Shape([BATCH if parts.batch is None else parts.batch, *example.shape[1:]])
        images = onnx_ir.Value(name=name, shape=shape, type=onnx_ir.TensorType(tensor.dtype))
        self._graph.inputs.append(images)
        return images

    def fractions(self, images: Value) -> Value:
        """Scale bytes to [0, 1].

        Args:
            images: The images.
        """
        import onnx_ir

        as_float = self._node("Cast", [images], "images.float", {"to": onnx_ir.DataType.FLOAT})
        return self._node("Div", [as_float, self._number("white", np.float32(255))], "images.fractions")

    def cut(self, images: Value, tile: Tile) -> Value:
        """Cut a tile out of the images.

        Args:
            images: The images.
            tile: The tile.
        """
        edges = {
            "top_left": [tile.rows.start, tile.columns.start],
            "bottom_right": [tile.rows.stop, tile.columns.stop],
        }
        corners = [self._number(f"{tile.name}.{name}", np.array(places)) for name, places in edges.items()]
        return self._node("Slice", [images, *corners, self._number("rows and columns", np.array([2, 3]))], tile.name)

    def weight(self, name: str, tensor: torch.Tensor) -> Value:
        """Add a weight; a weight that tiles share is added once.

        Args:
            name: Its name; tiles that share it use the name of the first.
            tensor: Its values.
        """
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if place not in self._known:
            self._known[place] = self._initializer(_tensor(tensor, name))
        return self._known[place]

    def place(self, model: Model, name: str, inputs: Sequence[Value]) -> list[Value]:
        """Place a copy of a graph.

        Args:
            model: The graph.
            name: Prefix of all names in the copy.
            inputs: Inputs of the copy.

        Returns:
            Outputs of the copy.
        """
        copy = model.graph.clone()
        known = dict(zip(copy.inputs, inputs, strict=True))
        for value in copy.initializers.values():
            known[value] = self._constant(model, value, name)
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

    def _constant(self, model: Model, value: Value, name: str) -> Value:
        """Add a constant of a graph, once for all its copies."""
        import onnx_ir

        place = id(model), value.name
        if place not in self._known:
            tensor = value.const_value
            self._known[place] = onnx_ir.Value(
                name=f"{name}.{value.name}", shape=value.shape, type=value.type, const_value=tensor
            )
            self._graph.initializers.add(self._known[place])
        return self._known[place]

    def _initializer(self, tensor: Tensor) -> Value:
        import onnx_ir

        shape, kind = onnx_ir.Shape(tensor.shape), onnx_ir.TensorType(tensor.dtype)
        value = onnx_ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
        self._graph.initializers.add(value)
        return value

    def stack(self, values: Sequence[Value]) -> Value:
        """Stack the outputs of the tiles along the second axis.

        Args:
            values: Outputs of the tiles, each of shape (batch, ...).
        """
        axis = self._number("tiles", np.array([1]))
        each = [self._node("Unsqueeze", [value, axis], f"{value.name}.one") for value in values]
        return self._node("Concat", each, f"stacked.{values[0].name}", {"axis": 1})

    def finish(self, outputs: Sequence[Value]) -> Model:
        """Return the whole graph.

        Args:
            outputs: Its outputs, in the order of the graph that was placed last.
        """
        import onnx_ir

        for value, like in zip(outputs, self._last.graph.outputs, strict=True):
            value.name = like.name
            self._graph.outputs.append(value)
        last = self._last
        made = {"producer_name": last.producer_name, "producer_version": last.producer_version}
        model = onnx_ir.Model(self._graph, ir_version=last.ir_version, **made)
        tidy(model)
        return model

    def _node(
        self, kind: str, inputs: Sequence[Value], name: str, attributes: Mapping[str, int] | None = None
    ) -> Value:
        import onnx_ir

        node = onnx_ir.node(kind, inputs, attributes, outputs=[onnx_ir.Value(name=name)], name=f"node of {name}")
        self._graph.append(node)
        return node.outputs[0]

    def _number(self, name: str, numbers: NDArray[np.generic] | np.generic) -> Value:
        import onnx_ir

        if name not in self._known:
            self._known[name] = self._initializer(onnx_ir.tensor(np.asarray(numbers), name=name))
        return self._known[name]


def _tensor(tensor: torch.Tensor, name: str) -> Tensor:
    from onnx_ir.tensor_adapters import TorchTensor

    return TorchTensor(tensor.detach(), name=name)
