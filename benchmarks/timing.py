"""Predict images in one way, take the time, and store the predictions.

    python -m benchmarks.timing job.json

Beside the job it writes ``timing.json``, ``scores.npy`` and, for each image, a map in ``maps/``.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.predictors import PREDICTORS, Job, Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

JOB = "job.json"
TIMING = "timing.json"
SCORES = "scores.npy"
MAPS = "maps"


@dataclass(frozen=True)
class Timing:
    """How long a way takes, decoding of the files included.

    Args:
        first: Seconds until the first image was predicted, with imports and with loading of models.
        latencies: Seconds of a single image, for each repetition; empty if it was not measured.
        images_per_second: Over all images, one after another or in batches, once all is loaded; ``None`` if they are
            too few to measure.
    """

    first: float
    latencies: list[float]
    images_per_second: float | None

    @property
    def latency(self) -> float | None:
        """The median of the latencies in seconds, if they were measured."""
        return median(self.latencies) if self.latencies else None

    @classmethod
    def read(cls, folder: Path) -> Timing:
        """Read the times from the folder of a job."""
        return cls(**json.loads((folder / TIMING).read_text(encoding="utf-8")))


def main() -> None:
    """Run the job of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="file of the job")
    path = parser.parse_args().job.absolute()
    timing = take_time(Job.read(path), path.parent)
    (path.parent / TIMING).write_text(json.dumps(asdict(timing), indent=1), encoding="utf-8")


def take_time(job: Job, folder: Path) -> Timing:
    """Predict the first image several times, then all. Two predictions of it, and one of a batch, warm up.

    Args:
        job: Images and way.
        folder: Where scores and maps go; writing them does not count.
    """
    images = [Path(image) for image in job.images]
    began = perf_counter()
    predictor = PREDICTORS[job.kind](job)
    list(predictor.predict(images[:1]))
    first = perf_counter() - began
    list(predictor.predict(images[:1]))
    list(predictor.predict(images[: job.batch]))  # some prepare themselves for each size of a batch anew
    latencies = [_seconds_of_one(predictor, images[0]) for _ in range(job.repeats)]
    return Timing(first, latencies, len(images) / _seconds_of_all(predictor, images, folder))


def read_predictions(folder: Path, images: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read scores, shape (images,), and maps, shape (images, height, width).

    Args:
        folder: Where `take_time` has left them.
        images: Their number.
    """
    maps = np.stack([np.load(folder / MAPS / f"{number}.npy") for number in range(images)])
    return np.load(folder / SCORES), maps


def _seconds_of_one(predictor: Predictor, image: Path) -> float:
    began = perf_counter()
    list(predictor.predict([image]))
    return perf_counter() - began


def _seconds_of_all(predictor: Predictor, images: list[Path], folder: Path) -> float:
    """Predict all images, and write each prediction while the clock stands still."""
    (folder / MAPS).mkdir()
    seconds, scores = 0.0, []
    predictions, began = predictor.predict(images), perf_counter()
    for number, (score, shown) in enumerate(predictions):
        seconds += perf_counter() - began
        np.save(folder / MAPS / f"{number}.npy", shown)
        scores.append(score)
        began = perf_counter()
    np.save(folder / SCORES, np.array(scores, dtype=np.float32))
    return seconds


if __name__ == "__main__":
    main()
