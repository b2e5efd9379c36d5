"""Demonstration images: aligned, high-resolution circuit boards with small defects, drawn on first use.

They are laid out like MVTec AD, in a folder that is complete or does not exist.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import Transform

from anomalib_tiled.data.board_defects import DEFECTS, spoil
from anomalib_tiled.data.board_drawing import Board, develop, manufacture, photograph, populate
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.grid import Size
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.progress import track

RECORD = "boards.json"
NORMAL = "good"

# Each series of images has its own random numbers, so more images in one change no image in another. The layout comes
# first; new kinds of defects go to the end.
_SERIES = ("layout", "train/good", "test/good", *(f"test/{kind}" for kind in DEFECTS))
_LEAST = {"train_images": 1, "normal_test_images": 0, "anomalous_test_images": 1, "drawing_seed": 0}
_MOST_IMAGES = 100_000
_SIDES = range(128, 8193)
_FAST = 1


class BoardSettings(NamedTuple):
    """What determines the drawing; `version` is raised whenever the same settings draw other pictures than before."""

    image_size: Size
    train_images: int
    normal_test_images: int
    anomalous_test_images: int
    drawing_seed: int
    version: int = 1

    def check(self) -> None:
        """Check that such boards can be drawn.

        Raises:
            DataError: An image is too small or too large, or there are too few or too many.
        """
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                message = f"{name} must be at least {least}, but is {getattr(self, name)}. Raise {name}."
                raise DataError(message)
        images = self.train_images + self.normal_test_images + self.anomalous_test_images
        if not all(side in _SIDES for side in self.image_size) or images > _MOST_IMAGES:
            message = (
                f"There may be {_MOST_IMAGES} boards of {_SIDES[0]} to {_SIDES[-1]} pixels a side, but the settings "
                f"give {images} of {self.image_size}. Change image_size or the numbers of images."
            )
            raise DataError(message)

    def record(self) -> dict[str, object]:
        """Give the settings as they are recorded beside the images."""
        return {**self._asdict(), "image_size": [*self.image_size]}


class DemoBoards(AnomalibDataModule):
    """Draw circuit boards the first time they are needed, and read them like MVTec AD.

    All images show the same layout; light, tint, sensor noise and the exact place of each part differ. Defects are
    small: scratches, missing parts, solder bridges, burnt spots and cut traces, one to three of one kind per anomalous
    image. Masks hold exactly the pixels that a defect changes.

    Args:
        root: Folder of the images; they are drawn if it is missing or empty.
        image_size: Height and width of the images in pixels; one number for square images.
        train_images: Number of training images; they have no defects.
        normal_test_images: Number of test images without defects.
        anomalous_test_images: Number of test images with defects; the kinds take turns.
        drawing_seed: Seed of the pictures, independent of ``seed``.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation and test batch.
        num_workers: Processes that read images.
        train_augmentations: Augmentations of the training images.
        val_augmentations: Augmentations of the validation images.
        test_augmentations: Augmentations of the test images.
        augmentations: Augmentations of subsets without their own.
        test_split_mode: How the test set is made.
        test_split_ratio: Fraction of the training images used for testing if there are no normal test images.
        val_split_mode: How the validation set is made. By default a part of the test images is set aside, so that
            thresholds are not tuned on what they are tested with.
        val_split_ratio: Fraction of images set aside for validation.
        seed: Seed of the splits.

    Raises:
        DataError: The settings cannot be drawn, or ``root`` holds something else.

    Example:
        >>> boards = DemoBoards(root="boards", image_size=(768, 1280))
        >>> boards.prepare_data()
        >>> boards.setup()
        >>> boards.train_data[0].image.shape
        torch.Size([3, 768, 1280])
    """

    def __init__(  # noqa: PLR0913, PLR0917 (flat, as in all data modules of anomalib)
        self,
        root: Path | str = "./datasets/DemoBoards",
        image_size: tuple[int, int] | int = (1024, 1024),
        train_images: int = 24,
        normal_test_images: int = 8,
        anomalous_test_images: int = 8,
        drawing_seed: int = 7,
        train_batch_size: int = 8,
        eval_batch_size: int = 4,
        num_workers: int = 0,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.FROM_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.save_hyperparameters(logger=False)  # so that an object can be written down as a configuration
        self.root = Path(root)
        self.settings = BoardSettings(
            Size(image_size, image_size) if isinstance(image_size, int) else Size(*image_size),
            train_images,
            normal_test_images,
            anomalous_test_images,
            drawing_seed,
        )
        self.settings.check()

    def prepare_data(self) -> None:
        """Draw the images unless the folder holds them already.

        Raises:
            DataError: The root holds boards drawn with other settings, or something else.
            StorageError: The disk is full or cannot be written.
        """
        if not _is_drawn(self.root, self.settings):
            _draw_folder(self.root.absolute(), self.settings)

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = MVTecADDataset(self.root, category="", split=Split.TRAIN)
        self.test_data = MVTecADDataset(self.root, category="", split=Split.TEST)


class Shot(NamedTuple):
    """One image to draw: ``train`` or ``test``; ``good`` or the kind of its defects; its number among these, from 0."""

    subset: str
    label: str
    number: int


def shots(settings: BoardSettings) -> list[Shot]:
    """List the images of these settings; the kinds of defects take turns."""
    kinds, anomalous = list(DEFECTS), range(settings.anomalous_test_images)
    return [
        *(Shot("train", NORMAL, number) for number in range(settings.train_images)),
        *(Shot("test", NORMAL, number) for number in range(settings.normal_test_images)),
        *(Shot("test", kinds[number % len(kinds)], number // len(kinds)) for number in anomalous),
    ]


def draw_board(settings: BoardSettings) -> Board:
    """Draw everything that all images of these settings have in common."""
    return manufacture(settings.image_size, _random(settings.drawing_seed, "layout", 0))


def draw_shot(board: Board, shot: Shot, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one image.

    Args:
        board: The board to photograph.
        shot: The image; with the seed, it decides the places of parts, light, noise and defects.
        seed: Seed of all images.

    Returns:
        The image, shape (height, width, 3), and the mask of the pixels that defects change, shape (height, width).
    """
    places, light, damage = _random(seed, f"{shot.subset}/{shot.label}", shot.number).spawn(3)
    canvas = populate(board, places)
    if shot.label == NORMAL:
        picture = develop(canvas)
        mask = np.zeros(picture.shape[:2], dtype=np.bool_)
    else:
        picture, mask = spoil(board, canvas, kind=shot.label, random=damage)
    return photograph(picture, light), mask


def _random(seed: int, series: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, _SERIES.index(series), number])


def _is_drawn(root: Path, settings: BoardSettings) -> bool:
    """Whether boards with these settings are there; false if the folder is missing or empty.

    Raises:
        DataError: The folder holds boards drawn with other settings, or something else.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found, requested = _recorded(root), settings.record()
    differences = [
        f"{name} is {found.get(name)} there, not {requested.get(name)}"
        for name in {**requested, **found}
        if found.get(name) != requested.get(name)
    ]
    if differences:
        message = (
            f"{root} must hold boards with the requested settings, but has others: {'; '.join(differences)}. "
            "Give another root, or delete the folder to draw it again."
        )
        raise DataError(message)
    return True


def _recorded(root: Path) -> dict[str, object]:
    with suppress(RunFolderError):
        return read_json(root / RECORD)
    message = (
        f"Boards need a new or empty folder, but {root} holds something else, without a readable {RECORD}. "
        "Give another root."
    )
    raise DataError(message)


def _draw_folder(root: Path, settings: BoardSettings) -> None:
    """Draw all images and masks into a temporary folder beside the root, then give it the root's name.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    with storage_errors(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
            _draw_all(drawn := Path(temporary) / root.name, settings)
            try:
                drawn.replace(root)
            except OSError:
                if not _is_drawn(root, settings):  # another process may have put the same there meanwhile
                    raise


def _draw_all(folder: Path, settings: BoardSettings) -> None:
    board = draw_board(settings)
    for shot in track(shots(settings), "Drawing boards"):
        image, mask = draw_shot(board, shot, seed=settings.drawing_seed)
        _save(image, folder / shot.subset / shot.label / f"{shot.number:03d}.png")
        if shot.label != NORMAL:
            _save(mask, folder / "ground_truth" / shot.label / f"{shot.number:03d}_mask.png")
    write_json(folder / RECORD, settings.record())


def _save(pixels: NDArray[np.uint8] | NDArray[np.bool_], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8) * np.uint8(255) if pixels.dtype == np.bool_ else pixels)
    image.save(path, compress_level=_FAST)
