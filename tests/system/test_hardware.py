"""Name and instructions of the processor, where the system tells them and where it does not."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalib_tiled.system import hardware
from anomalib_tiled.system.hardware import processor_flags, processor_name


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    hardware._first_processor.cache_clear()
    yield
    hardware._first_processor.cache_clear()


def test_the_processor_has_the_name_that_the_system_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus: 9 rods\n\nmodel name\t: another\n")
    monkeypatch.setattr(hardware, "PROCESSORS", tmp_path / "cpuinfo")
    assert processor_name() == "Abacus: 9 rods"


@pytest.mark.parametrize("content", [None, "processor\t: 0\nFeatures\t: fp asimd\n"])
def test_without_a_name_it_is_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(hardware, "PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "abacus64")
    assert processor_name() == "abacus64"


@pytest.mark.parametrize(
    ("content", "flags"),
    [
        ("flags\t\t: fpu sse avx512_bf16\n\nflags\t\t: fpu\n", {"fpu", "sse", "avx512_bf16"}),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", {"fp", "asimd", "bf16"}),
        ("processor\t: 0\n", None),
        (None, None),
    ],
)
def test_a_processor_has_the_instructions_that_the_system_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, flags: set[str] | None
) -> None:
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(hardware, "PROCESSORS", tmp_path / "cpuinfo")
    assert processor_flags() == flags
