"""What commands print while they work on a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anomalib_tiled.cli import commands
from anomalib_tiled.system.logs import log_to

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


def test_notes_on_a_run_reach_the_terminal_while_the_log_takes_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands.RunFolder, "open", lambda path: path)
    monkeypatch.setattr(commands.Run, "open", lambda _, report: report)
    report: Callable[[str], None] = commands._open(str(tmp_path))  # type: ignore[assignment]  # the stand-in's
    with log_to(tmp_path / "run.log"):
        report("actor 3 has ended: its node is down")
    assert capsys.readouterr().out == "Note: actor 3 has ended: its node is down\n"
