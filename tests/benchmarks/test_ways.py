from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import memory_limit, ways
from benchmarks.case import Case
from benchmarks.measure import CommandError, Usage
from benchmarks.memory_limit import available, lacked_memory
from benchmarks.predictors import PREDICTORS
from benchmarks.ways import COMMAND, WAYS, Bench, rate_of_others, reason_in

GIGABYTE = 10**9


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Case(train=2, test=2), tmp_path / "boards", tmp_path, repeats=1, rate=0.001)


def test_every_way_runs_a_predictor_or_the_command() -> None:
    assert list(WAYS) == ["python", COMMAND, *[name for name in PREDICTORS if name != "python"]]


def test_a_way_whose_packages_are_missing_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WAYS, "onnx", replace(WAYS["onnx"], packages=("numpy", "no_such_package", "nor_such")))
    row = bench.row("onnx")
    assert (row.title, row.measured) == ("export, onnxruntime", None)
    assert row.reason == "not installed: no_such_package, nor_such"
    assert bench.prepared == {}, "nothing is trained for it"


def test_what_does_not_fit_into_memory_is_left_out_and_not_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def measured(arguments: tuple[str, ...], **_: object) -> Usage:
        tried.append(arguments)
        message = "A command ended with exit status 1: x\nRuntimeError: can't allocate memory: you tried\nAll of it: y"
        raise CommandError(message)

    monkeypatch.setattr(ways, "measured", measured)
    rows = [bench.row("whole"), bench.row("whole")]
    assert [row.reason for row in rows] == ["it needs more memory than there is"] * 2
    assert len(tried) == 1


def test_a_mistake_is_no_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object, **__: object) -> Usage:
        message = "A command ended with exit status 1: x\nKeyError: 'y'\nAll of it: z"
        raise CommandError(message)

    monkeypatch.setattr(ways, "measured", measured)
    with pytest.raises(CommandError, match="KeyError"):
        bench.row("shrunk")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("A command ended with exit status -9: x\nAll of it: y", "it needs more memory than there is"),
        ("A command ended with exit status 1: x\nMemoryError\nAll of it: y", "it needs more memory than there is"),
        ("A command ended with exit status 2: x\nnote\nerror: It cannot.\nAll of it: y", "error: It cannot."),
        ("A command ended with exit status 2: x\nAll of it: y", None),
        ("A command ended with exit status 1: x\nKeyError: 2\nAll of it: y", None),
    ],
)
def test_reasons_are_read_from_failures(message: str, reason: str | None) -> None:
    assert reason_in(message) == reason


def test_a_process_that_is_limited_fails_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(size: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", f"held = b'x' * {size}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    before = resource.getrlimit(resource.RLIMIT_DATA)
    monkeypatch.setattr(memory_limit, "available", lambda: GIGABYTE)
    with memory_limit.limited_memory():
        done, half = ended(GIGABYTE), ended(GIGABYTE // 2)
    assert (done.returncode, half.returncode) == (1, 0)
    assert lacked_memory(done.stderr)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_every_command_is_limited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def measured(*_: object, **__: object) -> Usage:
        limits.append(resource.getrlimit(resource.RLIMIT_DATA)[0])
        message = "A command ended with exit status 2: x\nNo.\nAll of it: y"
        raise CommandError(message)

    monkeypatch.setattr(memory_limit, "available", lambda: 10 * GIGABYTE)
    monkeypatch.setattr(ways, "measured", measured)
    assert bench.row("whole").reason == "No."
    assert limits == [9 * GIGABYTE]


def test_available_memory_is_part_of_all_memory() -> None:
    assert GIGABYTE // 10 < available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_what_only_one_way_needs_is_removed(bench: Bench) -> None:
    for name in ("tiled", "onnx", "whole", "way-onnx", "way-python"):
        (bench.folder / name).mkdir()
    for name in ("python", "onnx"):
        bench.clear(name)
    assert sorted(path.name for path in bench.folder.iterdir()) == ["tiled", "whole"]


@pytest.mark.parametrize(("every", "rate"), [(14.0, 2.0), (11.0, None), (9.5, None)])
def test_a_rate_is_not_told_from_how_starts_differ(every: float, rate: float | None) -> None:
    assert rate_of_others(8, 10.0, every) == rate
