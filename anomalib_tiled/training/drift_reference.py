"""After calibration: how normal images look and score, for `check`, and their mean, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.data.mean_image import MeanImage
from anomalib_tiled.ensemble.raw_prediction import final_scores
from anomalib_tiled.runs.drift_reference import DriftReference
from anomalib_tiled.system.files import replacing
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from anomalib_tiled.data.split import Sample
    from anomalib_tiled.ensemble.calibration import Calibration, Learned, Stages
    from anomalib_tiled.ensemble.normal_images import NormalImages
    from anomalib_tiled.ensemble.run import Run


def record_reference(run: Run, stages: Stages, calibration: Calibration, images: NormalImages) -> None:
    """Write ``drift_reference.npz`` and ``mean_normal.png``.

    Scores are those that `predict` would write into the lines of these images. How images look is measured before
    augmentations, as there.

    Args:
        run: The run.
        stages: Its stages.
        calibration: What they have learned.
        images: Scores of the normal images among those that the stages have learned from.

    Raises:
        DataError: An image cannot be decoded.
        StorageError: The disk is full.
    """
    scores, tiles, regions = images.joined()
    samples = _normal(run.split.calibration_samples)
    mean = MeanImage(run.grid.image_size)
    looks = [_look(run, sample, mean).to_json() for sample in track(samples, "Looking at normal images")]
    for sample in () if samples else _normal(run.split.subset("train")):
        _look(run, sample, mean)
    with replacing(run.folder.mean_normal_picture) as temporary:
        Image.fromarray(mean.pixels()).save(temporary, format="PNG")
    DriftReference(
        run.split.calibration_subset,
        run.settings.calibration_hash,
        _final(stages, scores, None if calibration.image is None else calibration.image.scores),
        {name: np.array([look[name] for look in looks]) for name in (looks[0] if looks else ())},
        {name: each.astype(np.float64) for name, each in tiles.items()},
        {name: _final(stages, each, calibration.regions.get(name)) for name, each in regions.items()},
    ).write(run.folder)


def _normal(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.label == 0]


def _look(run: Run, sample: Sample, mean: MeanImage) -> Appearance:
    """Read an image once, for the mean and for how it looks."""
    pixels, hidden = run.source.image(sample, *run.grid.whole), run.source.hidden(sample, *run.grid.whole)
    mean.add(pixels, hidden)
    return Appearance.of(pixels, hidden, sample.matrix)


def _final(stages: Stages, scores: NDArray[np.float32], learned: Learned | None) -> NDArray[np.float64]:
    """Normalize scores as `EnsembleModel.decide` does."""
    raw = torch.from_numpy(scores)
    return (raw if learned is None else final_scores(stages, raw, learned)).double().numpy()
