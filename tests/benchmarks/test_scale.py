"""The table of cost against tiles and images."""

from __future__ import annotations

from benchmarks.scale import Scale, scale_table, target_of


def test_each_scale_is_a_column_and_targets_come_last() -> None:
    small = [("`status`, with its index", 0.51234, "s"), ("`status`, with its index: memory", 64.0, "MB")]
    large = [("`status`, with its index", 1.5, "s"), ("a row of its own", 2000.0, "ms")]
    assert scale_table({Scale(2_500, 50_000): small, Scale(10_000, 50_000): large}).splitlines() == [
        "| what | 2,500 tiles, 50,000 images | 10,000 tiles, 50,000 images | target |",
        "| --- | --- | --- | --- |",
        "| `status`, with its index | 0.512 s | 1.5 s | 2 s |",
        "| `status`, with its index: memory | 64 MB |  | 600 MB |",
        "| a row of its own |  | 2e+03 ms |  |",
    ]


def test_what_has_no_target_has_none() -> None:
    assert target_of("comparing checkpoints, with its index") == ""
