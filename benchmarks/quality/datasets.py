"""The data sets: which motif, how parts lie, how many images; drawn into folders as anomalib reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from anomalib_tiled.data.board_drawing import photograph
from anomalib_tiled.grid import Size
from benchmarks.quality.defects import Pixels
from benchmarks.quality.motifs import Motif, Photograph, Texture
from benchmarks.quality.plate import Plate

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain

VISIBLE = 8
"""Smallest change of a colour channel, of 255 steps, that belongs to a mask."""

PHOTOGRAPHS = ("motorcycle_left.png", "coffee.png", "astronaut.png")


@dataclass(frozen=True)
class Placement:
    """How differently parts lie.

    Args:
        shift: Largest shift in each direction, in pixels.
        turn: Largest rotation around the middle of the image, in degrees.
    """

    shift: float = 0
    turn: float = 0

    def view(self, random: Generator) -> Callable[[Pixels, Motif], Pixels]:
        """Choose a place, and give the function that shows the middle of a canvas in it."""
        x, y = random.uniform(-self.shift, self.shift, size=2)
        angle = np.deg2rad(random.uniform(-self.turn, self.turn))

        def seen(canvas: Pixels, motif: Motif) -> Pixels:
            return _moved(canvas, motif, (x, y), angle)

        return seen


@dataclass(frozen=True)
class Counts:
    """Numbers of images.

    Args:
        train: Training images.
        validation: Validation images of each label; thresholds are found on them.
        test: Test images of each label.
    """

    train: int = 24
    validation: int = 10
    test: int = 30


@dataclass(frozen=True)
class DataSet:
    """A data set; each seed has another motif, place of parts and defects.

    Args:
        title: What it is, for tables.
        motif: Gives the motif of a seed; a texture looks different by its crops.
        tile: Side of the tiles in pixels.
        placement: How differently parts lie.
    """

    title: str
    motif: Callable[[int], Motif]
    tile: int
    placement: Placement = Placement()

    def draw(self, root: Path, counts: Counts, seed: int) -> dict[str, Plain]:
        """Draw the images unless they are there, and give the data module as a configuration holds it.

        Args:
            root: Folder of the images.
            counts: Numbers of images.
            seed: Decides everything.
        """
        motif = self.motif(seed)
        if not root.exists():
            root.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=root.parent) as temporary:  # an interrupted drawing leaves nothing
                for folder, image in self._images(motif, counts, np.random.default_rng(seed)):
                    _add(Path(temporary, root.name, folder), image)
                Path(temporary, root.name).rename(root)
        folders = {
            "name": root.name,
            "root": str(root),
            "normal_dir": "train/good",
            "normal_test_dir": "test/good",
            "abnormal_dir": [f"test/{kind}" for kind in motif.kinds],
            "mask_dir": [f"ground_truth/{kind}" for kind in motif.kinds],
        }
        share = counts.validation / (counts.validation + counts.test)
        splits = {"val_split_mode": "from_test", "val_split_ratio": share, "test_split_mode": "from_dir"}
        batches = {"train_batch_size": 8, "eval_batch_size": 8, "num_workers": 0}
        return {"class_path": "anomalib.data.Folder", "init_args": {**folders, **splits, **batches}}

    def _images(self, motif: Motif, counts: Counts, random: Generator) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Draw images and masks, with the folder of each."""
        for folder, count in ("train/good", counts.train), ("test/good", counts.validation + counts.test):
            for _ in range(count):
                picture = motif.normal(random)
                yield folder, photograph(self.placement.view(random)(picture, motif), random)
        for number in range(counts.validation + counts.test):
            kind = motif.kinds[number % len(motif.kinds)]
            picture = motif.normal(random)
            seen = self.placement.view(random)
            before, after = (seen(each, motif) for each in (picture, motif.spoilt(picture, kind, random)))
            mask = np.abs(after.astype(np.int16) - before).max(axis=2) >= VISIBLE
            yield f"test/{kind}", photograph(after, random)
            yield f"ground_truth/{kind}", mask.astype(np.uint8) * 255


def _moved(canvas: Pixels, motif: Motif, shift: tuple[float, float], angle: float) -> Pixels:
    """Show the middle of a canvas, turned around it and shifted; what lies at its place already is not resampled."""
    (height, width), margin = motif.size, motif.margin
    if shift == (0, 0) and angle == 0:
        return canvas[margin : margin + height, margin : margin + width]
    x, y = (canvas.shape[1] / 2, canvas.shape[0] / 2)
    cosine, sine = np.cos(angle), np.sin(angle)
    left, top = shift[0] - width / 2, shift[1] - height / 2
    matrix = (cosine, -sine, x + cosine * left - sine * top, sine, cosine, y + sine * left + cosine * top)
    moved = Image.fromarray(canvas).transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(moved)


def _add(folder: Path, image: NDArray[np.uint8]) -> None:
    """Write an image under the next number."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{len(list(folder.iterdir())):03}.png", compress_level=1)


def _photograph(seed: int) -> Motif:
    return Photograph(Size(384, 576), margin=20, name=PHOTOGRAPHS[seed % len(PHOTOGRAPHS)])


def _brick(seed: int) -> Motif:
    del seed
    return Texture(Size(384, 384), name="brick.png")


def _gravel(seed: int) -> Motif:
    del seed
    return Texture(Size(384, 384), name="gravel.png")


def _plate(seed: int) -> Motif:
    return Plate(Size(576, 576), margin=40, frame=40, seed=seed)


DATA_SETS = {
    "aligned": DataSet("photographs, aligned", _photograph, tile=96),
    "shifted": DataSet(
        "photographs, shifted by up to 6 pixels and turned by up to 2 degrees", _photograph, 96, Placement(6, 2)
    ),
    "brick": DataSet("texture of bricks, nothing aligned", _brick, tile=96),
    "gravel": DataSet("texture of gravel, nothing aligned", _gravel, tile=96),
    "plate": DataSet("plate with a hundred components, still", _plate, tile=144),
    "moved-plate": DataSet(
        "plate with a hundred components, shifted by up to 24 pixels and turned by up to 2.5 degrees",
        _plate,
        144,
        Placement(24, 2.5),
    ),
}
