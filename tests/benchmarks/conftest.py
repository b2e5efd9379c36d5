from __future__ import annotations

import pytest


@pytest.fixture
def machine() -> dict[str, str | int]:
    """What was measured with."""
    return {
        "cores": 2,
        "processor": "slow",
        "memory": 8_000_000_000,
        "anomalib": "2.7.0",
        "torch": "2.10.0",
        "python": "3.11.0",
        "OMP_NUM_THREADS": "not set",
    }
