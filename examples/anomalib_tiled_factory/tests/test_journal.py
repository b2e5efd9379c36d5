"""The journal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anomalib_tiled_factory.journal import JOURNAL
from anomalib_tiled_factory.plugin import run_tested


def test_each_tested_run_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOURNAL, str(tmp_path / "journal.jsonl"))
    run_tested(Path("v0"), Path("v0"), {"image_AUROC": 1.0, "pixel_AUROC": None})
    run_tested(Path("v1"), Path("elsewhere"), {"image_AUROC": 0.5})
    first, second = map(json.loads, (tmp_path / "journal.jsonl").read_text().splitlines())
    assert first["metrics"] == {"image_AUROC": 1.0, "pixel_AUROC": None}
    assert (second["run_folder"], second["output"]) == ("v1", "elsewhere")
    assert first["time"].endswith("+00:00")


def test_without_the_variable_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOURNAL, raising=False)
    monkeypatch.chdir(tmp_path)
    run_tested(Path("v0"), Path("v0"), {})
    assert not list(tmp_path.iterdir())
