"""Faster arithmetic for parts of anomalib's models. Results differ from anomalib's by rounding alone.

    part                            what is done instead
    Gaussians of Padim              many positions at once, kept in half of their size or less (`ensemble/gaussians.py`)
    distances of Padim              from the Gaussians in that form
    features of Padim               the chosen ones are enlarged, not all
    Gaussian blur of maps           along the rows, then along the columns
    backbones from timm, on a CPU   channels next to each other in memory, as oneDNN computes; in predictions, and
                                    where Padim is trained

Each part is an object of the model, whose class is replaced by a subclass that overrides a method: its weights and
settings stay where they are, under the names of anomalib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.components.filters import GaussianBlur2d
from anomalib.models.components.stats import MultiVariateGaussian
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.padim.torch_model import PadimModel
from torch.nn import functional

from anomalib_tiled.ensemble.gaussians import BatchedGaussian, SummedDistances

if TYPE_CHECKING:
    from torch import nn

CHANNELS_LAST = torch.channels_last


class ChosenFeatures(PadimModel):
    """Padim, which uses a fixed random choice of the features of its backbone."""

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor | InferenceBatch:
        """Extract features in training, and predict otherwise; `ChannelsLast` says how, in training, too.

        Args:
            input_tensor: Tiles, shape (images, 3, height, width).
        """
        is_on_cpu = input_tensor.device.type == "cpu"
        return super().forward(input_tensor.contiguous(memory_format=CHANNELS_LAST) if is_on_cpu else input_tensor)

    def generate_embedding(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Choose features, enlarge those of smaller layers, and join them.

        Args:
            features: Features of each layer, shape (images, features, height, width).

        Returns:
            The chosen ones in their order, in the height and width of the first layer.
        """
        if torch.compiler.is_exporting():  # how many come from which layer is data
            return super().generate_embedding(features)
        size, first, chosen, places = features[self.layers[0]].shape[-2:], 0, [], []
        for layer in (features[name] for name in self.layers):
            place = ((self.idx >= first) & (self.idx < first + layer.shape[1])).nonzero()[:, 0]
            own = layer.index_select(1, self.idx[place] - first)
            chosen.append(own if own.shape[-2:] == size else functional.interpolate(own, size=size, mode="nearest"))
            places.append(place)
            first += layer.shape[1]
        return torch.cat(chosen, dim=1).index_select(1, torch.cat(places).argsort()).contiguous()


class SeparableBlur(GaussianBlur2d):
    """A Gaussian blur: the kernel is the product of a column and a row."""

    def forward(self, input_tensor: torch.Tensor) -> torch.Tensor:
        """Blur maps of shape (images, channels, height, width)."""
        if self.padding == "same":
            input_tensor = functional.pad(input_tensor, self.padding_shape, mode=self.border_type)
        row, column = self.kernel.sum(dim=2, keepdim=True), self.kernel.sum(dim=3, keepdim=True)
        row = row / row.sum(dim=3, keepdim=True)
        along_rows = functional.conv2d(input_tensor, row, groups=self.channels)
        return functional.conv2d(along_rows, column, groups=self.channels)


class ChannelsLast(TimmFeatureExtractor):
    """A backbone that predicts with the channels of a pixel next to each other in memory.

    In training it computes as anomalib's does: which patches PatchCore picks depends on the last digits.
    """

    def forward(self, inputs: torch.Tensor) -> dict[str | int, torch.Tensor]:
        """Extract features.

        Args:
            inputs: Shape (images, channels, height, width).

        Returns:
            The features of each layer, in the usual layout.
        """
        if not torch.is_inference_mode_enabled() or inputs.device.type != "cpu":
            return super().forward(inputs)
        features = super().forward(inputs.contiguous(memory_format=CHANNELS_LAST))
        return {name: each.contiguous() for name, each in features.items()}


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    MultiVariateGaussian: BatchedGaussian,
    AnomalyMapGenerator: SummedDistances,
    PadimModel: ChosenFeatures,
    GaussianBlur2d: SeparableBlur,
    TimmFeatureExtractor: ChannelsLast,
}
"""Which class of anomalib is replaced by which; objects of other subclasses stay."""


def accelerate(model: nn.Module) -> None:
    """Let the parts of a model compute faster.

    Args:
        model: The model.
    """
    for module in model.modules():
        if type(module) in FASTER:
            module.__class__ = FASTER[type(module)]
