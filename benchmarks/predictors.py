"""The ways to predict that run in a process of their own: each loads what it needs, and takes files of images.

Imports stand in the classes, so that an exported model is measured without anomalib and without this package.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch
    from anomalib.models.components import AnomalibModule

Floats = NDArray[np.float32]
Predicted = tuple[float, Floats]
"""Score of an image, and its map, shape (height, width) in pixels of the image."""

CHECKPOINT = "model.ckpt"


@dataclass(frozen=True)
class Job:
    """What to predict, and with what.

    Args:
        kind: Name of the way, one of `PREDICTORS`.
        source: Run folder, folder of an export, or folder of a checkpoint.
        images: Files of the images.
        image_size: Side of the images in pixels.
        side: Side of what a model is given, in pixels: of a tile, of the whole or of the shrunk image.
        model: anomalib's name of the model.
        batch: Images that are predicted together where there are several.
        repeats: How often the time of a single image is taken.
        device: Where the ensemble predicts.
    """

    kind: str
    source: str
    images: list[str]
    image_size: int
    side: int
    model: str
    batch: int
    repeats: int
    device: str = "cpu"

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write it."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


class Predictor(ABC):
    """A way to predict, loaded.

    Args:
        job: What with.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    @abstractmethod
    def predict(self, images: list[Path]) -> Iterator[Predicted]:
        """Predict images, in their order.

        Args:
            images: Their files.
        """

    def _batches(self, images: list[Path], size: int) -> Iterator[Floats]:
        """Read images with values in [0, 1], shape (batch, 3, height, width)."""
        for first in range(0, len(images), size):
            yield np.stack([pixels_of(path) for path in images[first : first + size]])


class Ensemble(Predictor):
    """``TiledEnsemble.predict`` for one image, ``predict_images`` for several."""

    def __init__(self, job: Job) -> None:
        from anomalib_tiled import TiledEnsemble

        super().__init__(job)
        self._ensemble = TiledEnsemble.load(job.source, device=job.device)

    def predict(self, images: list[Path]) -> Iterator[Predicted]:
        """Predict images."""
        for each in self._ensemble.predict_images(images, batch_size=self.job.batch):
            yield each.score, np.asarray(each.map, dtype=np.float32)


class EnginePerTile(Predictor):
    """anomalib's ``Engine.predict`` with each tile model, one after the other; maps are placed side by side.

    All models stay in memory, and each image is decoded once, so that nothing is slower than it must be. The score of
    an image is the highest of its tiles'.
    """

    def __init__(self, job: Job) -> None:
        from anomalib.engine import Engine

        super().__init__(job)
        starts = range(0, job.image_size, job.side)
        self._tiles = [
            (
                (slice(top, top + job.side), slice(left, left + job.side)),
                _loaded(job, f"r{row:02d}_c{column:02d}.ckpt"),
                Engine(default_root_dir=Path.cwd() / "engine", accelerator="cpu", devices=1, enable_progress_bar=False),
            )
            for (row, top), (column, left) in product(enumerate(starts), enumerate(starts))
        ]

    def predict(self, images: list[Path]) -> Iterator[Predicted]:
        """Predict images; all are in memory at the same time."""
        import torch
        from anomalib.data import ImageBatch, ImageItem
        from torch.utils.data import DataLoader

        pixels = torch.from_numpy(np.stack([pixels_of(path) for path in images]))
        scores, maps = torch.zeros(len(images)), torch.zeros(len(images), *pixels.shape[2:])
        for number, ((rows, columns), model, engine) in enumerate(self._tiles):
            items = [ImageItem(image=image[:, rows, columns]) for image in pixels]
            loader: DataLoader[ImageItem] = DataLoader(items, self.job.batch, collate_fn=ImageBatch.collate)  # type: ignore[arg-type]  # a list is one
            batches = engine.predict(model=model, dataloaders=loader) or []
            said = torch.cat([batch.pred_score.flatten() for batch in batches])  # type: ignore[union-attr]  # by Engine
            scores = said if number == 0 else torch.maximum(scores, said)
            shown = torch.cat([batch.anomaly_map for batch in batches])  # type: ignore[union-attr]
            maps[:, rows, columns] = shown.reshape(-1, self.job.side, self.job.side)
        yield from zip(scores.tolist(), maps.numpy(), strict=True)


class Single(Predictor):
    """One model of anomalib that is given the whole image, which its own pre-processing brings to its size."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._model = _loaded(job, CHECKPOINT)

    def predict(self, images: list[Path]) -> Iterator[Predicted]:
        """Predict images; the map is brought to their size."""
        import torch
        from torch.nn.functional import interpolate

        for batch in self._batches(images, self.job.batch):
            with torch.inference_mode():
                said = self._model(torch.from_numpy(batch))
                maps = said.anomaly_map
                if maps.shape[-2:] != batch.shape[-2:]:
                    maps = interpolate(maps, size=batch.shape[-2:], mode="bilinear", align_corners=False)
            yield from zip(said.pred_score.flatten().tolist(), maps[:, 0].numpy(), strict=True)


class Exported(Predictor):
    """Files that ``export`` has written, run as the documentation says.

    Args:
        job: What with.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        manifest = json.loads((Path(job.source) / "manifest.json").read_text(encoding="utf-8"))
        self._batch = job.batch if manifest["inputs"][0]["shape"][0] == "any" else 1
        self._run = self._load(Path(job.source))

    @abstractmethod
    def _load(self, folder: Path) -> Callable[[Floats], tuple[Floats, Floats]]:
        """Give what predicts scores, shape (batch,), and maps, shape (batch, 1, height, width)."""

    def predict(self, images: list[Path]) -> Iterator[Predicted]:
        """Predict images."""
        for batch in self._batches(images, self._batch):
            scores, maps = self._run(batch)
            yield from zip(scores.tolist(), maps[:, 0], strict=True)


class ExportedTorch(Exported):
    """Run by PyTorch."""

    def _load(self, folder: Path) -> Callable[[Floats], tuple[Floats, Floats]]:
        import torch

        model = torch.export.load(folder / "model.pt2").module()

        @torch.inference_mode()
        def run(images: Floats) -> tuple[Floats, Floats]:
            said: dict[str, torch.Tensor] = model(torch.from_numpy(images))
            return said["pred_score"].numpy(), said["anomaly_map"].numpy()

        return run


class ExportedOnnx(Exported):
    """Run by onnxruntime."""

    def _load(self, folder: Path) -> Callable[[Floats], tuple[Floats, Floats]]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads()
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

        def run(images: Floats) -> tuple[Floats, Floats]:
            scores, maps = session.run(["pred_score", "anomaly_map"], {"images": images})
            return scores, maps

        return run


class ExportedOpenVino(Exported):
    """Run by OpenVINO, with 32 bits."""

    def _load(self, folder: Path) -> Callable[[Floats], tuple[Floats, Floats]]:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads()}
        model = openvino.Core().compile_model(folder / "model.xml", "CPU", settings)

        def run(images: Floats) -> tuple[Floats, Floats]:
            said = model({"images": images})
            return np.array(said["pred_score"]), np.array(said["anomaly_map"])

        return run


PREDICTORS: dict[str, type[Predictor]] = {
    "python": Ensemble,
    "engine": EnginePerTile,
    "torch": ExportedTorch,
    "onnx": ExportedOnnx,
    "openvino": ExportedOpenVino,
    "whole": Single,
    "shrunk": Single,
}


def pixels_of(path: Path) -> Floats:
    """Read an image with values in [0, 1], shape (3, height, width)."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB"), dtype=np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) / np.float32(255)


def threads() -> int:
    """Give the number of threads that PyTorch takes: what ``OMP_NUM_THREADS`` says, or all cores."""
    return int(os.environ.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0))))


def _loaded(job: Job, checkpoint: str) -> AnomalibModule:
    """Load a model of anomalib as anomalib does."""
    from anomalib import models

    model_class = getattr(models, job.model)
    model: AnomalibModule = model_class.load_from_checkpoint(
        Path(job.source) / checkpoint,
        map_location="cpu",
        pre_processor=model_class.configure_pre_processor((job.side, job.side)),
        evaluator=False,
        visualizer=False,
    )
    return model.eval()
