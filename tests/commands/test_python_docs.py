"""The page on Python says what works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import anomalib_tiled

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_block_runs_after_those_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102  # the blocks are our own
    assert len(BLOCKS) == 11
    assert (tmp_path / "pictures" / "scratch.png").is_file()


def test_every_public_name_is_on_the_page() -> None:
    table = PAGE.partition("## All names")[2]
    assert sorted(re.findall(r"`(\w+)`", table.partition("They are imported")[0])) == sorted(anomalib_tiled.__all__)
    assert len(anomalib_tiled.__all__) <= 19  # a contract for each kind of stage, what they give, and six more


@pytest.mark.parametrize("name", anomalib_tiled.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(anomalib_tiled, name) is not None
