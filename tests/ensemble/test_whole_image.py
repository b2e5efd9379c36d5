"""A global model at every place of normalization and thresholding, against the rule written out.

The maps of a model are the brightness, times a factor, so that tiles and whole image have scales of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import product

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from anomalib.models.components import AnomalibModule
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import resize

from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.config.tiling import grid_of_run
from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.tile_job import RunData, TileJob
from anomalib_tiled.grid import Size, Tile, WholeImage
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.calibrate import calibrate
from anomalib_tiled.workers.scheduler import scheduler_of

PLACES = [*product(("tile", "image", "none"), ("tile", "image"))]
SHRUNK = Size(4, 6)
WHOLE = WholeImage(0, 0, slice(0, 8), slice(0, 12), SHRUNK)
IMAGES = torch.rand(4, 3, 8, 12, generator=torch.Generator().manual_seed(1))
MAX = ClassSpec("anomalib_tiled.GlobalModel", {"image_size": [*SHRUNK], "model": None})

Make = Callable[[float], AnomalibModule]
Learn = Callable[..., EnsembleModel]


@pytest.fixture
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """4 training images, and 3 normal and 3 anomalous validation images with masks."""
    root, random, samples = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number, (subset, label) in enumerate([("train", 0)] * 4 + [("val", 0)] * 3 + [("val", 1)] * 3):
        pixels = random.integers(20, 200, (8, 12, 3), dtype=np.uint8)
        mask = np.zeros((8, 12), dtype=np.uint8)
        mask[1, number - 4] = 255 * label
        pixels[mask > 0] = 190 + number
        paths = [root / f"{kind}{number}.png" for kind in ("image", "mask")]
        Image.fromarray(pixels).save(paths[0])
        Image.fromarray(mask).save(paths[1])
        samples.append(Sample(subset, paths[0], paths[1] if label else None, label))
    return Split(tuple(samples))


@pytest.fixture
def learned(
    split: Split, tmp_path_factory: pytest.TempPathFactory, brightness: Make, configuration: dict[str, object]
) -> Learn:
    """Have an ensemble with overlapping tiles learn: ``learned("tile", "image", global_model)``."""

    class Trained(Run):
        """A run as if all of its models were trained."""

        def check_tiles(self) -> None: ...

        @cached_property
        def job(self) -> TileJob:
            job = TileJob(self.folder, self.settings, self.grid, RunData(self.split, self.source, self.datamodule))
            vars(job)["load"] = lambda tile: brightness(factor(tile))
            return job

    def learn(normalize_at: str, threshold_at: str, global_model: ClassSpec | None = MAX) -> EnsembleModel:
        settings = Settings.from_mapping(
            configuration
            | {
                "tiling": {"image_size": [8, 12], "tile_size": [5, 6], "stride": [3, 4]},
                "model": {"class_path": "factory.Brightness"},
                "trainer": {"accelerator": "cpu"},
                "normalization": configuration["normalization"] | {"stage": normalize_at},
                "thresholding": configuration["thresholding"] | {"stage": threshold_at},
                "global_model": None if global_model is None else vars(global_model),
            }
        )
        source = DecodedFiles(Size(8, 12), split.has_masks)
        folder, datamodule = RunFolder(tmp_path_factory.mktemp("run")), Folder(name="tiny", normal_dir="nowhere")
        run = Trained(folder, settings, grid_of_run(settings), split, source, datamodule, scheduler_of(settings))
        return run.ensemble(Calibration.from_json(calibrate(run).to_json()))

    return learn


def factor(tile: Tile) -> float:
    return 700.0 if isinstance(tile, WholeImage) else 10.0 * (1 + tile.row + tile.column)


def validation_images(split: Split) -> torch.Tensor:
    """The normal ones."""
    paths = [sample.image_path for sample in split.samples if (sample.subset, sample.label) == ("val", 0)]
    return torch.from_numpy(np.stack([np.array(Image.open(path)) for path in paths])).permute(0, 3, 1, 2) / 255


def of_whole(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the global model says: the maps are in the size of the images."""
    maps = factor(WHOLE) * resize(images, [*SHRUNK], antialias=True).mean(dim=1, keepdim=True)
    large = interpolate(maps, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return maps.amax(dim=(1, 2, 3)), large


def standard(values: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Bring scores or maps to the shared scale, by those of normal images."""
    location, scale = _scale(normal)
    return (values - location) / scale


def _scale(normal: torch.Tensor) -> tuple[float, float]:
    if normal.ndim == 1:
        location = float(np.median(normal.numpy()))
        return location, float(np.median(np.abs(normal.numpy() - location))) or float(normal.std(correction=0))
    usual = float(normal.mean())
    return usual, float(normal.amax(dim=(1, 2, 3)).mean()) - usual


@pytest.mark.parametrize(("normalize_at", "threshold_at"), PLACES)
def test_the_higher_branch_counts_on_the_scale_of_the_tiles(
    learned: Learn, split: Split, normalize_at: str, threshold_at: str
) -> None:
    alone, both = learned(normalize_at, threshold_at, None), learned(normalize_at, threshold_at)
    normal, found = validation_images(split), both.predict_raw(IMAGES)
    tiles, of_normal = alone.predict_raw(IMAGES), alone.predict_raw(normal)
    pairs = zip((tiles.scores, tiles.maps), (of_normal.scores, of_normal.maps), strict=True)
    counts = []
    for (own, own_normal), whole, whole_normal, fused in zip(
        pairs, of_whole(IMAGES), of_whole(normal), (found.scores, found.maps), strict=True
    ):
        highest = torch.maximum(standard(own, own_normal), standard(whole, whole_normal))
        location, scale = _scale(own_normal)
        expected = location + scale * highest
        counts.append(bool((expected > own + 1e-4).any()))
        if normalize_at == threshold_at == "tile":
            expected = expected.clamp(0, 1)
        torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-4)
    assert any(counts), "the whole image counts somewhere"
    assert found.whole is None


@pytest.mark.parametrize(("normalize_at", "threshold_at"), PLACES)
def test_labels_and_masks_are_of_the_fused_scale_or_of_any_branch(
    learned: Learn, normalize_at: str, threshold_at: str
) -> None:
    both = learned(normalize_at, threshold_at)
    prediction, raw, calibration = both(IMAGES), both.predict_raw(IMAGES), both.calibration
    assert calibration is not None
    if threshold_at == "image":
        assert calibration.image is not None
        assert torch.equal(prediction.pred_label, raw.scores > calibration.image.scores.threshold)
        assert torch.equal(prediction.pred_mask, raw.maps > calibration.image.maps.threshold)
        return
    level, tiles = calibration.tiles["whole"], learned(normalize_at, threshold_at, None)(IMAGES)
    scores, maps = of_whole(IMAGES)
    assert torch.equal(prediction.pred_label, tiles.pred_label | (scores > level.scores.threshold))
    assert torch.equal(prediction.pred_mask, tiles.pred_mask | (maps > level.maps.threshold))


@pytest.mark.parametrize("normalize_at", ["tile", "image"])
@pytest.mark.parametrize("threshold_at", ["tile", "image"])
def test_normalized_scores_are_between_0_and_1(learned: Learn, normalize_at: str, threshold_at: str) -> None:
    prediction = learned(normalize_at, threshold_at)(3 * IMAGES)
    for values in (prediction.pred_score, prediction.anomaly_map):
        assert 0 <= values.min() <= values.max() <= 1


def test_what_tiles_learn_does_not_depend_on_the_global_model(learned: Learn) -> None:
    alone, both = (learned("tile", "tile", each).calibration for each in (None, MAX))
    assert alone is not None
    assert both is not None
    assert both.tiles == {**alone.tiles, "whole": both.tiles["whole"]}
    assert "branches" not in alone.to_json()


def test_hidden_pixels_take_no_part(learned: Learn, split: Split) -> None:
    both, images = learned("image", "image"), validation_images(split)
    hidden = torch.zeros(len(images), 1, 8, 12, dtype=torch.bool)
    hidden[..., 6:] = True
    bright = images.clone()
    bright[..., 8:] = 5  # shrinking mixes two columns, and antialiasing reaches one further
    dark, found = (both.predict_raw(each, hidden=hidden) for each in (images, bright))
    assert torch.equal(dark.maps[..., :4], found.maps[..., :4])
    assert (found.maps[..., 6:] == found.maps.amin(dim=(1, 2, 3), keepdim=True)).all()
    assert (found.scores < both.predict_raw(bright).scores).all()


def test_a_weighted_mean_of_the_tiles_alone_changes_nothing(learned: Learn) -> None:
    only_tiles = ClassSpec("anomalib_tiled.stages.global_model.WeightedMean", {**MAX.init_args, "weight": 0.0})
    alone, mean = learned("image", "image", None)(IMAGES), learned("image", "image", only_tiles)(IMAGES)
    torch.testing.assert_close(mean.pred_score, alone.pred_score, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean.anomaly_map, alone.anomaly_map, rtol=1e-5, atol=1e-5)
