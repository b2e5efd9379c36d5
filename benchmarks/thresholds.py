"""Errors of threshold rules: false-positive rate and recall per image, on demonstration boards.

For each seed, boards are drawn, a tiled Padim with random weights is trained, and the test images are predicted once.
Half of them then serve as validation images, the other half to measure on. Every rule learns from the same raw scores:
from the first normal validation images alone, and F1AdaptiveThreshold also with anomalous ones.
Prints a Markdown table and writes the numbers of each seed as JSON.

    python benchmarks/thresholds.py --seeds 0 1 2 3 4 --output thresholds.json
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.pipeline import fit
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.stages.thresholding import (
    ExtremeValueThreshold,
    F1AdaptiveThreshold,
    QuantileThreshold,
    Thresholder,
)
from anomalib_tiled.training.preparation import prepare

RULES: dict[str, Thresholder] = {
    "`F1AdaptiveThreshold`, no anomalous images": F1AdaptiveThreshold(),
    "`QuantileThreshold`, 0.95": QuantileThreshold(0.95),
    "`QuantileThreshold`, 0.99": QuantileThreshold(0.99),
    "`QuantileThreshold`, 0.99, every pixel": QuantileThreshold(0.99, every_pixel=True),
    "`ExtremeValueThreshold`, 0.05": ExtremeValueThreshold(0.05),
    "`ExtremeValueThreshold`, 0.01": ExtremeValueThreshold(0.01),
}
WITH_ANOMALOUS = "`F1AdaptiveThreshold`, `lowest_anomalous`, with anomalous images"


@dataclass(frozen=True)
class Images:
    """Raw predictions of some images.

    Args:
        scores: Shape (images,).
        maps: Shape (images, height, width).
        truth: Labels and masks.
    """

    scores: torch.Tensor
    maps: torch.Tensor
    truth: Truth

    def __getitem__(self, chosen: NDArray[np.intp]) -> Images:
        """Give some of them."""
        truth = Truth(self.truth.labels[chosen], self.truth.pixels(tuple(self.maps.shape))[chosen])
        return Images(self.scores[chosen], self.maps[chosen], truth)


@dataclass(frozen=True)
class Measured:
    """Results of a rule with one seed.

    Args:
        seed: Seed of boards and training.
        rule: The rule and its arguments.
        normal: Number of normal validation images.
        anomalous: Number of anomalous validation images.
        false_positives: Share of the normal images that are called anomalous.
        recall: Share of the anomalous images that are called anomalous.
        spoiled: Share of the normal images with a pixel that is called anomalous.
        pixel_recall: Share of the anomalous pixels that are called anomalous.
        pixel_precision: Share of the pixels called anomalous that are; 1 if there are none.
    """

    seed: int
    rule: str
    normal: int
    anomalous: int
    false_positives: float
    recall: float
    spoiled: float
    pixel_recall: float
    pixel_precision: float


def main() -> None:
    """Measure every seed, print the table, write the numbers."""
    options = _options()
    torch.set_num_threads(options.threads)
    measured: list[Measured] = []
    for seed in options.seeds:
        began = time.perf_counter()
        measured += list(_measure_seed(options, seed))
        print(f"seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
        options.output.write_text(json.dumps([asdict(each) for each in measured], indent=1), encoding="utf-8")
    print(_table(measured))


def _measure_seed(options: Namespace, seed: int) -> Iterator[Measured]:
    """Train and predict once, then let every rule learn and decide."""
    run, stages = _trained(options, seed), Stages.build(_settings(options, seed))
    images = _predicted(run)
    normal, anomalous = (np.flatnonzero(images.truth.labels == label) for label in (False, True))
    validation, tested = [each[::2] for each in (normal, anomalous)], [each[1::2] for each in (normal, anomalous)]
    test = images[np.concatenate(tested)]
    for count in options.validation:
        alone = validation[0][:count]
        cases = {name: (rule, alone) for name, rule in RULES.items()}
        cases[WITH_ANOMALOUS] = (F1AdaptiveThreshold("lowest_anomalous"), np.concatenate([alone, validation[1]]))
        for name, (rule, learned_from) in cases.items():
            observed, known = Observed(), images[learned_from]
            observed.add(known.scores, known.maps[:, None], known.truth)
            level = observed.learn(stages, normalize=False, rule=rule)
            rates = _rates(test, level.scores.threshold, level.maps.threshold)
            yield Measured(seed, name, len(alone), len(learned_from) - len(alone), *rates)


def _rates(test: Images, threshold: float, pixel_threshold: float) -> tuple[float, float, float, float, float]:
    """Decide and compare with the truth, in the order of ``Measured``."""
    anomalous, masks = test.truth.labels, test.truth.pixels(tuple(test.maps.shape))
    called, called_pixels = (test.scores > threshold).numpy(), (test.maps > pixel_threshold).numpy()
    hits = float((called_pixels & masks).sum())
    return (
        float(called[~anomalous].mean()),
        float(called[anomalous].mean()),
        float(called_pixels[~anomalous].any(axis=(1, 2)).mean()),
        hits / float(masks.sum()),
        hits / float(called_pixels.sum()) if called_pixels.any() else 1.0,
    )


def _trained(options: Namespace, seed: int) -> Run:
    run = prepare(_settings(options, seed))
    fit(run, Observers())
    return run.without_left_out()


@torch.inference_mode()
def _predicted(run: Run) -> Images:
    """Predict all test images, without normalization and thresholds."""
    ensemble = run.ensemble()
    scores, maps, labels, masks = [], [], [], []
    for batch in run.images("test"):
        images = cast("torch.Tensor", batch.image)
        raw = ensemble.predict_raw(images)
        truth = Truth.of(batch.gt_label, batch.gt_mask, len(images))
        scores.append(raw.scores.cpu())
        maps.append(raw.maps.squeeze(1).cpu())
        labels.append(truth.labels)
        masks.append(truth.pixels(tuple(maps[-1].shape)))
    return Images(torch.cat(scores), torch.cat(maps), Truth(np.concatenate(labels), np.concatenate(masks)))


def _settings(options: Namespace, seed: int) -> Settings:
    """Give a configuration for training; its threshold rule does not matter."""
    boards = {
        "root": str(options.folder / f"boards-{seed}"),
        "image_size": options.image_size,
        "train_images": options.train_images,
        "normal_test_images": 2 * max(options.validation),
        "anomalous_test_images": 2 * options.anomalous,
        "drawing_seed": seed,
        "val_split_mode": "none",
    }
    padim = {"backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"], "pre_trained": False, "n_features": 50}
    stages = "anomalib_tiled.stages"
    return Settings.from_mapping(
        {
            "seed_everything": seed,
            "default_root_dir": str(options.folder / "results"),
            "tiling": {"image_size": None, "tile_size": options.tile_size, "stride": None},
            "model": {"class_path": "anomalib.models.Padim", "init_args": padim},
            "data": {"class_path": "anomalib_tiled.data.boards.DemoBoards", "init_args": boards},
            "trainer": {"accelerator": "cpu"},
            "merging": {"class_path": f"{stages}.merging.Mean"},
            "scoring": {"class_path": f"{stages}.scoring.Max"},
            "seam_smoothing": {"class_path": f"{stages}.seams.GaussianSeams"},
            "normalization": {"stage": "none", "method": {"class_path": f"{stages}.normalization.MinMax"}},
            "thresholding": {"stage": "image", "method": {"class_path": f"{stages}.thresholding.F1AdaptiveThreshold"}},
            "metrics": {"image": [], "pixel": []},
            "workers": {"class_path": "anomalib_tiled.workers.local.LocalWorkers"},
            "cache": None,
            "visualize": False,
        }
    )


def _table(measured: list[Measured]) -> str:
    """Lay out means over the seeds, with the lowest and highest of the two rates of images."""
    titles = ("false-positive rate", "recall", "normal images with an anomalous pixel", "pixel recall and precision")
    lines = [f"| validation images | rule | {' | '.join(titles)} |", "|---|---|---|---|---|---|"]
    for normal, anomalous, rule in dict.fromkeys((each.normal, each.anomalous, each.rule) for each in measured):
        rows = [each for each in measured if (each.normal, each.anomalous, each.rule) == (normal, anomalous, rule)]
        images = f"{normal} normal" + (f", {anomalous} anomalous" if anomalous else "")
        cells = [
            _spread([each.false_positives for each in rows]),
            _spread([each.recall for each in rows]),
            _spread([each.spoiled for each in rows]),
            f"{mean(each.pixel_recall for each in rows):.2f}, {mean(each.pixel_precision for each in rows):.2f}",
        ]
        lines.append(f"| {images} | {rule} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.2f} to {max(values):.2f})"


def _options() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="a seed for each repetition")
    parser.add_argument(
        "--validation", type=int, nargs="+", default=[10, 50], help="numbers of normal images to learn from"
    )
    parser.add_argument("--anomalous", type=int, default=20, help="number of anomalous images to learn from")
    parser.add_argument("--train_images", type=int, default=24, help="number of training images")
    parser.add_argument("--image_size", type=int, default=256, help="side of the boards, in pixels")
    parser.add_argument("--tile_size", type=int, default=128, help="side of a tile, in pixels")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-thresholds"), help="for boards and runs")
    parser.add_argument("--output", type=Path, default=Path("thresholds.json"), help="file of the numbers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
