"""Whether the process that workers are copied from is started early."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anomalib_tiled import copied_process
from anomalib_tiled.copied_process import probably_needed, process_context


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and no GPU."""
    monkeypatch.setattr(copied_process, "cores", lambda: 2)
    monkeypatch.setattr(copied_process, "GPU", tmp_path / "no such device")


def written(folder: Path, processes: str) -> str:
    path = folder / "config.yaml"
    path.write_text(f"workers: {{class_path: LocalWorkers, init_args: {{processes: {processes}}}}}\n")
    return str(path)


@pytest.mark.parametrize(("processes", "needed"), [("1", False), ("2", True), ("12", True), ("auto", True)])
def test_configurations_are_looked_into(tmp_path: Path, processes: str, *, needed: bool) -> None:
    path = written(tmp_path, processes)
    assert probably_needed(["--config", path]) == needed
    assert probably_needed([f"--config={path}"]) == needed
    assert probably_needed(["--ckpt_dir", str(tmp_path)]) == needed


@pytest.mark.parametrize("argument", ["--workers.init_args.processes=1", "--workers.init_args.processes 1"])
def test_arguments_go_before_configurations(tmp_path: Path, argument: str) -> None:
    path = written(tmp_path, "2")
    assert not probably_needed(["--config", path, *argument.split()])
    assert probably_needed(["--config", written(tmp_path, "1"), *argument.replace("1", "2").split()])


def test_without_a_word_it_is_as_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probably_needed(["--config", "no such file"])
    assert not probably_needed(["--help"])
    monkeypatch.setattr(copied_process, "GPU", tmp_path)
    assert not probably_needed([])


def test_one_core_trains_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copied_process, "cores", lambda: 1)
    assert not probably_needed([])


def test_processes_are_copied_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_context().get_start_method() == "forkserver"
    monkeypatch.setattr(copied_process.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert process_context().get_start_method() == "spawn"


def test_a_configuration_that_can_be_read_only_once_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert probably_needed(["--config", str(tmp_path / "pipe")])  # would wait for ever
