from __future__ import annotations

import gc
import importlib
import platform
import subprocess
import sys
from contextlib import suppress
from functools import partial
from types import ModuleType

import pytest

from anomalib_tiled.system import allocation
from anomalib_tiled.system.allocation import (
    CHOICES_OF_THE_USER,
    imports_kept_apart,
    keep_freed_memory,
    long_lived_kept_apart,
)

COUNT = """
import resource
import sys
from anomalib_tiled.system.allocation import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
for number in range(4):
    if number == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(30_000_000) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

HELD = """
import sys
from pathlib import Path
from anomalib_tiled.system.allocation import give_back_freed_memory, keep_freed_memory

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

assert keep_freed_memory()
before, blocks = held(), [bytearray(size) for size in map(int, sys.argv[1:])]
del blocks
kept = held() - before
give_back_freed_memory()
print(kept, held() - before)
"""

CYCLE = """
import gc
import sys
from anomalib_tiled.cli.main import main

class Cycle:
    def __del__(self):
        print("collected")

gc.disable()
cycle = Cycle()
cycle.itself = cycle
del cycle
if sys.argv[1] == "after a command":
    main(["--help"])
"""

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


@needs_glibc
def test_freed_blocks_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES_OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, check=True).stdout)
        for how in ("kept", "given back")
    }
    assert faults["kept"] < faults["given back"] / 10, "each page of each block is fetched and cleared anew"


@needs_glibc
@pytest.mark.parametrize(("size", "least", "most"), [(20_000_000, 15_000_000, 25_000_000), (60_000_000, -1, 5_000_000)])
def test_small_blocks_are_kept_until_they_are_given_back(
    monkeypatch: pytest.MonkeyPatch, size: int, least: int, most: int
) -> None:
    for name in CHOICES_OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    said = subprocess.run([sys.executable, "-c", HELD, str(size)], capture_output=True, check=True).stdout
    kept, held = map(int, said.split())
    assert least < kept < most
    assert held < 5_000_000


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOICES_OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocation.platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()


def test_what_is_there_is_not_looked_through_for_garbage_until_work_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("collect", "freeze", "unfreeze"):
        monkeypatch.setattr(gc, name, partial(steps.append, name))
    with suppress(RuntimeError), long_lived_kept_apart():
        steps.append("work")
        raise RuntimeError
    assert steps == ["collect", "freeze", "work", "unfreeze"]


@pytest.mark.parametrize(("left", "frozen"), [("imported", ["freeze"]), ("", [])], ids=["new", "imported before"])
def test_imports_are_not_looked_through_for_garbage(
    monkeypatch: pytest.MonkeyPatch, left: str, frozen: list[str]
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(gc, "freeze", partial(steps.append, "freeze"))
    with imports_kept_apart():
        assert not gc.isenabled()
        if left:
            monkeypatch.setitem(sys.modules, left, ModuleType(left))
    assert gc.isenabled()
    assert steps == frozen


def test_a_failed_import_keeps_nothing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(gc, "freeze", partial(steps.append, "freeze"))
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), imports_kept_apart():
        importlib.import_module("no_such_package")
    assert gc.isenabled()
    assert steps == []


def test_who_looks_for_no_garbage_does_not_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "isenabled", lambda: False)
    enabled: list[bool] = []
    monkeypatch.setattr(gc, "enable", lambda: enabled.append(True))
    try:
        with imports_kept_apart():
            pass
    finally:
        monkeypatch.undo()
        gc.enable()
    assert enabled == []


def test_a_command_ends_without_a_search_for_garbage() -> None:
    collected = {
        how: b"collected" in subprocess.run([sys.executable, "-c", CYCLE, how], capture_output=True, check=True).stdout
        for how in ("after a command", "without one")
    }
    assert collected == {"after a command": False, "without one": True}
