"""What images on the line cost with a threshold that was learned from few validation images.

Scores of normal images are normally distributed, those of anomalous images too, some standard deviations above. Many
sets of validation images are drawn; a third of each is anomalous. The cost of each threshold on the line is known
exactly; means over the sets are printed, as a Markdown table, beside the least possible cost, that of inspecting
nothing or rejecting everything, and the cost that the validation images themselves let expect. A false alarm costs 1.

    python benchmarks/costs.py --samples 200
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from anomalib_tiled.stages.distribution import ExactScores
from anomalib_tiled.stages.thresholding import CostThreshold, F1AdaptiveThreshold

PREVALENCE = 0.01
APART = (2.0, 4.0)
MISSES = (5.0, 50.0, 500.0)
COLUMNS = ("apart", "cost of a miss", "images", "least", "without inspection", "`CostThreshold`", "expected", "F1")


def main() -> None:
    """Draw, learn, and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="sets for each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[30, 75, 300], help="numbers of validation images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sets")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    random = np.random.default_rng(options.seed)
    for apart in APART:
        for miss in MISSES:
            rule = CostThreshold(miss, 1, PREVALENCE)
            least = minimize_scalar(lambda t: cost(t, rule, apart), bounds=(-5, apart + 5), method="bounded").fun  # noqa: B023
            without = min(PREVALENCE * miss, 1 - PREVALENCE)
            for size in options.sizes:
                of_sets = [learned(random, rule, apart, size) for _ in range(options.samples)]
                numbers = " | ".join(f"{each:.3g}" for each in (least, without, *np.mean(of_sets, axis=0)))
                print(f"| {apart:g} | {miss:g} | {size} | {numbers} |", flush=True)


def cost(threshold: float, rule: CostThreshold, apart: float) -> float:
    """Give the cost of an image on the line."""
    missed, alarms = norm.cdf(threshold - apart), norm.sf(threshold)
    return float(rule.prevalence * rule.miss * missed + (1 - rule.prevalence) * rule.false_alarm * alarms)


def learned(random: np.random.Generator, rule: CostThreshold, apart: float, size: int) -> tuple[float, float, float]:
    """Give the cost with the rule, that among the validation images, and the cost with the best F1 score."""
    anomalous = np.arange(size) < size // 3
    values = random.normal(size=size) + apart * anomalous
    scores = ExactScores()
    scores.add(values.astype(np.float32), anomalous)
    threshold, other = rule.learn(scores), F1AdaptiveThreshold().learn(scores)
    missed, alarms = (values[anomalous] <= threshold).mean(), (values[~anomalous] > threshold).mean()
    expected = rule.prevalence * rule.miss * missed + (1 - rule.prevalence) * rule.false_alarm * alarms
    return cost(threshold, rule, apart), float(expected), cost(other, rule, apart)


if __name__ == "__main__":
    main()
