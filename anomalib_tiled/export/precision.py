"""Files of less precision than the run: which numbers lose it, and how far the predictions change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from anomalib.data import InferenceBatch

from anomalib_tiled.data.tile_dataset import Images
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.comparison import of_type
from anomalib_tiled.export.formats import OpenVinoFormat
from anomalib_tiled.results.changes import TOLERANCE, Changes, Tolerance, changes_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from openvino import Model, Node

    from anomalib_tiled.ensemble.ensemble import EnsembleModel
    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.export.comparison import Predict
    from anomalib_tiled.export.formats import Format

Precision = Literal["float32", "float16", "int8"]

FLOAT32, FLOAT16, INT8 = get_args(Precision)

MOST_IMAGES = 64
"""Training images that show which values int8 must hold: every tile sees each of them, and a layer sees each pixel."""

CONVOLUTIONS = frozenset({"Convolution", "GroupConvolution"})
"""Operations of OpenVINO that int8 computes."""

ADVICE = (
    "Set --precision {safer}; or accept the changes by --allow_changes, if they do no harm to what you inspect. No "
    "files were kept."
)


@dataclass(frozen=True)
class Reduced:
    """What less precision has changed.

    Args:
        precision: ``float16`` or ``int8``.
        changes: How the predictions of the files differ from those of the run.
        quantized_with: Number of training images that showed which values int8 must hold; ``None`` for float16.
        tolerance: What is allowed.
    """

    precision: str
    changes: Changes
    quantized_with: int | None = None
    tolerance: Tolerance = TOLERANCE

    def check(self) -> None:
        """Refuse changes beyond the tolerance.

        Raises:
            ConfigurationError: A number is beyond it.
        """
        safer = f"{FLOAT32} or {FLOAT16}" if self.precision == INT8 else FLOAT32
        self.tolerance.check(self.changes, self.precision, ADVICE.format(safer=safer))

    def lines(self) -> Iterator[str]:
        """Give the lines to print."""
        yield f"Compared with the run, by {self.precision}: {self.changes}."
        if beyond := self.tolerance.beyond(self.changes):
            yield f"warning: More changes than without --allow_changes: {'; '.join(beyond)}."

    def to_json(self) -> dict[str, object]:
        """Give the entry of the manifest."""
        of_int8 = {} if self.quantized_with is None else {"calibration_images": self.quantized_with}
        changes = {"changes": self.changes.to_json(), "tolerance": self.tolerance.to_json()}
        return {"precision": {"type": self.precision, **of_int8, **changes}}


class HalfWeights(OpenVinoFormat):
    """OpenVINO's files with weights of 16 bits; all is computed with 32."""

    def _save(self, model: Model, path: Path) -> None:
        import openvino

        openvino.save_model(model, path, compress_to_fp16=True)


class Quantized(OpenVinoFormat):
    """OpenVINO's files whose convolutions compute with 8 bits; all else computes with 32.

    Convolutions are nearly all of the work of a backbone. What a model has learned about normal images, such as means
    and covariances, or a memory of patches, is compared by other operations, and keeps its 32 bits; so do blurs, which
    are convolutions of a single channel.

    Args:
        images: Training images, which show which values each convolution must hold.
    """

    packages = (*OpenVinoFormat.packages, "nncf")
    extra = "int8"

    def __init__(self, images: TrainingImages) -> None:
        self.images = images

    def _save(self, model: Model, path: Path) -> None:
        import nncf
        import openvino

        kept = [node.get_friendly_name() for node in model.get_ops() if not _is_quantized(node)]
        quantized = nncf.quantize(
            model,
            nncf.Dataset(self.images),
            subset_size=len(self.images),
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),  # constants are no nodes for NNCF
        )
        openvino.save_model(quantized, path, compress_to_fp16=False)


def _is_quantized(node: Node) -> bool:
    """Whether an operation is a convolution of several channels."""
    return node.get_type_name() in CONVOLUTIONS and node.input(1).get_partial_shape()[:2] != [1, 1]


@dataclass(frozen=True)
class TrainingImages:
    """Training images as inputs of exported files, one by one, as often as they are read.

    Args:
        images: The images, one in a batch.
        dtype: Type of the inputs.
    """

    images: Images
    dtype: torch.dtype

    @classmethod
    def of(cls, run: Run, dtype: torch.dtype, most: int = MOST_IMAGES) -> TrainingImages:
        """Choose training images of a run evenly from the first to the last.

        Args:
            run: The run.
            dtype: Type of the inputs.
            most: How many; all, if there are no more.
        """
        samples = run.split.subset("train")
        chosen = np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int).tolist()
        return cls(Images(run.source, [samples[place] for place in chosen], run.grid, 1, None), dtype)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __iter__(self) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Read the images as the run does, without augmentations."""
        for batch in self.images:
            pixels = torch.as_tensor(batch.image).as_subclass(torch.Tensor)
            yield {"images": of_type(pixels, self.dtype).numpy()}


def in_precision(form: Format, precision: str, run: Run, dtype: torch.dtype) -> Format:
    """Give a format that writes files of a precision.

    Args:
        form: The format.
        precision: One of ``Precision``.
        run: The run.
        dtype: Type of the images.

    Raises:
        ConfigurationError: The format has no such precision.
    """
    if precision == FLOAT32:
        return form
    check_format(form.name, precision)
    return HalfWeights() if precision == FLOAT16 else Quantized(TrainingImages.of(run, dtype))


def check_format(form: str, precision: str) -> None:
    """Check that files of a format can have a precision.

    Args:
        form: Name of the format.
        precision: One of ``Precision``.

    Raises:
        ConfigurationError: They cannot.
    """
    if precision != FLOAT32 and form != OpenVinoFormat.name:
        message = (
            f"--precision {precision} needs --format {OpenVinoFormat.name}, but --format is {form}. Set --format "
            f"{OpenVinoFormat.name}, or leave --precision out: the files keep {FLOAT32} then."
        )
        raise ConfigurationError(message)


def reduced(run: Run, ensemble: EnsembleModel, form: Format, predict: PredictImages) -> Reduced:
    """Measure what less precision has changed.

    Args:
        run: The run.
        ensemble: Its ensemble, calibrated.
        form: The format, as of `in_precision`.
        predict: Predicts images with the files.

    Raises:
        DataError: A validation image is missing or cannot be read.
    """
    changes = changes_of(run, ensemble, predict)
    if isinstance(form, Quantized):
        return Reduced(INT8, changes, len(form.images))
    return Reduced(FLOAT16, changes)


@dataclass(frozen=True)
class PredictImages:
    """Predicts images with exported files, as an ensemble does.

    Args:
        predict: Runs the files.
        dtype: Type of the images that they take.
        batch: Their batch size; ``None`` for any.
    """

    predict: Predict
    dtype: torch.dtype
    batch: int | None

    def __call__(self, images: torch.Tensor) -> InferenceBatch:
        """Predict images with values in [0, 1], shape (batch, 3, height, width)."""
        parts = of_type(images, self.dtype).split(self.batch or len(images))
        found = [self.predict({"images": part.numpy()}) for part in parts]
        return InferenceBatch(
            **{name: torch.from_numpy(np.concatenate([each[name] for each in found])) for name in found[0]}
        )
