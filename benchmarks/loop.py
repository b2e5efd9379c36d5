"""The lower bound: the same model work in a bare loop, without data loaders, trainers, stages, metrics or pictures.

Images are decoded once. Then, for each tile: fit on the training tiles, store the model, predict. The model
is anomalib's own PyTorch module, because the arithmetic must be the same; everything around it is in this file.

    python -m benchmarks.loop fit case.json
    python -m benchmarks.loop test case.json
"""

from __future__ import annotations

import json
import multiprocessing
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from anomalib.models import Padim, Patchcore
from lightning.pytorch import seed_everything
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from anomalib_tiled.system.limits import cores
from benchmarks.case import Case

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Tile = tuple[slice, slice]
    Learner = Padim | Patchcore

MAPS = "maps.npy"

LEARNERS: dict[str, type[Learner]] = {"Padim": Padim, "Patchcore": Patchcore}
"""Models that look at each training tile once, and then learn from what they have seen."""


@dataclass(frozen=True)
class Job:
    """The job of a loop.

    Args:
        case: Model and sizes.
        boards: Folder of the images.
        processes: Number of processes that share the tiles.
        folder: For models and predicted maps.
        device: Where models are; with ``cuda`` there is one process.
    """

    case: Case
    boards: Path
    processes: int
    folder: Path
    device: str

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job from its file, in the folder of the job."""
        content = json.loads(path.read_text(encoding="utf-8"))
        case, boards = Case(**content["case"]), Path(content["boards"])
        return cls(case, boards, content["processes"], path.parent, content["device"])

    @property
    def tiles(self) -> list[Tile]:
        """Rows and columns of each tile."""
        size = self.case.tile_size
        parts = [slice(start, start + size) for start in range(0, self.case.image_size, size)]
        return list(product(parts, parts))

    def learned(self, tile: Tile) -> Path:
        """Name the file of the model of a tile."""
        rows, columns = tile
        return self.folder / f"{rows.start}_{columns.start}.pt"


def main() -> None:
    """Run a phase of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=["fit", "test"], help="train and predict once, or predict once")
    parser.add_argument("job", type=Path, help="file of the job")
    options = parser.parse_args()
    job = Job.read(options.job)
    test = decoded(test_images(job.boards))
    shape = (len(test), job.case.image_size, job.case.image_size)
    np.lib.format.open_memmap(job.folder / MAPS, mode="w+", dtype=np.float32, shape=shape)
    if options.phase == "fit":
        work = partial(_fit_tiles, job, decoded(train_images(job.boards)), test)
    else:
        work = partial(_test_tiles, job, test)
    share_out(work, job.tiles, job.processes)


def train_images(boards: Path) -> list[Path]:
    """List the training images."""
    return sorted((boards / "train").rglob("*.png"))


def test_images(boards: Path) -> list[Path]:
    """List the test images, in the order of the maps."""
    return sorted((boards / "test").rglob("*.png"))


def decoded(paths: list[Path]) -> Pixels:
    """Decode images, shape (images, height, width, 3)."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def share_out(work: Callable[[list[Tile]], None], tiles: list[Tile], processes: int) -> None:
    """Give each process its share of the tiles and of the cores, and wait for all.

    Processes are copies of this one, so that they see the decoded images without copying them.

    Raises:
        RuntimeError: A process failed.
    """
    if processes == 1:
        _work(work, tiles, cores())
        return
    context = multiprocessing.get_context("fork")
    threads = max(1, cores() // processes)
    crew = [context.Process(target=_work, args=(work, tiles[each::processes], threads)) for each in range(processes)]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    if any(process.exitcode for process in crew):
        message = "A process of the loop failed; what it printed stands above."
        raise RuntimeError(message)


def _work(work: Callable[[list[Tile]], None], tiles: list[Tile], threads: int) -> None:
    torch.set_num_threads(min(threads, torch.get_num_threads()))  # the latter respects OMP_NUM_THREADS
    work(tiles)


@torch.inference_mode()
def _fit_tiles(job: Job, train: Pixels, test: Pixels, tiles: list[Tile]) -> None:
    """Train tiles, and predict the images with them once, as a calibration needs."""
    model, maps = _model(job), np.lib.format.open_memmap(job.folder / MAPS, mode="r+")
    for tile in tiles:
        seed_everything(job.case.seed, verbose=False)
        model.train()
        for batch in _batches(train, tile, job.case.train_batch, job.device):
            model.model(batch)
        model.fit()
        learned = {name: value for name, value in model.state_dict().items() if "feature_extractor" not in name}
        torch.save(learned, job.learned(tile))
        _predict(job, model, test, tile, maps)


@torch.inference_mode()
def _test_tiles(job: Job, test: Pixels, tiles: list[Tile]) -> None:
    """Predict the images once with the stored models."""
    model, maps = _model(job), np.lib.format.open_memmap(job.folder / MAPS, mode="r+")
    for tile in tiles:
        model.load_state_dict(torch.load(job.learned(tile), map_location=job.device), strict=False)
        _predict(job, model, test, tile, maps)


def _predict(job: Job, model: Learner, images: Pixels, tile: Tile, maps: NDArray[np.float32]) -> None:
    model.eval()
    rows, columns = tile
    for number, batch in enumerate(_batches(images, tile, job.case.eval_batch, job.device)):
        first = number * job.case.eval_batch
        predicted = model.model(batch)
        maps[first : first + len(batch), rows, columns] = predicted.anomaly_map[:, 0].cpu().numpy()


def _batches(images: Pixels, tile: Tile, size: int, device: str) -> Iterator[torch.Tensor]:
    """Give one tile of all images, normalized as the backbone wants it, shape (batch, 3, height, width)."""
    statistics = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    mean, deviation = (torch.tensor(each, device=device)[:, None, None] for each in statistics)
    for first in range(0, len(images), size):
        pixels = torch.from_numpy(images[(slice(first, first + size), *tile)]).to(device)
        yield (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / deviation


def _model(job: Job) -> Learner:
    """Make the one model that all tiles of a process use in turn."""
    seed_everything(job.case.seed, verbose=False)
    return LEARNERS[job.case.model](**job.case.init_args, visualizer=False).to(job.device)


if __name__ == "__main__":
    main()
