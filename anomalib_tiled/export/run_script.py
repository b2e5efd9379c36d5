"""Predict whole images with the tile models of an export; one model is in memory at a time.

    python run.py images.npy found.npz

Needs numpy and onnxruntime, and the files beside it. Images: RGB, channels first, shape (batch, 3, height, width), of
the type in manifest.json. Returns the outputs that manifest.json lists, by name.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession

FOLDER = Path(__file__).resolve().parent
ROUNDING = 1e-5  # how far beyond black and white resizing may take a pixel


class TiledModel:
    """The tile models of a folder, and what joins their predictions.

    Args:
        folder: Folder of manifest.json.
    """

    def __init__(self, folder: str | Path = FOLDER) -> None:
        self.folder = folder = Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, known in self.manifest["files"].items():
            if not name.endswith(".py") and _checksum(folder / name) != known["sha256"]:
                message = f"{folder / name} has changed since its export. Export it again."
                raise ValueError(message)
        self.joining = self._session(self.manifest["joining"])

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Predict a batch of images."""
        expected = self.manifest["inputs"][0]
        if images.dtype != expected["dtype"] or [*images.shape[1:]] != expected["shape"][1:]:
            given = f"{images.dtype}, {images.shape}"
            message = f"Images must be {expected['dtype']} of shape {expected['shape']}, but are {given}."
            raise ValueError(message)
        lowest, highest = expected["range"]
        if not (len(images) and images.min() >= lowest - ROUNDING and images.max() <= highest + ROUNDING):
            given = f"values from {images.min()} to {images.max()}" if len(images) else "none: the batch is empty"
            message = f"Images must have values from {lowest} to {highest}, but have {given}."
            raise ValueError(message)
        images = np.clip(images, lowest, highest)
        step = len(images) if expected["shape"][0] == "any" else expected["shape"][0]
        parts = [self._predict(images[start : start + step]) for start in range(0, len(images), step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        height, width = self.manifest["grid"]["tile_size"]
        predictions: dict[str, list[np.ndarray]] = {}
        for tile in self.manifest["grid"]["tiles"]:
            top, left = tile["top"], tile["left"]
            part = np.ascontiguousarray(images[:, :, top : top + height, left : left + width])
            name = tile.get("model", tile["name"])  # tiles may share a model
            model = self._session(f"tiles/{name}.onnx")  # freed when the next one is loaded
            for name, values in _run(model, {"images": part}).items():
                predictions.setdefault(name, []).append(values)
        return _run(self.joining, {name: np.stack(values, axis=1) for name, values in predictions.items()})

    def _session(self, name: str) -> InferenceSession:
        return InferenceSession(str(self.folder / name), providers=["CPUExecutionProvider"])


def _checksum(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def _run(model: InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [output.name for output in model.get_outputs()]
    return dict(zip(names, model.run(names, inputs), strict=True))


if __name__ == "__main__":
    found = TiledModel().predict(np.load(sys.argv[1]))
    np.savez(sys.argv[2], **found)  # type: ignore[arg-type]  # arrays by name
