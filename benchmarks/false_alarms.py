"""How well calibration estimates the false alarms to expect, on numbers of known distributions.

Scores of normal validation images are drawn, and of as many anomalous ones unless the case has none. A rule learns a
threshold, and cross-validation estimates how many new normal images it calls anomalous. The true rate of this threshold
is known exactly. Prints a Markdown table: means over the samples, with the lowest and highest tenth in brackets; how
often the interval contained the true rate; and how often a note warned, of true rates above and below a tenth.

    python benchmarks/false_alarms.py --samples 200
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats

from anomalib_tiled.ensemble.calibration import Stages
from anomalib_tiled.ensemble.cross_validation import ROUNDS, called_without_learning
from anomalib_tiled.ensemble.false_alarms import ALARMING, FalseAlarms
from anomalib_tiled.ensemble.observed import Observed, Truth
from anomalib_tiled.stages.merging import Mean
from anomalib_tiled.stages.normalization import MinMax
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold, QuantileThreshold, Thresholder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """Scores of images, and a rule.

    Args:
        name: Name in the table.
        apart: How far the mean anomalous score is above the mean normal one, in standard deviations; ``None`` for no
            anomalous scores.
        rule: Learns the threshold.
        tiles: Number of tiles with thresholds of their own; defects are in the first one.
    """

    name: str
    apart: float | None
    rule: Thresholder
    tiles: int = 1


F1 = F1AdaptiveThreshold()
CASES = [
    Case("F1, separated by 6", 6, F1),
    Case("F1, overlapping, 2 apart", 2, F1),
    Case("F1, nearly alike, 0.5 apart", 0.5, F1),
    Case("F1, identical", 0, F1),
    Case("F1, no anomalous images", None, F1),
    Case("quantile 0.95", None, QuantileThreshold(0.95)),
    Case("F1 for each of 16 tiles, no anomalous images", None, F1, tiles=16),
]


def main() -> None:
    """Draw, learn, and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="samples for each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 30, 200], help="numbers of normal images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    options = parser.parse_args()
    print("| rule and scores | normal images | true rate | estimated rate | within the interval | warned |")
    print("|---|---|---|---|---|---|")
    random = np.random.default_rng(options.seed)
    for case in CASES:
        for size in options.sizes:
            pairs = [measured(case, size, random) for _ in range(options.samples)]
            print(f"| {case.name} | {size} | {' | '.join(_cells(pairs))} |", flush=True)


def measured(case: Case, size: int, random: np.random.Generator) -> tuple[float, FalseAlarms]:
    """Give the true rate of a threshold, or of those of several tiles, and the estimate."""
    stages = Stages(Mean(), Max(), None, MinMax(), case.rule, "none", "image")
    called, normal = np.zeros(size, dtype=np.bool_), 1.0
    for tile in range(case.tiles):
        observed = Observed()
        scores, labels = _drawn(case, size, random, defects=tile == 0)
        observed.add(torch.from_numpy(scores), None, Truth(labels, None))
        threshold = observed.learn(stages, normalize=False).scores.threshold
        normal *= float(stats.norm.cdf(threshold))
        found = called_without_learning(stages, case.rule, observed, normalize=False, rounds=ROUNDS)
        if found is None:
            message = f"There must be enough normal images to leave one out, but there are {size}. Draw more."
            raise ValueError(message)
        called |= found
    return 1 - normal, FalseAlarms.of(called)


def _drawn(
    case: Case, size: int, random: np.random.Generator, *, defects: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Draw scores, normal ones from the standard normal distribution, and their labels."""
    anomalous = size if defects and case.apart is not None else 0
    scores = random.normal(size=size + anomalous)
    scores[size:] += case.apart or 0
    return scores.astype(np.float32), np.arange(size + anomalous) >= size


def _cells(pairs: Iterable[tuple[float, FalseAlarms]]) -> list[str]:
    true, found = zip(*pairs, strict=True)
    rates, warned = np.array(true), np.array([each.note() is not None for each in found])
    within = np.mean([each.low <= rate <= each.high for rate, each in zip(true, found, strict=True)])
    parts = [
        f"{warned[of].sum()} of {of.sum()} {name}"
        for name, of in {"above": rates > ALARMING, "below": rates <= ALARMING}.items()
        if of.any()
    ]
    return [_spread(rates), _spread(np.array([each.rate for each in found])), f"{100 * within:.0f} %", ", ".join(parts)]


def _spread(values: NDArray[np.float64]) -> str:
    low, high = np.quantile(values, [0.1, 0.9])
    return f"{values.mean():.3f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
