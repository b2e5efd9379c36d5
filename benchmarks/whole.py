r"""What a view of the whole image finds that tiles cannot see, and what only tiles see.

On drawn plates four parts lie anywhere in their quarter of the plate, so every place is blank on many of them, and a
part is larger than a tile. Some plates lack a part: each tile shows what is normal there. Others have a small scratch,
which vanishes where the plate is shrunk. One run predicts both; its scores are compared with those of its tiles alone,
and of its global model alone.

    python -m benchmarks.whole --backbone local-dir:$PWD/weights/lite0 results/whole

``python -m benchmarks.weights weights/lite0`` writes the weights. Without ``--backbone`` they are random.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.auroc import auroc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.ensemble.fusion import Branches, Predicted
    from anomalib_tiled.stages.global_model import GlobalModel

    Pixels = NDArray[np.float64]

SIDE, QUARTER, PART = 384, 192, 72
"""Sides of a plate, of the quarter that a part lies in, and of a part, in pixels."""

MARGIN = 8
"""Least distance of a part from the border of its quarter, and width of its frame."""

TILE, SHRUNK = 64, 128

COUNTS = {"good": 64, "good_test": 24, "missing": 24, "scratched": 24}
"""Images of each folder; the first is for training and validation."""

PLATE, FRAME, COVER, SCRATCH = (70, 90, 70), (40, 40, 45), (150, 140, 60), 230


@dataclass(frozen=True)
class Found:
    """How well images of one kind are told from normal ones, by the area under the ROC curve of their scores.

    Args:
        kind: Folder of the images.
        tiles: By the tiles alone.
        whole: By the global model alone.
        both: By both.
    """

    kind: str
    tiles: float
    whole: float
    both: float


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


def write_images(root: Path) -> None:
    """Draw all images, and the masks of defects, unless they are there."""
    random = np.random.default_rng(0)
    for kind, number in COUNTS.items():
        for folder in (root / kind, root / "masks" / kind):
            folder.mkdir(parents=True, exist_ok=True)
        for place in range(number):
            plate, mask = draw(random, kind)
            Image.fromarray(plate.astype(np.uint8)).save(root / kind / f"{place:03}.png")
            if mask.any():
                Image.fromarray(mask.astype(np.uint8)).save(root / "masks" / kind / f"{place:03}.png")


def configuration(root: Path, results: Path, backbone: str | None) -> dict[str, object]:
    """Give the configuration of the run."""
    own = {"backbone": backbone} if backbone else {"backbone": "tf_efficientnet_lite0", "pre_trained": False}
    tiles = {**own, "layers": ["blocks.2"], "coreset_sampling_ratio": 0.01, "num_neighbors": 1}
    whole = {**tiles, "layers": ["blocks.6"], "coreset_sampling_ratio": 0.99}
    return {
        "seed_everything": 1,
        "default_root_dir": str(results),
        "tiling": {"tile_size": TILE},
        "model": {"class_path": "Patchcore", "init_args": tiles},
        "assignment": {"class_path": "Shared"},
        "global_model": {"image_size": SHRUNK, "model": {"class_path": "Patchcore", "init_args": whole}},
        "data": {
            "class_path": "Folder",
            "init_args": {
                "name": "plates",
                "root": str(root),
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


def found(run_folder: Path) -> list[Found]:
    """Compare the branches of a run by their predictions of the test images, which it has kept."""
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.runs.run_folder import RunFolder
    from anomalib_tiled.training.stored_predictions import lazy_predictions

    run = Run.open(RunFolder.open(run_folder))
    calibration = run.calibration()
    branches, ensemble = cast("Branches", calibration.branches), run.ensemble(replace(calibration, branches=None))
    model = cast("GlobalModel", ensemble.stages.global_model)
    kinds, scores = [], []
    for batch, predict in lazy_predictions(run, ensemble, "test", run.folder.predictions, "Comparing"):
        raw = predict(None)
        whole = cast("Predicted", raw.whole).scores
        scores.append(torch.stack([raw.scores, whole, branches.fused_scores(model, raw.scores, whole)]).numpy())
        kinds += [Path(path).parent.name for path in batch.image_path or []]
    of_branches, of_kind = np.concatenate(scores, axis=1), np.array(kinds)
    return [_found(kind, of_branches, of_kind) for kind in ("missing", "scratched")]


def _found(kind: str, scores: NDArray[np.float32], kinds: NDArray[np.str_]) -> Found:
    chosen = np.isin(kinds, ["good_test", kind])
    return Found(kind, *(auroc(each[chosen], kinds[chosen] == kind) for each in scores))


def main() -> None:
    """Draw, fit, test and compare."""
    from anomalib_tiled.cli.main import main as tiled

    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for images and run")
    parser.add_argument("--backbone", help="pretrained backbone, such as local-dir:FOLDER")
    options = parser.parse_args()
    folder = options.folder.absolute()
    write_images(folder / "images")
    path = folder / "configuration.yaml"
    path.write_text(yaml.safe_dump(configuration(folder / "images", folder / "results", options.backbone)))
    if tiled(["train", "--config", str(path)]) != 0:
        parser.exit(1)
    rows = found(max((folder / "results" / "Patchcore" / "plates").glob("v*"), key=lambda each: each.stat().st_mtime))
    (folder / "found.json").write_text(json.dumps([vars(row) for row in rows], indent=2))
    print(f"{'image AUROC':12}{'tiles alone':>14}{'whole alone':>14}{'both':>8}")
    for row in rows:
        print(f"{row.kind:12}{row.tiles:14.3f}{row.whole:14.3f}{row.both:8.3f}")


if __name__ == "__main__":
    main()
