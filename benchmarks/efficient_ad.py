"""EfficientAD without downloads: a teacher with random weights, and drawn images for its penalty."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from benchmarks.case import Case

if TYPE_CHECKING:
    from collections.abc import Collection

    from anomalib_tiled.config.settings import Plain

MODEL = "EfficientAd"
CACHE = "XDG_CACHE_HOME"
"""Environment variable that says where anomalib looks for weights before it downloads them."""

PENALTY = "penalty"
"""Folder, in the one for caches, of folders of images that are nothing like the training images."""

IMAGES = 16
SIDE = 512
SEED = 42


@dataclass(frozen=True)
class EfficientAdCase(Case):
    """A case of EfficientAD, which learns by gradients and takes one image at a time.

    Args:
        penalty: Folder of folders of images for the penalty; the other arguments are those of `Case`.
    """

    models: ClassVar[Collection[str]] = (MODEL,)

    model: str = field(default=MODEL, init=False)
    epochs: int = field(default=1, init=False)
    train_batch: int = field(default=1, init=False)
    penalty: str = ""

    @property
    def init_args(self) -> dict[str, Plain]:
        """Arguments of the model."""
        return {"imagenet_dir": self.penalty}

    @property
    def trainer(self) -> dict[str, Plain]:
        """Arguments of the trainer, besides where to run."""
        return {"max_epochs": self.epochs}


def prepare(folder: Path) -> None:
    """Make all that anomalib would download, and let every command that starts from now on find it.

    Args:
        folder: Where it goes; it takes the place of the folder for caches.
    """
    os.environ[CACHE] = str(folder)
    _write_teacher()
    images, random = folder / PENALTY / "noise", np.random.default_rng(SEED)
    images.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(images / f"{number:02d}.png")


def _write_teacher() -> None:
    import torch  # takes seconds, and is needed only here
    from anomalib.models.image.efficient_ad.torch_model import EfficientAdModel, EfficientAdModelSize
    from anomalib.utils.path import get_pretrained_weights_dir

    torch.manual_seed(SEED)
    teacher = EfficientAdModel(384, EfficientAdModelSize.S).teacher
    path = get_pretrained_weights_dir() / "efficientad_pretrained_weights" / "pretrained_teacher_small.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(teacher.state_dict(), path)
