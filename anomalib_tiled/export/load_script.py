"""Load model.pt2 of this folder.

    from load import load
    found = load()(images)

Needs PyTorch 2.9 or newer, and the files beside it. Images: RGB, channels first, shape (batch, 3, height, width), of
the type in manifest.json. Returns the outputs that manifest.json lists, by name. Like any program, the file can do harm
if it comes from somebody whom you do not trust.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

FOLDER = Path(__file__).resolve().parent
OLDEST = "2.9"
ROUNDING = 1e-5  # how far beyond black and white resizing may take a pixel


def load(folder: str | Path = FOLDER) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Load the model.

    Args:
        folder: Folder of manifest.json.
    """
    path = Path(folder) / "model.pt2"
    manifest = json.loads(path.with_name("manifest.json").read_text(encoding="utf-8"))
    made_by = manifest["packages"]["torch"]
    if torch.__version__ < OLDEST:
        message = f"load.py needs PyTorch {OLDEST} or newer, preferably {made_by}, but this is {torch.__version__}."
        raise ImportError(message)
    if checksum(path) != manifest["files"]["model.pt2"]["sha256"]:
        message = f"{path} has changed since its export. Export it again."
        raise ValueError(message)
    with patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):  # torch.export.load has no such argument
        model = torch.export.load(path).module()
    image = manifest["inputs"][0]

    def predict(images: torch.Tensor) -> dict[str, torch.Tensor]:
        check(images, image)
        with torch.no_grad():
            found: dict[str, torch.Tensor] = model(images.clamp(*image["range"]))
        return found

    return predict


def check(images: torch.Tensor, expected: dict[str, Any]) -> None:
    """Compare images with what manifest.json expects.

    Raises:
        ValueError: Type, shape or values differ.
    """
    shape, dtype = expected["shape"], expected["dtype"]
    batch = len(images) if shape[0] == "any" else shape[0]
    if images.dtype != getattr(torch, dtype) or [*images.shape] != [batch, *shape[1:]]:
        message = f"Images must be {dtype} of shape {shape}, but are {images.dtype}, {tuple(images.shape)}."
        raise ValueError(message)
    lowest, highest = expected["range"]
    if not (len(images) and images.min() >= lowest - ROUNDING and images.max() <= highest + ROUNDING):
        given = f"values from {images.min()} to {images.max()}" if len(images) else "none: the batch is empty"
        message = f"Images must have values from {lowest} to {highest}, but have {given}."
        raise ValueError(message)


def checksum(path: Path) -> str:
    """Compute the SHA-256 checksum of a file, as in manifest.json."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
