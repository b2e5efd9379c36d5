"""Padim's Gaussians: fitted many positions at once, and kept in half of their size or less.

The inverse covariance of n features at each position is kept in one of three forms, which its shape tells:

    shape                       form
    (positions, images, n)      H, with inverse = (1 - HᵀH) / r, where images are fewer than half of the features
    (positions, n + 1, n / 2)   else the triangle of the inverse, in LAPACK's rectangular full packed format; for odd n
                                (positions, n, (n + 1) / 2)
    (positions, n, n)           the inverse itself, as anomalib keeps it

Distances are computed from each form as it is.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from anomalib.models.components.stats import MultiVariateGaussian
from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from anomalib_tiled.runs.checkpoints import Weights

MATRICES = 3
"""Dimensions of a tensor of matrices."""

REGULARIZATION = 0.01 + 1e-5
"""What anomalib adds to the variances of Padim's Gaussians: r."""

BLOCK = 2**19
"""Numbers in the matrices that a CPU works on at once: two megabytes stay in a processor's cache."""

BLOCK_OF_GPU = 2**26
"""The same on a GPU, which needs many at once."""


class BatchedGaussian(MultiVariateGaussian):
    """Padim's Gaussians: of each position, from the features of all training images there."""

    def forward(self, embedding: torch.Tensor) -> list[torch.Tensor]:
        """Compute mean and inverse covariance of each position.

        Where images are fewer than half of the features, the inverse comes from a matrix of images by images
        (Woodbury's identity), which is faster, and nearer to the exact inverse; elsewhere by Cholesky's decomposition.
        Where rounding spoils either, for a single image, and on Apple's GPUs, anomalib's own way is taken.

        Args:
            embedding: Features, shape (images, features, height, width).

        Returns:
            The means, shape (features, positions), and the inverses, in a form of this module.
        """
        images, features = embedding.shape[:2]
        embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))  # half has no decompositions
        if images == 1 or embedding.device.type == "mps":  # which lacks double precision
            return super().forward(embedding.contiguous())
        vectors = embedding.reshape(images, features, -1)
        mean = vectors.mean(dim=0)
        through_images = 2 * images < features
        invert = _half_through_images if through_images else _triangle_by_cholesky
        rows, columns = (images, features) if through_images else _shape_of_triangle(features)
        inverses = vectors.new_empty(vectors.shape[-1], rows, columns)
        at_once = _positions_at_once(vectors.permute(2, 0, 1))
        blocks = zip(vectors.split(at_once, dim=2), mean.split(at_once, dim=1), inverses.split(at_once), strict=True)
        for block, of_block, out in blocks:
            if not invert((block - of_block).permute(2, 0, 1).contiguous(), out):
                return super().forward(embedding.contiguous())
        self.mean, self.inv_covariance = mean, inverses
        return [mean, inverses]


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
        if inverse.shape[-1] != features:
            squares = _squares_by_triangle(deviations, inverse)
        elif inverse.shape[-2] != features:
            rest = torch.baddbmm(deviations, torch.bmm(deviations, inverse.mT), inverse, alpha=-1)
            squares = torch.linalg.vecdot(rest, deviations) / REGULARIZATION
        else:
            squares = torch.linalg.vecdot(torch.bmm(deviations, inverse), deviations)
        return squares.mT.reshape(images, 1, height, width).clamp(0).sqrt()


def inverses_of(mean: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Give inverse covariances as anomalib keeps them.

    Args:
        mean: Means, shape (features, positions).
        kept: The inverses in any form.

    Returns:
        Shape (positions, features, features).
    """
    features = mean.shape[0]
    if kept.shape[-1] != features:
        return _unpacked(kept, features)
    if kept.shape[-2] != features:
        full = torch.bmm(kept.mT, kept).mul_(-1 / REGULARIZATION)
        full.diagonal(dim1=1, dim2=2).add_(1 / REGULARIZATION)
        return full
    return kept


def as_anomalib_keeps(weights: Weights) -> Weights:
    """Give weights of a model with inverse covariances as anomalib keeps them.

    Args:
        weights: Weights by their names.
    """
    full = dict(weights)
    for name, kept in weights.items():
        owner, _, own = name.rpartition("inv_covariance")
        mean = weights.get(f"{owner}mean")
        if not own and mean is not None and kept.ndim == MATRICES and mean.shape[1:] == kept.shape[:1]:
            full[name] = inverses_of(mean, kept)
    return full


def keep_as_anomalib(model: nn.Module, *, factors: bool = True) -> None:
    """Let a model keep inverse covariances as anomalib does, so that its own classes compute with them.

    Args:
        model: The model.
        factors: Whether to multiply factors, too; if not, only triangles become matrices.
    """
    for module in model.modules():
        if isinstance(module, MultiVariateGaussian) and module.inv_covariance.ndim == MATRICES:
            is_triangle = module.inv_covariance.shape[-1] != module.mean.shape[0]
            if factors or is_triangle:
                module.inv_covariance = inverses_of(module.mean, module.inv_covariance)


@contextmanager
def without_triangles(model: nn.Module) -> Iterator[None]:
    """Let a model keep matrices instead of triangles inside, in tensors of their own.

    Args:
        model: The model.
    """
    kept = [(each, each.inv_covariance) for each in model.modules() if isinstance(each, MultiVariateGaussian)]
    keep_as_anomalib(model, factors=False)
    try:
        yield
    finally:
        for module, before in kept:
            module.inv_covariance = before


def _positions_at_once(deviations: torch.Tensor) -> int:
    """Give the number of positions whose matrices are worked on at once.

    Args:
        deviations: Shape (positions, images, features).
    """
    numbers = BLOCK if deviations.device.type == "cpu" else BLOCK_OF_GPU
    return min(max(numbers // deviations.shape[-1] ** 2, 1), deviations.shape[0])


def _half_through_images(deviations: torch.Tensor, out: torch.Tensor) -> bool:
    """Give H, whose product with itself makes the inverse of the regularized covariance; False if rounding spoils it.

    With D for the deviations of n images, and r for the regularization, Woodbury's identity says

        (DᵀD / (n - 1) + r)⁻¹ = (1 - Dᵀ (DDᵀ + (n - 1) r)⁻¹ D) / r

    In double precision, because distances of training images are small differences of large numbers.

    Args:
        deviations: Features minus their mean, shape (positions, images, features).
        out: Takes H, of the same shape.
    """
    deviations = deviations.double()
    gram = torch.bmm(deviations, deviations.mT)
    gram.diagonal(dim1=1, dim2=2).add_((deviations.shape[1] - 1) * REGULARIZATION)
    factor, failed = torch.linalg.cholesky_ex(gram)
    out.copy_(torch.linalg.solve_triangular(factor, deviations, upper=False))
    return not failed.any()


def _triangle_by_cholesky(deviations: torch.Tensor, out: torch.Tensor) -> bool:
    """Invert regularized covariances; False if rounding leaves one of them without a decomposition.

    Args:
        deviations: As above.
        out: Takes the triangles of the inverses.
    """
    covariance = torch.bmm(deviations.mT, deviations).div_(deviations.shape[1] - 1)
    covariance.diagonal(dim1=1, dim2=2).add_(REGULARIZATION)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():  # what is left of a factor may have no inverse
        return False
    _pack(torch.cholesky_inverse(factor), out)
    return True


def _shape_of_triangle(features: int) -> tuple[int, int]:
    """Give rows and columns that hold a triangle of a square matrix with its diagonal, and nothing else."""
    return features + 1 - features % 2, (features + 1) // 2


def _parts(packed: torch.Tensor, features: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Give the parts of a packed triangle as views.

    A symmetric matrix has the blocks A, B below it, and C on the diagonal below A. The rows of the packed form are
    first those of the lower triangle of A beside the upper one of C, moved by one row or column, then those of B.

    Returns:
        A, whose upper triangle belongs to C; C, whose lower triangle belongs to A; and B.
    """
    half, odd = divmod(features, 2)
    triangles, below = packed[..., : half + 1, :], packed[..., half + 1 :, :]
    return triangles[..., 1 - odd :, :], triangles[..., :half, odd:], below


def _pack(matrices: torch.Tensor, out: torch.Tensor) -> None:
    """Pack the triangle of symmetric matrices."""
    features = matrices.shape[-1]
    first, last, below = _parts(out, features)
    split = features - features // 2
    last.copy_(matrices[..., split:, split:])
    lower = torch.ones(split, split, dtype=torch.bool, device=out.device).tril()
    first.copy_(torch.where(lower, matrices[..., :split, :split], first))
    below.copy_(matrices[..., split:, :split])


def _unpacked(packed: torch.Tensor, features: int) -> torch.Tensor:
    """Give the symmetric matrices of packed triangles, shape (positions, features, features)."""
    first, last, below = _parts(packed, features)
    split = features - features // 2
    full = packed.new_empty(len(packed), features, features)
    full[..., :split, :split] = first.tril() + first.tril(-1).mT
    full[..., split:, split:] = last.triu() + last.triu(1).mT
    full[..., split:, :split] = below
    full[..., :split, split:] = below.mT
    return full


def _squares_by_triangle(deviations: torch.Tensor, packed: torch.Tensor) -> torch.Tensor:
    """Compute squared distances from packed triangles, in which a number beside the diagonal stands for two.

    Args:
        deviations: Features minus their mean, shape (positions, images, features).
        packed: Triangles of the inverses.

    Returns:
        Shape (positions, images).
    """
    features, at_once = deviations.shape[-1], _positions_at_once(deviations)
    half, split = features // 2, features - features // 2
    of_first, of_last = _weights_of(features, packed)
    squares, room = packed.new_empty(deviations.shape[:2]), packed.new_empty(at_once, *of_first.shape)
    firsts, lasts = deviations[..., :split].contiguous(), deviations[..., split:].contiguous()
    blocks = zip(*(each.split(at_once) for each in (firsts, lasts, packed, squares)), strict=True)
    for one, two, block, out in blocks:
        triangles, weighted = block[..., : half + 1, :], room[: len(block)]
        first, last, _ = _parts(torch.mul(triangles, of_first, out=weighted), features)
        found = torch.bmm(one, first).add_(torch.bmm(two, block[..., half + 1 :, :]), alpha=2)
        torch.linalg.vecdot(found, one, out=out)
        torch.mul(triangles, of_last, out=weighted)
        out.add_(torch.linalg.vecdot(torch.bmm(two, last), two))
    return squares


def _weights_of(features: int, packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give how often each number of two packed triangles counts in the first of them, and in the last."""
    half, split = features // 2, features - features // 2
    both = packed.new_zeros(2, half + 1, split)
    first, last = _parts(both, features)[:2]
    first[0] = torch.full_like(first[0], 2).tril().fill_diagonal_(1)
    last[1] = torch.full_like(last[1], 2).triu().fill_diagonal_(1)
    return both[0], both[1]
