"""Faster arithmetic for parts of anomalib's models. Results differ from anomalib's by rounding alone.

    part                            what is done instead
    Gaussians of Padim              many positions at once; through the images where there are fewer than features
    distances of Padim              one product that is summed as it is made, instead of two large ones
    features of Padim               the chosen ones are enlarged, not all
    Gaussian blur of maps           along the rows, then along the columns
    backbones from timm, on a CPU   channels next to each other in memory, as oneDNN computes; in predictions, and
                                    where Padim is trained

Each part is an object of the model, whose class is replaced by a subclass with another `forward`: its weights and
settings stay where they are, so checkpoints are those of anomalib.
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

if TYPE_CHECKING:
    from torch import nn

REGULARIZATION = 0.01 + 1e-5
"""What anomalib adds to the variances of Padim's Gaussians."""

CHANNELS_LAST = torch.channels_last

BLOCK = 2**19
"""Numbers in the matrices that are inverted at once on a CPU: two megabytes stay in a processor's cache."""

BLOCK_OF_GPU = 2**26
"""The same on a GPU, which needs many at once."""


class BatchedGaussian(MultiVariateGaussian):
    """Padim's Gaussians: of each position, from the features of all training images there."""

    def forward(self, embedding: torch.Tensor) -> list[torch.Tensor]:
        """Compute mean and inverse covariance of each position.

        Where images are fewer than half of the features, the inverse comes from a matrix of images by images
        (Woodbury's identity), which is faster, and nearer to the exact inverse; elsewhere by Cholesky's decomposition.
        Where rounding spoils either, and for a single image, anomalib's own way is taken.

        Args:
            embedding: Features, shape (images, features, height, width).

        Returns:
            The means, shape (features, positions), and the inverses, shape (positions, features, features).
        """
        images, features = embedding.shape[:2]
        vectors = embedding.reshape(images, features, -1)
        mean = vectors.mean(dim=0)
        inverses = vectors.new_empty(vectors.shape[-1], features, features)
        invert = _inverse_through_images if 2 * images < features else _inverse_by_cholesky
        rows = max((BLOCK if embedding.device.type == "cpu" else BLOCK_OF_GPU) // features**2, 1)
        for block, out in zip((vectors - mean).permute(2, 0, 1).split(rows), inverses.split(rows), strict=True):
            if images == 1 or not invert(block.contiguous(), out):
                return super().forward(embedding.contiguous())
        self.mean, self.inv_covariance = mean, inverses
        return [mean, inverses]


def _inverse_by_cholesky(deviations: torch.Tensor, out: torch.Tensor) -> bool:
    """Invert regularized covariances; False if rounding leaves one of them without a decomposition.

    Args:
        deviations: Features minus their mean, shape (positions, images, features).
        out: Takes the inverses, shape (positions, features, features).
    """
    covariance = torch.bmm(deviations.mT, deviations).div_(deviations.shape[1] - 1)
    covariance.diagonal(dim1=1, dim2=2).add_(REGULARIZATION)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    out.copy_(torch.cholesky_inverse(factor))
    return not failed.any()


def _inverse_through_images(deviations: torch.Tensor, out: torch.Tensor) -> bool:
    """The same by inverting matrices of images by images.

    With D for the deviations of n images, and r for the regularization, Woodbury's identity says

        (DᵀD / (n - 1) + r)⁻¹ = (1 - Dᵀ (DDᵀ + (n - 1) r)⁻¹ D) / r
    """
    gram = torch.bmm(deviations, deviations.mT)
    gram.diagonal(dim1=1, dim2=2).add_((deviations.shape[1] - 1) * REGULARIZATION)
    factor, failed = torch.linalg.cholesky_ex(gram)
    half = torch.linalg.solve_triangular(factor, deviations, upper=False)
    torch.bmm(half.mT, half, out=out).mul_(-1 / REGULARIZATION)
    out.diagonal(dim1=1, dim2=2).add_(1 / REGULARIZATION)
    return not failed.any()


class SummedDistances(AnomalyMapGenerator):
    """Padim's maps."""

    @staticmethod
    def compute_distance(embedding: torch.Tensor, stats: list[torch.Tensor]) -> torch.Tensor:
        """Compute Mahalanobis distances.

        Args:
            embedding: Features, shape (images, features, height, width).
            stats: Mean and inverse covariance of each position, as `BatchedGaussian` gives them.

        Returns:
            The distances, shape (images, 1, height, width).
        """
        (images, features, height, width), (mean, inverse) = embedding.shape, stats
        deviations = (embedding.reshape(images, features, height * width) - mean).permute(2, 0, 1).contiguous()
        squares: torch.Tensor = torch.linalg.vecdot(torch.bmm(deviations, inverse), deviations)
        return squares.mT.reshape(images, 1, height, width).clamp(0).sqrt()


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
