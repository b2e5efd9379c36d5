"""The pages that list commands list all of them, and all exit statuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anomalib_tiled.cli import commands
from anomalib_tiled.cli import main as cli
from anomalib_tiled.cli.check import DRIFTED
from anomalib_tiled.cli.main import COMMANDS, main

CHECKOUT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_stands_in_the_readme_and_in_the_configuration(name: str) -> None:
    assert f"\n| `anomalib tiled {name}` | " in page("README.md")
    assert f"\n| `{name}` | " in page("docs/configuration.md")


def test_the_tutorial_shows_the_page_that_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--help"], prog="anomalib tiled") == 0
    assert f"\n```text\n{capsys.readouterr().out}```\n" in page("docs/tutorial.md")


def test_every_exit_status_is_explained() -> None:
    section = page("docs/configuration.md").partition("### Exit status")[2].partition("### ")[0]
    statuses = {0, 1, cli.USER_ERROR, commands.UNREADABLE, commands.ANOMALOUS, commands.UNCERTAIN, DRIFTED}
    statuses |= {cli.INTERRUPTED, cli.TERMINATED}
    assert {int(status) for status in re.findall(r"^\| (\d+) \| ", section, re.MULTILINE)} == statuses
