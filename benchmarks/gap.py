"""Where in a gap to put a threshold: F1 score on new images with few validation defects, for places in the gap.

For each seed, parts are drawn: a grey plate with a lighter field, and in defective ones a rectangle of any size, place
and contrast. A tiled model with random weights is trained on 12 normal parts, and F1AdaptiveThreshold learns from 10
normal and 4 defective ones, which all models here separate without an error. Measured on 30 new normal and 12 new
defective parts: the F1 score, divided by that of the best threshold in hindsight. Prints a Markdown table.

The default of F1AdaptiveThreshold was chosen on parts like these, of other draws, so the table is no independent proof.

    python benchmarks/gap.py --seeds 0 1 2 3 4 5 6 7 8 9
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from anomalib_tiled import fit_ensemble
from anomalib_tiled.stages.distribution import ExactScores
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold

MODELS: dict[str, dict[str, Any]] = {
    "Padim": {"backbone": "resnet18", "layers": ["layer1", "layer2"], "n_features": 30, "pre_trained": False},
    "Patchcore": {"backbone": "resnet18", "layers": ["layer2"], "pre_trained": False},
}
RULES = {"`middle`": F1AdaptiveThreshold(), "`lowest_anomalous`": F1AdaptiveThreshold("lowest_anomalous")}
ARITHMETIC = "arithmetic middle"


@dataclass(frozen=True)
class Scores:
    """Scores of normal and of defective parts, each of shape (parts,)."""

    normal: NDArray[np.float32]
    defective: NDArray[np.float32]

    @property
    def gap(self) -> tuple[float, float]:
        """Highest normal and lowest defective score."""
        return float(self.normal.max()), float(self.defective.min())

    def f1(self, threshold: float) -> float:
        """F1 score of a threshold: higher scores are called defective."""
        found, alarms = int((self.defective > threshold).sum()), int((self.normal > threshold).sum())
        return 2 * found / (found + alarms + len(self.defective))

    def best_f1(self) -> float:
        """Highest F1 score of any threshold."""
        return max(self.f1(float(each)) for each in [*self.normal, *self.defective, -np.inf])

    def distribution(self) -> ExactScores:
        """Give the scores to a rule, as it learns from them."""
        scores = ExactScores()
        scores.add(self.normal, np.zeros(len(self.normal), bool))
        scores.add(self.defective, np.ones(len(self.defective), bool))
        return scores


def measured(model: str, seed: int, folder: Path) -> dict[str, float]:
    """Draw, train and measure once.

    Args:
        model: Padim or Patchcore.
        seed: Decides the parts.
        folder: For images and run.

    Returns:
        The F1 score on new parts as a share of the best one, by place of the threshold.
    """
    validation, new = _scores(model, seed, folder)
    thresholds = {name: rule.learn(validation.distribution()) for name, rule in RULES.items()}
    thresholds[ARITHMETIC] = mean(validation.gap)
    return {name: new.f1(threshold) / new.best_f1() for name, threshold in thresholds.items()}


def part(random: np.random.Generator, *, defective: bool) -> NDArray[np.uint8]:
    """Draw a part of 128 x 192 pixels."""
    image = np.full((128, 192, 3), 90.0)
    image[40:90, 60:130] = 150
    image += random.normal(0, 3, image.shape)
    if defective:
        height, width = random.integers(4, 16, 2)
        top, left = random.integers(0, 128 - height), random.integers(0, 192 - width)
        contrast = random.choice([-1, 1]) * random.uniform(15, 100)
        image[top : top + height, left : left + width] += contrast
    drawn: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return drawn


def _scores(model: str, seed: int, folder: Path) -> tuple[Scores, Scores]:
    """Give the scores of validation parts and of new ones."""
    random, root = np.random.default_rng(seed), folder / f"parts-{seed}"
    train, *known = [_drawn(random, 12), _drawn(random, 10), _drawn(random, 4, defective=True)]
    fresh = [_drawn(random, 30), _drawn(random, 12, defective=True)]
    for name, images in {"train": train, "normal": known[0], "defective": known[1]}.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:02}.png")
    folders = {"normal_dir": "train", "normal_test_dir": "normal", "abnormal_dir": "defective"}
    data = {"name": "parts", "root": str(root), **folders, "num_workers": 0, "val_split_mode": "same_as_test"}
    ensemble = fit_ensemble(
        model,
        {"class_path": "anomalib.data.Folder", "init_args": data},
        64,
        model_args=MODELS[model],
        default_root_dir=str(folder / "results"),
        trainer={"accelerator": "cpu"},
        cache=None,
    )

    def predicted(images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
        return torch.cat([ensemble.predict_raw(each).scores for each in batch.split(4)]).numpy()

    normal, defective = map(predicted, known)
    new_normal, new_defective = map(predicted, fresh)
    return Scores(normal, defective), Scores(new_normal, new_defective)


def _drawn(random: np.random.Generator, number: int, *, defective: bool = False) -> list[NDArray[np.uint8]]:
    return [part(random, defective=defective) for _ in range(number)]


def main() -> None:
    """Measure every seed and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)), help="a seed for each repetition")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-gap"), help="for parts and runs")
    options = parser.parse_args()
    print("| model | threshold | F1 score on new parts, as a share of the best |", "|---|---|---|", sep="\n")
    for model in MODELS:
        rows = [measured(model, seed, options.folder / model) for seed in options.seeds]
        for name in rows[0]:
            shares = [row[name] for row in rows]
            print(f"| {model} | {name} | {mean(shares):.2f} ({min(shares):.2f} to {max(shares):.2f}) |", flush=True)


if __name__ == "__main__":
    main()
