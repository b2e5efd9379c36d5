from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest

from benchmarks.gap import measured

pytestmark = pytest.mark.slow


def test_with_four_defects_to_learn_from_the_middle_of_the_gap_is_nearly_as_good_as_the_best_threshold(
    tmp_path: Path,
) -> None:
    shares = [measured("Padim", seed, tmp_path) for seed in range(3)]
    assert mean(share["`middle`"] for share in shares) >= 0.95
    assert mean(share["`lowest_anomalous`"] for share in shares) < mean(share["`middle`"] for share in shares)
