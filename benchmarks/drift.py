"""How often `check` finds a drift: in undisturbed images, and in images that a light or a lens disturbs.

Circuit boards are drawn; crops of a photograph are cut out at places and lights that vary a little, with noise. How
images look is measured as by `predict`. Scores of the crops come from a small run that is fitted on them and predicts
them; those of the boards, to save hours, from a Gaussian for each pixel. References and batches are drawn from these
images without replacement, so no image of a batch is in its reference. Prints Markdown tables.

    python benchmarks/drift.py --folder drift --batches 200
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import yaml
from numpy.typing import NDArray
from PIL import Image

from anomalib_tiled.cli.main import main as command
from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.data.board_defects import spoil
from anomalib_tiled.data.board_drawing import develop, photograph, populate
from anomalib_tiled.data.boards import BoardSettings, draw_board
from anomalib_tiled.drift.check import drift_of
from anomalib_tiled.drift.comparison import Comparison, windows_of
from anomalib_tiled.drift.findings import Drift
from anomalib_tiled.drift.predicted import PredictedNumbers
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.runs.drift_reference import DriftReference

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]
Disturb = Callable[[Pixels], Pixels]
Draw = Callable[[np.random.Generator, Disturb, str], Pixels]

BOARD, CROP = Size(256, 320), Size(128, 160)
"""Sizes of the images in pixels; each has 4 x 4 tiles."""

DISTURBED = 50
"""Images in which a disturbance must be found."""

NEAR = 5
"""Images that the beginning of a drift may be off."""

TRAINING, CALIBRATION, DEFECTS = "training", "calibration", "defects"
NORMAL, ANOMALOUS = "normal", "anomalous"
FITTED = {TRAINING: 30, CALIBRATION: 10, DEFECTS: 10}
"""Images that a run is fitted on."""

DISTURBANCES: dict[str, tuple[str, Disturb]] = {
    "light fades by 10 %": ("brightness", lambda image: np.rint(image * 0.9).astype(np.uint8)),
    "lens blurs by 1 pixel": ("sharpness", lambda image: np.asarray(cv2.GaussianBlur(image, (0, 0), 1), np.uint8)),
}
"""Each with the field of `Appearance` that must show it."""


def board_drawing() -> Draw:
    """Give the function that draws circuit boards of one layout."""
    board = draw_board(BoardSettings(BOARD, 1, 1, 1, 7))

    def draw(random: np.random.Generator, disturb: Disturb, kind: str) -> Pixels:
        canvas = populate(board, random)
        spoiled = spoil(board, canvas, kind="scratch", random=random)[0] if kind == ANOMALOUS else develop(canvas)
        return photograph(disturb(spoiled), random)

    return draw


def crop_of_photograph() -> Draw:
    """Give the function that cuts one place out of a photograph."""
    photo = skimage.data.coffee()  # type: ignore[no-untyped-call]

    def draw(random: np.random.Generator, disturb: Disturb, kind: str) -> Pixels:
        top, left = np.array([130, 200]) + random.integers(0, 3, size=2)
        crop = photo[top : top + CROP.height, left : left + CROP.width] * random.uniform(0.97, 1.03)
        if kind in {ANOMALOUS, DEFECTS}:
            y, x = random.integers(10, 100, size=2)
            crop[y : y + 12, x : x + 12] = random.choice([0, 250])
        seen = disturb(crop.clip(0, 255).astype(np.uint8))
        return np.asarray((seen + random.normal(0, 3, seen.shape)).clip(0, 255), np.uint8)

    return draw


@dataclass(frozen=True)
class Scene:
    """Images of one kind, drawn once.

    Args:
        names: Of the numbers of an image: its score, how it looks, then its tiles.
        numbers: Numbers of normal and anomalous images and of those with each disturbance, shape (images, names).
    """

    names: Sequence[str]
    numbers: dict[str, Numbers]


def main() -> None:
    """Draw, score, and print the tables."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, required=True, help="for images and the run; what is there is used again"
    )
    parser.add_argument("--batches", type=int, default=200, help="batches for each number")
    parser.add_argument("--pool", type=int, default=800, help="undisturbed images of each kind")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 200], help="sizes of reference and batch")
    options = parser.parse_args()
    numbers = {NORMAL: options.pool, ANOMALOUS: 20, **dict.fromkeys(DISTURBANCES, 2 * DISTURBED)}
    scenes = {"boards": drawn_boards(numbers), "crops": predicted_crops(options.folder, numbers)}
    print_false_alarms(scenes, options.batches, options.sizes)
    print_found(scenes, options.batches, options.sizes)


def drawn_boards(numbers: dict[str, int]) -> Scene:
    """Draw boards; the score of a tile is how far its farthest pixel is from the mean, in standard deviations."""
    draw, grid = board_drawing(), TileGrid(BOARD, Size(64, 80), Size(64, 80))
    images = {kind: [*images_of(draw, kind, number)] for kind, number in (numbers | {TRAINING: 60}).items()}
    smooth = {
        kind: [cv2.GaussianBlur(image, (0, 0), 1).astype(np.float32) for image in each] for kind, each in images.items()
    }
    mean, deviation = np.mean(smooth[TRAINING], axis=0), np.std(smooth[TRAINING], axis=0) + 1

    def measured(image: Pixels, smoothed: NDArray[np.float32]) -> list[float]:
        apart = np.abs((smoothed - mean) / deviation).max(axis=2)
        tiles = [float(apart[tile.rows, tile.columns].max()) for tile in grid.tiles]
        return [max(tiles), *Appearance.of(image).to_json().values(), *tiles]

    return Scene(
        names_of(grid),
        {kind: np.array([*map(measured, images[kind], smooth[kind])]) for kind in numbers},
    )


def predicted_crops(folder: Path, numbers: dict[str, int]) -> Scene:
    """Cut out crops, fit a run and predict; the numbers are those of the lines."""
    draw = crop_of_photograph()
    for kind, number in (FITTED | numbers).items():
        if not (folder / kind).exists():
            (folder / kind).mkdir(parents=True)
            for place, image in enumerate(images_of(draw, kind, number)):
                Image.fromarray(image).save(folder / kind / f"{place:04d}.png")
    run = folder / "results" / "Padim" / "crops" / "v0"
    if not run.exists():
        (folder / "config.yaml").write_text(yaml.safe_dump(configuration(folder)), encoding="utf-8")
        do("fit", "--config", str(folder / "config.yaml"))
    found = {}
    for kind in numbers:
        output = folder / "found" / kind
        if not output.exists():
            do("predict", "--ckpt_dir", str(run), "--data", str(folder / kind), "--output", str(output))
        lines = map(json.loads, (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
        found[kind] = np.array(
            [[line["pred_score"], *line["appearance"].values(), *line["tiles"].values()] for line in lines]
        )
    return Scene(names_of(TileGrid(CROP, Size(32, 40), Size(32, 40))), found)


def names_of(grid: TileGrid) -> list[str]:
    """Give the names of the numbers of an image."""
    return ["score", "brightness", "contrast", "sharpness", *(tile.name for tile in grid.tiles)]


def images_of(draw: Draw, kind: str, number: int) -> Iterator[Pixels]:
    """Draw images of a kind, each from a seed of its own."""
    kinds = [*FITTED, NORMAL, ANOMALOUS, *DISTURBANCES]
    _, disturb = DISTURBANCES.get(kind, ("", lambda image: image))
    for image in range(number):
        yield draw(np.random.default_rng([kinds.index(kind), image]), disturb, kind)


def do(*arguments: str) -> None:
    """Run a command."""
    if (status := command(arguments)) != 0:
        message = f"{arguments[0]} ended with status {status}."
        raise RuntimeError(message)


def configuration(folder: Path) -> dict[str, object]:
    """Give the configuration of the small run."""
    model = {"pre_trained": False, "layers": ["layer1", "layer2"], "n_features": 20}
    data = {"name": "crops", "root": str(folder), "normal_dir": TRAINING, "normal_test_dir": CALIBRATION}
    data |= {"abnormal_dir": DEFECTS, "val_split_mode": "same_as_test"}
    return {
        "default_root_dir": str(folder / "results"),
        "tiling": {"tile_size": [32, 40]},
        "model": {"class_path": "Padim", "init_args": model},
        "data": {"class_path": "Folder", "init_args": data},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
    }


def print_false_alarms(scenes: dict[str, Scene], batches: int, sizes: Sequence[int]) -> None:
    """Print how many undisturbed batches are said to have drifted."""
    print("| images | reference | batch | false alarms | with 3 % anomalous images |")
    print("|---|---|---|---|---|")
    for (name, scene), images, new in product(scenes.items(), sizes, sizes):
        alarms = [
            sum(undisturbed(scene, seed, images, new, share).has_drifted for seed in range(batches))
            for share in (0, 0.03)
        ]
        print(f"| {name} | {images} | {new} | {alarms[0]} of {batches} | {alarms[1]} of {batches} |", flush=True)


def print_found(scenes: dict[str, Scene], batches: int, sizes: Sequence[int]) -> None:
    """Print how many disturbances are found, named by what they change, and dated, give or take `NEAR` images."""
    print(f"\n| disturbance of the last {DISTURBED} images | images | reference | found | named | dated |")
    print("|---|---|---|---|---|---|")
    for (kind, (shown_by, _)), (name, scene), images in product(DISTURBANCES.items(), scenes.items(), sizes):
        found = named = dated = 0
        for seed in range(batches):
            drift, before = disturbed(scene, seed, images, kind)
            words = [each.words for each in drift.findings if each.has_moved and each.quantity == shown_by]
            found, named = found + drift.has_drifted, named + len(words)
            dated += sum(abs(beginning(each) - before) <= NEAR for each in words)
        cells = " | ".join(f"{number} of {batches}" for number in (found, named, dated))
        print(f"| {kind} | {name} | {images} | {cells} |", flush=True)


def undisturbed(scene: Scene, seed: int, images: int, new: int, share: float) -> Drift:
    """Check a batch of undisturbed images, a share of which is anomalous."""
    random = np.random.default_rng(seed)
    known, batch = drawn(scene, random, images, new)
    anomalous = scene.numbers[ANOMALOUS]
    places = random.choice(new, round(share * new), replace=False)
    batch[places] = anomalous[random.choice(len(anomalous), len(places), replace=False)]
    return checked(scene, known, batch)


def disturbed(scene: Scene, seed: int, images: int, kind: str) -> tuple[Drift, int]:
    """Check a batch that ends with disturbed images; say how many undisturbed ones come before them."""
    random = np.random.default_rng(seed)
    before = int(random.integers(0, 100))
    known, batch = drawn(scene, random, images, before)
    late = scene.numbers[kind]
    return checked(
        scene, known, np.concatenate([batch, late[random.choice(len(late), DISTURBED, replace=False)]])
    ), before


def drawn(scene: Scene, random: np.random.Generator, images: int, new: int) -> tuple[Numbers, Numbers]:
    """Draw a reference and a batch that have no image in common."""
    normal = scene.numbers[NORMAL]
    chosen = normal[random.choice(len(normal), images + new, replace=False)]
    return chosen[:images], chosen[images:]


def checked(scene: Scene, known: Numbers, batch: Numbers) -> Drift:
    """Check a batch as the command does."""
    columns = dict(zip(scene.names, known.T, strict=True))
    looks, tiles = ({name: columns[name] for name in part} for part in (scene.names[1:4], scene.names[4:]))
    reference = DriftReference("val", "", columns["score"], looks, tiles, {})
    images = PredictedNumbers([*map(str, range(len(batch)))], batch, 0)
    return drift_of(Comparison(reference, images, windows_of(len(batch))))


def beginning(words: str) -> int:
    """Read from a sentence how many images come before a drift."""
    _, _, rest = words.partition(" It began at image ")
    return int(rest.split(maxsplit=1)[0]) - 1 if rest else 0


if __name__ == "__main__":
    main()
