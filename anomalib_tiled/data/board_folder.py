"""A folder of demonstration images, laid out like MVTec AD; it is complete or does not exist."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from anomalib_tiled.data.board_defects import DEFECTS, spoil
from anomalib_tiled.data.board_drawing import Board, develop, manufacture, photograph, populate
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size

RECORD = "boards.json"
NORMAL = "good"

# Each series of images has its own random numbers, so more images in one change no image in another. The layout comes
# first; new kinds of defects go to the end.
_SERIES = ("layout", "train/good", "test/good", *(f"test/{kind}" for kind in DEFECTS))
_LEAST = {"train_images": 1, "normal_test_images": 0, "anomalous_test_images": 1, "drawing_seed": 0}
_MOST_IMAGES = 100_000
_SHORTEST_SIDE = 128
_LONGEST_SIDE = 8192
_FAST = 1


@dataclass(frozen=True)
class BoardSettings:
    """Settings that determine the drawing, and are recorded beside it.

    Args:
        image_size: Height and width of the images in pixels.
        train_images: Number of training images; they have no defects.
        normal_test_images: Number of test images without defects.
        anomalous_test_images: Number of test images with defects.
        drawing_seed: Seed of layout, light, noise and defects.
        version: Raised whenever the same settings draw other pictures than before.

    Raises:
        DataError: An image is too small or too large, there is nothing to train or test on, or a number is negative.
    """

    image_size: Size
    train_images: int
    normal_test_images: int
    anomalous_test_images: int
    drawing_seed: int
    version: int = 1

    def __post_init__(self) -> None:
        """Check that such boards can be drawn."""
        if min(self.image_size) < _SHORTEST_SIDE:
            message = (
                f"Boards must be at least {_SHORTEST_SIDE} pixels high and wide, but image_size is {self.image_size}. "
                "Raise image_size."
            )
            raise DataError(message)
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                message = f"{name} must be at least {least}, but is {getattr(self, name)}. Raise {name}."
                raise DataError(message)
        images = self.train_images + self.normal_test_images + self.anomalous_test_images
        if max(self.image_size) > _LONGEST_SIDE or images > _MOST_IMAGES:
            message = (
                f"There may be {_MOST_IMAGES} boards of at most {_LONGEST_SIDE} pixels a side, but the settings give "
                f"{images} of {self.image_size}. Lower image_size or the numbers of images."
            )
            raise DataError(message)

    def record(self) -> dict[str, object]:
        """Give the settings for the record."""
        return {**asdict(self), "image_size": list(self.image_size)}


class Shot(NamedTuple):
    """One image to draw.

    Args:
        subset: ``train`` or ``test``.
        label: ``good``, or the kind of its defects.
        number: Number among the images of this subset and label, from 0.
    """

    subset: str
    label: str
    number: int


def is_drawn(root: Path, settings: BoardSettings) -> bool:
    """Say whether boards with these settings exist already.

    Args:
        root: Folder of the images.
        settings: The requested settings.

    Returns:
        True if they do; False if the folder is missing or empty.

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


def draw_folder(root: Path, settings: BoardSettings) -> None:
    """Draw all images and masks into a temporary folder beside the root, then give it the root's name.

    Args:
        root: Folder of the images; missing or empty.
        settings: What to draw.

    Raises:
        StorageError: The disk is full or cannot be written.
    """
    root = root.absolute()
    with storage_errors(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as temporary:
            drawn = Path(temporary) / root.name
            _draw_all(drawn, settings)
            _rename(drawn, root, settings)


def draw_shot(
    board: Board, shot: Shot, *, seed: int, spoilt: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw one image.

    Args:
        board: The board to photograph.
        shot: The image; with the seed, it decides the places of parts, light, noise and defects.
        seed: Seed of all images.
        spoilt: Whether to draw the defects; without them, all else is the same.

    Returns:
        The image, shape (height, width, 3), and the mask of the pixels that defects change, shape (height, width).
    """
    places, light, damage = _random(seed, f"{shot.subset}/{shot.label}", shot.number).spawn(3)
    canvas = populate(board, places)
    if spoilt and shot.label != NORMAL:
        picture, mask = spoil(board, canvas, kind=shot.label, random=damage)
    else:
        picture = develop(canvas)
        mask = np.zeros(picture.shape[:2], dtype=np.bool_)
    return photograph(picture, light), mask


def draw_board(settings: BoardSettings) -> Board:
    """Draw everything that all images of these settings have in common."""
    return manufacture(settings.image_size, _random(settings.drawing_seed, "layout", 0))


def shots(settings: BoardSettings) -> list[Shot]:
    """List the images of these settings; the kinds of defects take turns."""
    kinds = list(DEFECTS)
    return [
        *(Shot("train", NORMAL, number) for number in range(settings.train_images)),
        *(Shot("test", NORMAL, number) for number in range(settings.normal_test_images)),
        *(
            Shot("test", kinds[number % len(kinds)], number // len(kinds))
            for number in range(settings.anomalous_test_images)
        ),
    ]


def _random(seed: int, series: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, _SERIES.index(series), number])


def _recorded(root: Path) -> dict[str, object]:
    with suppress(RunFolderError):
        return read_json(root / RECORD)
    message = (
        f"Boards need a new or empty folder, but {root} holds something else, without a readable {RECORD}. "
        "Give another root."
    )
    raise DataError(message)


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


def _rename(drawn: Path, root: Path, settings: BoardSettings) -> None:
    """Move the finished folder to its place; another process may have put the same there meanwhile."""
    try:
        if root.exists():
            root.rmdir()
        drawn.rename(root)
    except OSError:
        if not is_drawn(root, settings):
            raise
