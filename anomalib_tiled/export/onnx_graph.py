"""Writing ONNX files."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from anomalib_tiled.export.onnx_parts import Templates, joined
from anomalib_tiled.export.onnx_translation import translated
from anomalib_tiled.export.whole import Parts

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.export.tile_graphs import TileGraph
    from anomalib_tiled.export.tracing import Graph

SMALLEST_WEIGHT = 256
"""Smallest tensor in bytes that is stored beside the graph."""

ALIGNMENT = 4096
"""Bytes that weights begin at a multiple of, so that they can be mapped into memory."""


def save_onnx(graph: Graph | Parts, path: Path) -> None:
    """Write a graph, or its parts, as ONNX: the graph in one file, weights in another of the same name with ``.data``.

    Args:
        graph: The graph.
        path: Name of the file of the graph.

    Raises:
        ConfigurationError: ONNX has no operators for something in it.
    """
    import onnx_ir

    model = joined(graph) if isinstance(graph, Parts) else translated(graph)
    onnx_ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=SMALLEST_WEIGHT)


class SharedWeights:
    """One file for the weights of several graphs; equal weights are stored once.

    Args:
        path: The file; the graphs lie beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[bytes, tuple[int, int]] = {}
        self._templates = Templates()

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
