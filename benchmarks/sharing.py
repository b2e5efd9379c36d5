"""What tiles that share a model cost and find: crops of textures where nothing is aligned, and boards that lie still.

Each row is a whole run: its models, how well it finds defects, the seconds of one processor that training took, how
many of them went into extracting features and into fitting (the covariance of Padim, the coreset of Patchcore), those
of the whole ``fit`` (images, training, predictions of the validation images, calibration), and the bytes of the
checkpoints. Needs scikit-image for the textures. Prints a Markdown table.

    python -m benchmarks.sharing --backbone local-dir:weights/lite0 --output results/benchmarks/sharing
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from anomalib.models import Padim, Patchcore
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.pipeline import fit, test
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.training import train_tile
from anomalib_tiled.training.preparation import prepare

Pixels = NDArray[np.float64]

STAGE = "anomalib_tiled.stages"
DEFAULTS = {
    "merging": {"class_path": f"{STAGE}.merging.Mean"},
    "scoring": {"class_path": f"{STAGE}.scoring.Max"},
    "seam_smoothing": {"class_path": f"{STAGE}.seams.GaussianSeams"},
    "normalization": {"stage": "image", "method": {"class_path": f"{STAGE}.normalization.MinMax"}},
    "thresholding": {"stage": "image", "method": {"class_path": f"{STAGE}.thresholding.F1AdaptiveThreshold"}},
    "metrics": {"image": ["AUROC"], "pixel": ["AUPRO"]},
    "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers", "init_args": {"processes": 1}},
    "trainer": {"accelerator": "cpu"},
    "cache": {},
    "visualize": False,
}
SIDE, TILE = 512, 128
"""Pixels of an image and of its tiles: sixteen tiles."""

CUT = 192
"""Pixels of a texture that a crop shows."""

MIDDLE = 127
"""Brightness above which a scratch or spot is darker than what is there."""

CONTRAST = 80
"""How much darker or lighter it is."""

RUST = np.array([40, 0, -40])
"""How much more red, green and blue a stain has."""

LAYERS = {"Padim": ["blocks.1", "blocks.2", "blocks.4"], "Patchcore": ["blocks.2", "blocks.4"]}
"""Layers of the backbone at a quarter, an eighth and a sixteenth of the resolution."""

TRAINING, TESTED = 24, 20
"""Training images; test images of each label."""


@dataclass(frozen=True)
class Case:
    """A run.

    Args:
        images: ``brick``, ``grass``, ``gravel`` or ``boards``.
        model: ``Padim``, or ``Patchcore`` and the share of the features that it keeps.
        assignment: Class and arguments of the assignment.
    """

    images: str
    model: str
    assignment: str


@dataclass(frozen=True)
class Found:
    """Measured numbers of a run.

    Args:
        models: Number of models.
        image_auroc: Area under the ROC curve of the scores of the test images.
        pixel_aupro: Area under the curve of the overlap with regions.
        seconds: Seconds of one processor that training all models took.
        extracting: Seconds of them in the backbone.
        fitting: Seconds of them in which the model fits what was extracted.
        whole: Seconds of one processor that the whole ``fit`` took.
        megabytes: Size of the checkpoints without the backbone, which all models share.
    """

    models: int
    image_auroc: float
    pixel_aupro: float
    seconds: float
    extracting: float
    fitting: float
    whole: float
    megabytes: float


def texture_images(name: str, root: Path, seed: int) -> None:
    """Write crops of a texture: training from its upper half, tests from its lower half, each turned over at random."""
    import skimage.data

    random, whole = np.random.default_rng(seed), getattr(skimage.data, name)().astype(np.float64)
    upper, lower = np.vsplit(whole, 2)
    for folder, half, number in (("good", upper, TRAINING), ("good_test", lower, TESTED), ("bad", lower, TESTED)):
        (root / folder).mkdir(parents=True)
        (root / "mask").mkdir(exist_ok=True)
        for index in range(number):
            pixels = _crop(half, random)
            if folder == "bad":
                pixels, mask = _damaged(pixels, KINDS[index % len(KINDS)], random)
                Image.fromarray(mask).save(root / "mask" / f"{index:03d}.png")
            noisy = pixels * random.uniform(0.95, 1.05) + random.normal(0, 2, pixels.shape)
            Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(root / folder / f"{index:03d}.png")


def _crop(half: Pixels, random: np.random.Generator) -> Pixels:
    top, left = (int(random.integers(0, side - CUT + 1)) for side in half.shape)
    cut = half[top : top + CUT, left : left + CUT][:: random.choice([-1, 1]), :: random.choice([-1, 1])]
    grey = np.asarray(Image.fromarray(cut.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC), float)
    return np.stack([grey] * 3, axis=2)


def _scratch(draw: ImageDraw.ImageDraw, x: float, y: float, random: np.random.Generator) -> None:
    angle, length = random.uniform(0, np.pi), random.uniform(40, 70)
    ends = [(x + sign * length * np.cos(angle), y + sign * length * np.sin(angle)) for sign in (-1, 1)]
    draw.line([*ends[0], *ends[1]], fill=255, width=6)


def _spot(draw: ImageDraw.ImageDraw, x: float, y: float, random: np.random.Generator) -> None:
    radius = random.uniform(12, 20)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def _stain(draw: ImageDraw.ImageDraw, x: float, y: float, random: np.random.Generator) -> None:
    radius = random.uniform(12, 20)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


KINDS: tuple[Callable[..., None], ...] = (_scratch, _spot, _stain)


def _damaged(
    pixels: Pixels, kind: Callable[..., None], random: np.random.Generator
) -> tuple[Pixels, NDArray[np.uint8]]:
    """Draw a scratch or a spot of another brightness, or a stain of another colour."""
    shape = Image.new("L", (SIDE, SIDE))
    kind(ImageDraw.Draw(shape), *random.uniform(60, SIDE - 60, 2), random)
    mask = np.asarray(shape)
    inside = mask[..., None] > 0
    darker = pixels[mask > 0].mean() > MIDDLE
    return pixels + inside * (RUST if kind is _stain else -CONTRAST if darker else CONTRAST), mask


def settings_of(case: Case, backbone: str, folder: Path, seed: int) -> Settings:
    """Give the configuration of a run; its images are drawn if they are not there."""
    root = folder / f"{case.images}-{seed}"
    if case.images == "boards":
        counts = {"train_images": TRAINING, "normal_test_images": TESTED, "anomalous_test_images": TESTED}
        args = {
            "root": str(root),
            "image_size": SIDE,
            "drawing_seed": seed,
            **counts,
            "val_split_mode": "same_as_test",
        }
        data = {"class_path": "anomalib_tiled.data.DemoBoards", "init_args": args}
    else:
        if not root.exists():
            texture_images(case.images, root, seed)
        places = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
        sizes = {"train_batch_size": 8, "eval_batch_size": 8, "num_workers": 0}
        args = {"name": case.images, "root": str(root), **places, **sizes, "val_split_mode": "same_as_test"}
        data = {"class_path": "anomalib.data.Folder", "init_args": args}
    name, _, share = case.model.partition(" ")
    args = {"backbone": backbone, "layers": LAYERS[name], "pre_trained": True}
    args |= {"coreset_sampling_ratio": float(share)} if share else {"n_features": 60}
    assignment, _, numbers = case.assignment.partition(" ")
    taken = dict(zip(ARGUMENTS.get(assignment, ()), map(int, numbers.split()), strict=False))
    return Settings.from_mapping(
        DEFAULTS
        | {
            "seed_everything": seed,
            "default_root_dir": str(folder / "runs"),
            "tiling": {"image_size": [SIDE, SIDE], "tile_size": TILE},
            "model": {"class_path": f"anomalib.models.{name}", "init_args": args},
            "data": data,
            "assignment": {"class_path": f"{STAGE}.assignment.{assignment}", "init_args": taken},
        }
    )


ARGUMENTS = {"Shared": ("tiles_per_image",), "Clusters": ("number",)}
CASES = {
    "textures": [
        ("Padim", "PerTile"),
        ("Padim", "Shared"),
        ("Padim", "Shared 4"),
        ("Patchcore 0.1", "PerTile"),
        ("Patchcore 0.1", "Shared 1"),
        ("Patchcore 0.025", "Shared 4"),
        ("Patchcore 0.00625", "Shared"),
    ],
    "boards": [
        ("Padim", "PerTile"),
        ("Padim", "Clusters 4"),
        ("Patchcore 0.1", "PerTile"),
        ("Patchcore 0.025", "Clusters 4"),
    ],
}
"""Cases for each kind of images; a shared model keeps as many features as a model of a tile does."""


@contextmanager
def _timed(spent: dict[str, float]) -> Iterator[None]:
    """Count the seconds of the processor that trainings take, and of them training steps and fits."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> object:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - started

        return call

    with (
        patch.object(train_tile, "train_tile", timed("training", train_tile.train_tile)),
        patch.object(Padim, "training_step", timed("extracting", Padim.training_step)),
        patch.object(Padim, "fit", timed("fitting", Padim.fit)),
        patch.object(Patchcore, "training_step", timed("extracting", Patchcore.training_step)),
        patch.object(Patchcore, "fit", timed("fitting", Patchcore.fit)),
    ):
        yield


def measured(settings: Settings) -> Found:
    """Train and test."""
    spent: dict[str, float] = defaultdict(float)
    observers = Observers(())
    with closing(prepare(settings, lambda _: None, tested=True)) as run, _timed(spent):
        started = time.process_time()
        fit(run, observers)
        spent["whole"] = time.process_time() - started
        test(run.without_left_out(), observers, data=None, output=None, report=False)
        folder = run.folder
    models = len([*folder.tiles.glob("r*_c*[0-9].json")])
    metrics = json.loads((folder.path / "metrics.json").read_text())
    own = sum(path.stat().st_size for path in folder.tiles.glob("r*.ckpt"))
    times = spent["training"], spent["extracting"], spent["fitting"], spent["whole"]
    return Found(models, metrics["image_AUROC"], metrics["pixel_AUPRO"], *times, own / 1e6)


def _print_row(case: Case, found: Found) -> None:
    times = f"{found.seconds:.1f} ({found.extracting:.1f} + {found.fitting:.1f})"
    quality = f"{found.image_auroc:.3f} / {found.pixel_aupro:.3f}"
    texts = case.images, case.model, case.assignment, str(found.models), quality, times
    print(f"| {' | '.join(texts)} | {found.whole:.1f} | {found.megabytes:.2f} |", flush=True)


def main() -> None:
    """Measure the cases, and print the table."""
    options = _options()
    torch.set_num_threads(1)
    for name in ("anomalib", "anomalib_tiled", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    columns = (
        "images",
        "model",
        "assignment",
        "models",
        "image AUROC / pixel AUPRO",
        "training (extracting + fitting), s",
        "fit, s",
        "MB",
    )
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    folder = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sharing.csv").open("a", newline="") as file:
        for images in options.images:
            for case in (Case(images, *each) for each in CASES["boards" if images == "boards" else "textures"]):
                if case.model not in (options.models or [case.model]):
                    continue
                if case.assignment not in (options.assignments or [case.assignment]):
                    continue
                found = measured(settings_of(case, options.backbone, folder, options.seed))
                shutil.rmtree(folder / "runs")
                _print_row(case, found)
                csv.writer(file).writerow((*vars(case).values(), *vars(found).values()))
                file.flush()


def _options() -> Namespace:
    parser = ArgumentParser(prog="benchmarks.sharing", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", default=["brick", "grass", "gravel", "boards"])
    parser.add_argument("--models", nargs="+", help="only these models, as in the table")
    parser.add_argument("--assignments", nargs="+", help="only these assignments, as in the table")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="name that timm knows, or local-dir:FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/sharing"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
