"""Demonstration images: aligned, high-resolution circuit boards with small defects, drawn on first use."""

from __future__ import annotations

from pathlib import Path

from anomalib.data import AnomalibDataModule, MVTecADDataset
from anomalib.data.utils import Split, TestSplitMode, ValSplitMode
from torchvision.transforms.v2 import Transform

from anomalib_tiled.data.board_folder import BoardSettings, draw_folder, is_drawn
from anomalib_tiled.grid import Size


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

    def prepare_data(self) -> None:
        """Draw the images unless the folder holds them already.

        Raises:
            DataError: The root holds boards drawn with other settings, or something else.
            StorageError: The disk is full or cannot be written.
        """
        if not is_drawn(self.root, self.settings):
            draw_folder(self.root, self.settings)

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = MVTecADDataset(self.root, category="", split=Split.TRAIN)
        self.test_data = MVTecADDataset(self.root, category="", split=Split.TEST)
