"""False-positive rates that are reached with few scores of known distributions, as multiples of the rate wanted.

For each distribution and number of scores, many samples are drawn. The share above each threshold is known exactly;
the mean over the samples is printed, as a Markdown table: 1 is the rate wanted, 3 three times as many false alarms.
The plain fit is the same tail without bounds on its shape.

    python benchmarks/tails.py --samples 200
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from anomalib_tiled.stages.distribution import ExactScores
from anomalib_tiled.stages.normals import FEWEST_EXCESSES
from anomalib_tiled.stages.thresholding import ExtremeValueThreshold, QuantileThreshold

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.stats.distributions import rv_frozen

LAWS = {
    "normal": stats.norm(),
    "exponential": stats.expon(),
    "uniform": stats.uniform(),
    "Student's t, 3 degrees of freedom": stats.t(3),
}
RATES = (0.01, 0.001)
TAIL = 0.2


def main() -> None:
    """Draw, learn, and print the table."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="samples for each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 100, 600], help="numbers of scores")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    options = parser.parse_args()
    rules = [f"{name}, {rate}" for rate in RATES for name in ("quantile", "extreme value", "plain fit")]
    print(f"| distribution | scores | {' | '.join(rules)} |")
    print("|---|---|" + "---|" * len(rules))
    random = np.random.default_rng(options.seed)
    for name, law in LAWS.items():
        for size in options.sizes:
            reached = np.mean(
                [_reached(law, law.rvs(size, random_state=random)) for _ in range(options.samples)], axis=0
            )
            print(f"| {name} | {size} | {' | '.join(f'{each:.1f}' for each in reached)} |", flush=True)


def _reached(law: rv_frozen, sample: NDArray[np.float64]) -> list[float]:
    """Give the rate that each rule reaches, divided by the one wanted."""
    scores = ExactScores()
    scores.add(sample.astype(np.float32), np.zeros(len(sample), dtype=bool))
    multiples = []
    for rate in RATES:
        thresholds = (
            QuantileThreshold(1 - rate).learn(scores),
            ExtremeValueThreshold(rate, TAIL).learn(scores),
            _plain(np.sort(sample), rate),
        )
        multiples += [float(law.sf(threshold)) / rate for threshold in thresholds]
    return multiples


def _plain(scores: NDArray[np.float64], rate: float) -> float:
    """Fit as ExtremeValueThreshold does, without bounds on the shape."""
    count = max(FEWEST_EXCESSES, round(TAIL * len(scores)))
    level, excesses = scores[-count - 1], scores[-count:] - scores[-count - 1]
    unit = excesses.mean()
    with np.errstate(all="ignore"):
        shape, _, scale = stats.genpareto.fit(excesses / unit, floc=0)
    return float(level + unit * stats.genpareto.isf(rate * (len(scores) + 1) / count, shape, scale=scale))


if __name__ == "__main__":
    main()
