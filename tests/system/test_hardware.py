"""The name of the processor, where the system tells it and where it does not."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalib_tiled.system import hardware
from anomalib_tiled.system.hardware import processor_name


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    processor_name.cache_clear()
    yield
    processor_name.cache_clear()


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
