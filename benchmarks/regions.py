"""Measure what an ignored half of the image saves, and whether the other half gets the same numbers.

Trains drawn boards with and without the left half, alternately, and predicts the test images with each run. Times are
those of the processor, which other programs change less than a clock.

    python -m benchmarks.regions
    python -m benchmarks.regions --image_size 1024 --tile_size 256 --repeats 3
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from anomalib_tiled import pipeline
from anomalib_tiled.api import TiledEnsemble
from anomalib_tiled.cli.options import fit_parser, settings_from
from anomalib_tiled.data.image_input import pixels_of
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.training.preparation import prepare

if TYPE_CHECKING:
    from anomalib_tiled.ensemble.tile_model import TilePrediction
    from anomalib_tiled.grid import Tile

KINDS = ("all", "half")
"""Everything is inspected, or the right half alone."""


@dataclass(frozen=True)
class Half:
    """What a run has taken, and what it says of the right half of the test images.

    Args:
        training: Seconds to train all tiles and to calibrate.
        prediction: Seconds to predict all test images, decoding included.
        scores: Score of each tile of the right half, shape (images, tiles).
        maps: Merged maps of the right half, shape (images, height, width).
    """

    training: float
    prediction: float
    scores: torch.Tensor
    maps: torch.Tensor


def main() -> None:
    """Measure, and print the medians."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--tile_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[Half]] = {kind: [] for kind in KINDS}
    with TemporaryDirectory() as folder:
        for number in range(options.repeats):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                found[kind].append(measured(Path(folder), kind, options.image_size, options.tile_size))
    for what in ("training", "prediction"):
        everything, half = (median(getattr(each, what) for each in found[kind]) for kind in KINDS)
        print(f"{what:<12} all {everything:8.2f} s   half {half:8.2f} s   half / all {half / everything:.3f}")
    whole, part = (found[kind][0] for kind in KINDS)
    print(f"largest difference of a tile score: {(whole.scores - part.scores).abs().max():.3g}")
    distances = (whole.maps - part.maps).abs().amax(dim=(0, 1))
    differing = int(distances.nonzero().max()) + 1 if distances.any() else 0
    print(f"largest difference of a map: {distances.max():.3g}; it differs in {differing} columns beside the left half")


def measured(folder: Path, kind: str, image_size: int, tile_size: int) -> Half:
    """Train and predict once.

    Args:
        folder: Folder for boards and runs.
        kind: One of `KINDS`.
        image_size: Side of the images in pixels.
        tile_size: Side of the tiles in pixels.
    """
    mask = np.zeros((image_size, image_size), np.uint8)
    mask[:, : image_size // 2] = 255
    Image.fromarray(mask).save(folder / "left.png")
    content = {
        "seed_everything": 0,
        "default_root_dir": str(folder / kind),
        "tiling": {"tile_size": tile_size, "image_size": image_size},
        "model": {"class_path": "Padim", "init_args": {"pre_trained": False, "n_features": 100}},
        "data": {"class_path": "DemoBoards", "init_args": {"root": str(folder / "boards"), "image_size": image_size}},
        "trainer": {"accelerator": "cpu"},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        "cache": {"directory": str(folder / "cache")},
        "regions": {"ignore": str(folder / "left.png")} if kind == "half" else None,
    }
    parser = fit_parser("benchmarks.regions")
    run = prepare(settings_from(parser, parser.parse_object(content)))
    with closing(run):
        began = process_time()
        pipeline.fit(run, Observers([]))
        training = process_time() - began
    ensemble = TiledEnsemble.from_run(Run.open(run.folder))
    images = [sample.image_path for sample in run.split.subset("test")]
    ensemble.predict(images[0])
    began = process_time()
    for image in images:
        ensemble.predict(image)
    prediction = process_time() - began
    scores, maps = zip(*(_right_half(ensemble, image) for image in images), strict=True)
    return Half(training, prediction, torch.stack(scores), torch.stack(maps))


def _right_half(ensemble: TiledEnsemble, image: Path) -> tuple[torch.Tensor, torch.Tensor]:
    middle, scores = ensemble.grid.image_size.width // 2, []

    def on_tile(tile: Tile, raw: TilePrediction) -> None:
        if tile.columns.start >= middle:
            scores.append(raw.scores[0])

    raw = ensemble.predict_raw(pixels_of(image)[None].float() / 255, on_tile)
    return torch.stack(scores), raw.maps[0, 0, :, middle:]


if __name__ == "__main__":
    main()
