r"""What a view of the whole image finds that tiles cannot see, and what only tiles see.

On drawn plates four parts lie anywhere in their quarter of the plate, so every place is blank on many of them, and a
part is larger than a tile. Some plates lack a part: each tile shows what is normal there. Others have a small scratch,
which vanishes where the plate is shrunk. One run predicts both; its scores are compared with those of its tiles alone,
of its global model alone, and of both on scales that branches could have learned instead.

    python -m benchmarks.whole --backbone local-dir:$PWD/weights/lite0 --seeds 0 1 2 -- results/whole

``python -m benchmarks.weights weights/lite0`` writes the weights. Without ``--backbone`` they are random.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.auroc import auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.fusion import Branches, Predicted
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.ensemble.tile_job import Purpose
    from anomalib_tiled.stages.global_model import GlobalModel

    Pixels = NDArray[np.float64]
    Scores = NDArray[np.float64]

SIDE, QUARTER, PART = 384, 192, 72
"""Sides of a plate, of the quarter that a part lies in, and of a part, in pixels."""

MARGIN = 8
"""Least distance of a part from the border of its quarter, and width of its frame."""

TILE, SHRUNK = 64, 128

COUNTS = {"good": 64, "good_test": 24, "missing": 24, "scratched": 24}
"""Images of each folder; the first is for training and validation."""

PLATE, FRAME, COVER, SCRATCH = (70, 90, 70), (40, 40, 45), (150, 140, 60), 230


Learned = tuple[float, float]
"""Location and scale."""

SCALES: dict[str, Callable[[Scores], Learned]] = {
    "median, MAD": lambda normal: (np.median(normal), np.median(np.abs(normal - np.median(normal)))),
    "mean, standard deviation": lambda normal: (normal.mean(), normal.std()),
    "median, distance to the 0.9 quantile": lambda normal: (
        np.median(normal),
        np.quantile(normal, 0.9) - np.median(normal),
    ),
    "mean, distance to the highest": lambda normal: (normal.mean(), normal.max() - normal.mean()),
    "highest, standard deviation": lambda normal: (normal.max(), normal.std()),
}
"""What a branch could learn from the scores of normal validation images; the first is what it learns."""


@dataclass(frozen=True)
class Scored:
    """The scores of one run, shape (images,).

    Args:
        kinds: Folder of each test image.
        tiles: Scores of the test images by the tiles.
        whole: Their scores by the global model.
        both: Their scores by both, as the run joins them.
        normal: Scores of the normal validation images by tiles and global model, shape (2, images).
    """

    kinds: NDArray[np.str_]
    tiles: Scores
    whole: Scores
    both: Scores
    normal: Scores

    def auroc(self, kind: str, scores: Scores) -> float:
        """Say how well images of one kind are told from normal ones, by the area under the ROC curve."""
        chosen = np.isin(self.kinds, ["good_test", kind])
        return auroc(scores[chosen], self.kinds[chosen] == kind)

    def joined(self, scale: Callable[[Scores], Learned]) -> Scores:
        """Give the higher of both scores, on another scale."""
        pairs = zip((self.tiles, self.whole), map(scale, self.normal), strict=True)
        return np.asarray(np.max([(scores - location) / width for scores, (location, width) in pairs], axis=0))


def draw(random: np.random.Generator, kind: str) -> tuple[Pixels, Pixels]:
    """Draw a plate and its mask.

    Args:
        random: Where parts lie, and the noise.
        kind: A folder of ``COUNTS``.
    """
    plate = np.full((SIDE, SIDE, 3), PLATE, dtype=np.float64) + random.normal(0, 8, (SIDE, SIDE, 1))
    mask = np.zeros((SIDE, SIDE))
    lacks = random.integers(4) if kind == "missing" else None
    for quarter in range(4):
        corner = np.array(divmod(quarter, 2)) * QUARTER + random.integers(MARGIN, QUARTER - MARGIN - PART, 2)
        place = tuple(slice(start, start + PART) for start in corner)
        inner = tuple(slice(start + MARGIN, start + PART - MARGIN) for start in corner)
        if quarter == lacks:
            mask[place] = 255
            continue
        plate[place], plate[inner] = FRAME, COVER
        plate[place] += random.normal(0, 6, (PART, PART, 1))
    if kind == "scratched":
        angle, length, centre = random.uniform(0, np.pi), random.uniform(14, 22), random.integers(40, SIDE - 40, 2)
        for step in np.linspace(-length / 2, length / 2, 60):
            row, column = (centre + step * np.array([np.sin(angle), np.cos(angle)])).astype(int)
            area = slice(row, row + 2), slice(column, column + 2)
            plate[area], mask[area] = SCRATCH, 255
    return plate.clip(0, 255), mask


def write_images(root: Path, seed: int) -> None:
    """Draw all images, and the masks of defects."""
    random = np.random.default_rng(seed)
    for kind, number in COUNTS.items():
        for folder in (root / kind, root / "masks" / kind):
            folder.mkdir(parents=True, exist_ok=True)
        for place in range(number):
            plate, mask = draw(random, kind)
            Image.fromarray(plate.astype(np.uint8)).save(root / kind / f"{place:03}.png")
            if mask.any():
                Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / kind / f"{place:03}.png")


def configuration(folder: Path, backbone: str | None, seed: int) -> dict[str, object]:
    """Give the configuration of the run."""
    own = {"backbone": backbone} if backbone else {"backbone": "tf_efficientnet_lite0", "pre_trained": False}
    tiles = {**own, "layers": ["blocks.2"], "coreset_sampling_ratio": 0.01, "num_neighbors": 1}
    whole = {**tiles, "layers": ["blocks.6"], "coreset_sampling_ratio": 0.99}
    return {
        "seed_everything": seed,
        "default_root_dir": str(folder / "results"),
        "tiling": {"tile_size": TILE},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        "model": {"class_path": "Patchcore", "init_args": tiles},
        "assignment": {"class_path": "Shared"},
        "global_model": {"image_size": SHRUNK, "model": {"class_path": "Patchcore", "init_args": whole}},
        "data": {
            "class_path": "Folder",
            "init_args": {
                "name": "plates",
                "root": str(folder / "images"),
                "normal_dir": "good",
                "normal_test_dir": "good_test",
                "abnormal_dir": ["missing", "scratched"],
                "mask_dir": ["masks/missing", "masks/scratched"],
                "val_split_mode": "from_train",
                "val_split_ratio": 0.25,
                "num_workers": 0,
            },
        },
    }


def scored(run_folder: Path) -> Scored:
    """Read the scores of a run from its predictions, which it has kept."""
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.runs.run_folder import RunFolder

    run = Run.open(RunFolder.open(run_folder))
    calibration = run.calibration()
    branches, ensemble = cast("Branches", calibration.branches), run.ensemble(replace(calibration, branches=None))
    _, normal = _of_branches(run, ensemble, "calibration")
    kinds, scores = _of_branches(run, ensemble, "test")
    model = cast("GlobalModel", ensemble.stages.global_model)
    both = branches.fused_scores(model, *torch.from_numpy(scores)).numpy()
    return Scored(kinds, scores[0], scores[1], both, normal)


def _of_branches(run: Run, ensemble: EnsembleModel, purpose: Purpose) -> tuple[NDArray[np.str_], Scores]:
    """Give the folders of images, and their scores by tiles and whole, shape (2, images)."""
    from anomalib_tiled.training.stored_predictions import lazy_predictions

    kinds, scores = [], []
    for batch, predict in lazy_predictions(run, ensemble, purpose, run.folder.predictions, "Comparing"):
        raw = predict(None)
        scores.append(torch.stack([raw.scores, cast("Predicted", raw.whole).scores]).double().numpy())
        kinds += [Path(path).parent.name for path in batch.image_path or []]
    return np.array(kinds), np.concatenate(scores, axis=1)


def measured(folder: Path, backbone: str | None, seed: int) -> Scored:
    """Draw images, fit and test."""
    from anomalib_tiled.cli.main import main as tiled

    write_images(folder / "images", seed)
    path = folder / "configuration.yaml"
    path.write_text(yaml.safe_dump(configuration(folder, backbone, seed)))
    if tiled(["train", "--config", str(path)]) != 0:
        sys.exit(1)
    runs = (folder / "results" / "Patchcore" / "plates").glob("v*")
    return scored(max(runs, key=lambda each: each.stat().st_mtime))


def table(runs: Sequence[Scored]) -> str:
    """Give the image AUROC by each way of scoring as a Markdown table: mean over the runs, and lowest."""
    ways: dict[str, Callable[[Scored], Scores]] = {
        "tiles alone": lambda run: run.tiles,
        "whole image alone": lambda run: run.whole,
        "both": lambda run: run.both,
        **{f"both, by {name}": partial(_joined_by, scale) for name, scale in SCALES.items()},
    }
    lines = ["| scores | a part is missing | scratched |", "|---|---|---|"]
    for way, give in ways.items():
        columns = [[run.auroc(kind, give(run)) for run in runs] for kind in ("missing", "scratched")]
        lines.append(" | ".join([f"| {way}", *(f"{np.mean(each):.3f} ({min(each):.3f})" for each in columns)]) + " |")
    return "\n".join(lines)


def _joined_by(scale: Callable[[Scores], Learned], run: Scored) -> Scores:
    return run.joined(scale)


def main() -> None:
    """Measure with each seed, and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for images and runs")
    parser.add_argument("--backbone", help="pretrained backbone, such as local-dir:FOLDER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    folders = {seed: options.folder.absolute() / f"seed_{seed}" for seed in options.seeds}
    print(table([measured(folder, options.backbone, seed) for seed, folder in folders.items()]))


if __name__ == "__main__":
    main()
