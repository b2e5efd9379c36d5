"""The augmentations of test images as a part of an export."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torchvision.transforms.v2 import Compose
from torchvision.tv_tensors import Image

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.comparison import TOLERANCE, distance
from anomalib_tiled.export.modules import explaining, scaled
from anomalib_tiled.export.tracing import graph_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torchvision.transforms.v2 import Transform

    from anomalib_tiled.export.formats import Format
    from anomalib_tiled.grid import Size

ADVICE = (
    "Predict with `anomalib tiled predict`; or fit a run whose data module has train_augmentations instead of "
    "augmentations, and no test_augmentations, so that predicted images are not augmented."
)


class Augmenting(nn.Module):
    """The augmentations of test images, which ``predict`` applies to every image, one by one.

    Args:
        change: The augmentations.
    """

    def __init__(self, change: Transform) -> None:
        super().__init__()
        self.change = change
        parts = change.transforms if isinstance(change, Compose) else [change]
        self.names = [type(each).__name__ for each in parts]

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Augment one image, for a graph.

        Args:
            images: The image, shape (1, 3, height, width).
        """
        with self._naming():
            return {"images": self.change(scaled(images)[0])[None]}

    def of_each(self, images: torch.Tensor) -> torch.Tensor:
        """Augment images one by one, as ``predict`` does.

        Args:
            images: Images, shape (batch, 3, height, width).
        """
        changed = [self.change(Image(image)).as_subclass(torch.Tensor) for image in scaled(images)]
        return torch.stack(changed)

    def check(self, size: Size, form: Format, folder: Path) -> None:
        """Check that the augmentations can be exported, before any tile model is loaded.

        Args:
            size: Size of the images.
            form: The format.
            folder: Where files may be written.

        Raises:
            ConfigurationError: They draw random numbers, change image sizes, or cannot be traced by PyTorch.
        """
        images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
        before = _randomness()
        with self._naming():
            expected = self.of_each(images)
        if _randomness() != before:
            message = self.refused("they draw random numbers, so every prediction differs")
            raise ConfigurationError(message)
        if expected.shape != images.shape:
            height, width = expected.shape[-2:]
            message = self.refused(f"they must keep the size of images, {size}, but give {height} x {width}")
            raise ConfigurationError(message)
        graph = graph_of(self, {"images": images}, any_batch=False)
        path = folder / f"augmentations{form.suffix}"
        form.write(graph, path)
        found = form.load(graph, path)({"images": images.numpy()})["images"]
        if not distance(expected.numpy(), found) <= TOLERANCE:
            message = self.refused("the graph that PyTorch traces computes something else")
            raise ConfigurationError(message)

    def _naming(self) -> AbstractContextManager[None]:
        return explaining(lambda reason: self.refused(reason.removesuffix(".")))

    def refused(self, reason: str) -> str:
        """Make the message that the augmentations cannot be exported, with advice.

        Args:
            reason: Why not, without a full stop.
        """
        return f"The augmentations of test images ({', '.join(self.names)}) cannot be exported: {reason}. {ADVICE}"


def _randomness() -> tuple[object, ...]:
    """Give the states of the random number generators of Python, NumPy and PyTorch."""
    name, keys, *place = np.random.get_state()  # noqa: NPY002  # what augmentations draw from
    return random.getstate(), name, np.asarray(keys).tobytes(), *place, torch.get_rng_state().numpy().tobytes()
