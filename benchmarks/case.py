"""The case that all programs are measured on: the same drawn images, model and first weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain

MODELS: dict[str, dict[str, Plain]] = {
    "Padim": {"backbone": "resnet18"},
    "Patchcore": {"backbone": "resnet18"},
    "Fastflow": {"backbone": "resnet18"},
}
"""Models and their arguments. Backbones are small, because all is measured on processors."""

LEARN_BY_EPOCHS = ("Fastflow",)
"""Models that are trained by gradients; the others look at each training image once."""

SMOOTHING = {"sigma": 2, "width": 0.1}


@dataclass(frozen=True)
class Case:
    """Images and model of a measurement.

    Args:
        image_size: Side of the square images, in pixels.
        tile_size: Side of the square tiles, in pixels; they do not overlap.
        train: Number of training images.
        test: Number of test images, half of them anomalous; they are the validation images too.
        model: Name of the model.
        epochs: Epochs of models that are trained by gradients.
        train_batch: Training tiles that a model sees at a time.
        eval_batch: Validation and test images that are read at a time.
        seed: Seed of the weights and of the training.

    Raises:
        ValueError: The tiles do not fill the image, an image is missing, or the model is not one of those measured.
    """

    models: ClassVar[Collection[str]] = MODELS
    """Models that it may name."""

    image_size: int = 1024
    tile_size: int = 256
    train: int = 24
    test: int = 16
    model: str = "Padim"
    epochs: int = 2
    train_batch: int = 8
    eval_batch: int = 4
    seed: int = 42

    def __post_init__(self) -> None:
        """Check that this can be run."""
        if self.tile_size < 1 or self.image_size % self.tile_size:
            message = (
                "Tiles must fill the image without overlap: "
                f"image_size is {self.image_size}, tile_size is {self.tile_size}. "
                "Give an image_size that is a multiple of tile_size."
            )
            raise ValueError(message)
        for name, least in {"train": 2, "test": 2, "epochs": 1, "train_batch": 1, "eval_batch": 1}.items():
            if getattr(self, name) < least:
                message = f"{name} must be at least {least}, found {getattr(self, name)}. Raise --{name}."
                raise ValueError(message)
        if self.model not in self.models:
            message = f"model must be one of {', '.join(self.models)}, found {self.model!r}."
            raise ValueError(message)

    @property
    def tiles(self) -> int:
        """Number of tiles of an image."""
        return (self.image_size // self.tile_size) ** 2

    @property
    def name(self) -> str:
        """Name of folders and sections."""
        epochs = f"-{self.epochs}-epochs" if self.model in LEARN_BY_EPOCHS else ""
        batches = f"-batches-{self.train_batch}-{self.eval_batch}" if self._has_own_batches else ""
        return f"{self.model}{epochs}-{self.image_size}-{self.tile_size}-{self.train}-{self.test}{batches}"

    @property
    def title(self) -> str:
        """The case in words."""
        epochs = f", {self.epochs} epochs" if self.model in LEARN_BY_EPOCHS else ""
        side = f"{self.image_size} × {self.image_size} pixels in {self.tiles} tiles"
        batches = f", batches of {self.train_batch} and {self.eval_batch}" if self._has_own_batches else ""
        return f"{self.model}{epochs}, {side}, {self.train} training and {self.test} test images{batches}"

    @property
    def init_args(self) -> dict[str, Plain]:
        """Arguments of the model; weights are random, so that nothing is downloaded."""
        return {**MODELS[self.model], "pre_trained": False}

    @property
    def trainer(self) -> dict[str, Plain]:
        """Arguments of the trainer, besides where to run."""
        return {"max_epochs": self.epochs} if self.model in LEARN_BY_EPOCHS else {}

    def boards(self, output: Path) -> Path:
        """Draw the images unless they are there, and give their folder.

        Args:
            output: Folder that drawn images are kept in.
        """
        from anomalib_tiled.data import DemoBoards  # takes seconds

        anomalous = self.test // 2
        root = output.absolute() / "boards" / f"{self.image_size}-{self.train}-{self.test}"
        DemoBoards(root, self.image_size, self.train, self.test - anomalous, anomalous, drawing_seed=7).prepare_data()
        return root

    def data(self, boards: Path) -> dict[str, Plain]:
        """Give the data module, as a configuration holds it, with test images for validation.

        Args:
            boards: Folder of the drawn images.
        """
        kinds = sorted(path.name for path in (boards / "ground_truth").iterdir())
        folders = {
            "name": "boards",
            "root": str(boards),
            "normal_dir": "train/good",
            "normal_test_dir": "test/good",
            "abnormal_dir": [f"test/{kind}" for kind in kinds],
            "mask_dir": [f"ground_truth/{kind}" for kind in kinds],
        }
        splits = {"val_split_mode": "same_as_test", "test_split_mode": "from_dir"}
        batches = {"train_batch_size": self.train_batch, "eval_batch_size": self.eval_batch, "num_workers": 0}
        return {"class_path": "anomalib.data.Folder", "init_args": {**folders, **splits, **batches}}

    @property
    def _has_own_batches(self) -> bool:
        return (self.train_batch, self.eval_batch) != (Case.train_batch, Case.eval_batch)
