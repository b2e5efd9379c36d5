from __future__ import annotations

import pytest

from benchmarks.scale_data import rows


def test_everything_is_measured_for_any_numbers() -> None:
    measured = {what: (value, unit) for what, value, unit in rows(tiles=10, images=7)}
    assert all(value >= 0 for value, _ in measured.values())
    assert {unit for _, unit in measured.values()} == {"ms", "µs", "images", "kB", "MB"}
    assert measured["job that a worker is sent"][0] < 5


@pytest.mark.slow
def test_the_memory_of_a_worker_does_not_grow_with_the_images() -> None:
    few, many = ({what: value for what, value, _ in rows(9, number)} for number in (10, 500))
    for what in few:
        if what.startswith("memory"):
            assert many[what] < few[what] + 0.3, what  # other threads of the tests allocate some of it
