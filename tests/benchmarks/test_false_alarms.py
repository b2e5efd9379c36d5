from __future__ import annotations

from statistics import mean

import numpy as np
import pytest

from benchmarks.false_alarms import CASES, Case, measured


@pytest.mark.parametrize("case", [case for case in CASES if case.tiles == 1], ids=lambda case: case.name)
def test_the_estimate_is_right_on_average(case: Case) -> None:
    random = np.random.default_rng(0)
    pairs = [measured(case, 30, random) for _ in range(25)]
    assert mean(estimate.rate for _, estimate in pairs) == pytest.approx(mean(true for true, _ in pairs), abs=0.05)
    assert mean(estimate.low <= true <= estimate.high for true, estimate in pairs) >= 0.8
