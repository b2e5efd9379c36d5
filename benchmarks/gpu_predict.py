"""Predict images with an ensemble that stays in memory, and take the time.

    python -m benchmarks.gpu_predict RUN IMAGES --device cuda

It writes ``predicted.json`` into the folder that it is started in.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomalib_tiled import TiledEnsemble
    from anomalib_tiled.data.image_input import GivenImage

BEGAN = perf_counter()
"""About when the process began: anomalib and PyTorch, whose import takes seconds, are imported later."""

FILE = "predicted.json"
BATCHES = (4, 16)
MOST_PIXELS = 2**25
"""Most pixels of images that are given together: more would not fit on small cards."""

IMAGES = 32
"""Fewest images for a rate on a GPU; they are given several times if there are fewer."""

REPEATS = 5


@dataclass(frozen=True)
class PredictionTimes:
    """How long predictions take.

    Args:
        cold: Seconds from the start of the process until all images were predicted once, from their files.
        single: Seconds of a single image that is decoded, the median of some.
        rates: Images per second of decoded images, by the number of images that are given together; ``None`` if these
            have too many pixels.
        from_files: Images per second, decoding included.
        tensors: Most bytes of the GPU in tensors; ``None`` for a processor.
    """

    cold: float
    single: float
    rates: dict[str, float | None]
    from_files: float
    tensors: int | None

    @classmethod
    def read(cls, folder: Path) -> PredictionTimes:
        """Read what was written in a folder."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def main() -> None:
    """Predict what the command line names."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--device", default="cuda", help="where to predict")
    options = parser.parse_args()
    times = take_times(options.run, sorted(options.images.rglob("*.png")), options.device)
    Path(FILE).write_text(json.dumps(asdict(times), indent=1), encoding="utf-8")


def take_times(run: Path, images: Sequence[Path], device: str) -> PredictionTimes:
    """Predict images, first cold, then warm.

    Args:
        run: Run folder.
        images: Files.
        device: Where to predict.
    """
    import torch

    from anomalib_tiled import TiledEnsemble

    ensemble = TiledEnsemble.load(run, device=device)
    _seconds(ensemble, images, BATCHES[0])
    cold = perf_counter() - BEGAN
    if device != "cpu":
        images = [*images] * ceil(IMAGES / len(images))
    decoded = [np.asarray(Image.open(path).convert("RGB")) for path in images]
    _seconds(ensemble, decoded[:1], 1)
    single = median(_seconds(ensemble, decoded[:1], 1) for _ in range(REPEATS))
    rates = {str(batch): _rate(ensemble, decoded, batch) for batch in BATCHES}
    tensors = None if device == "cpu" else torch.cuda.max_memory_allocated()
    return PredictionTimes(cold, single, rates, len(images) / _seconds(ensemble, images, BATCHES[0]), tensors)


def _rate(ensemble: TiledEnsemble, images: Sequence[NDArray[np.uint8]], batch: int) -> float | None:
    """Give images per second, warm."""
    height, width = images[0].shape[:2]
    if batch * height * width > MOST_PIXELS:
        return None
    _seconds(ensemble, images[:batch], batch)
    return len(images) / _seconds(ensemble, images, batch)


def _seconds(ensemble: TiledEnsemble, images: Sequence[GivenImage], batch: int) -> float:
    """Predict images; predictions are on the processor, so that the GPU is done, too."""
    began = perf_counter()
    for _ in ensemble.predict_images(images, batch_size=batch):
        pass
    return perf_counter() - began


if __name__ == "__main__":
    main()
