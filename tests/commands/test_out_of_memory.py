"""A tile for which there is too little memory costs no more than itself, and it is said why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine
from anomalib.models import Padim

from anomalib_tiled.cli.main import main

ONE = {"class_path": "LocalWorkers", "init_args": {"processes": 1}}
ADVICE = "Fit a new run with a smaller data.init_args.train_batch_size or tiling.tile_size."


@pytest.mark.slow
def test_it_is_said_whose_memory_ran_out(
    configure: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit, begun = Engine.fit, []

    def hungry(engine: Engine, *arguments: object, **settings: object) -> None:
        begun.append(engine)
        if len(begun) == 2:
            torch.empty(2**60)
        if len(begun) == 3:
            message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 1 has a total capacity of 15.78 GiB."
            raise torch.OutOfMemoryError(message)
        fit(engine, *arguments, **settings)

    monkeypatch.setattr(Engine, "fit", hungry)
    assert main(["fit", "--config", str(configure(workers=ONE))]) == 2
    said = capsys.readouterr().err
    assert "2 tiles could not be trained; all others are done." in said
    assert "r00_c01: OutOfMemoryError: The memory of the machine ran out (" in said
    assert "r00_c02: OutOfMemoryError: The memory of GPU 1 ran out (CUDA out of memory." in said
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    assert len(list((run / "tiles").glob("r*.ckpt"))) == len(begun) - 2 == 7
    main(["status", "--ckpt_dir", str(run)])
    state = " ".join(capsys.readouterr().out.split())
    assert "The memory of GPU 1 ran out" in state
    assert state.count(ADVICE) == 2
    monkeypatch.undo()
    settings = run / "config.yaml"
    settings.write_text(settings.read_text().replace("processes: 1", "processes: auto"))
    assert "processes: auto" in settings.read_text(), "another number of processes is no other run"
    assert main(["fit", "--ckpt_dir", str(run)]) == 0


@pytest.mark.parametrize("command", ["predict", "test"])
def test_a_model_that_cannot_be_loaded_for_lack_of_memory(
    finished_run: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    def lack(*_: object, **__: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(Padim, "load_state_dict", lack)
    run = tmp_path / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("raw"))
    data = ["--data", str(photographs / "bad" / "000.png")] if command == "predict" else []
    assert main([command, "--ckpt_dir", str(run), *data, "--output", str(tmp_path / "output")]) == 2
    said = capsys.readouterr().err
    assert "error: The memory of the machine ran out (" in said
    assert "Lower memory_budget in the config.yaml of the run" in said
    assert "Train the tile" not in said
    assert "Traceback" not in said
    assert ("--skip_existing" in said) == (command == "predict")


@pytest.mark.parametrize(
    ("command", "work"),
    [("predict", "ensemble.ensemble.EnsembleModel.predict_raw"), ("test", "pipeline.test"), ("fit", "pipeline.fit")],
)
def test_an_image_that_may_be_too_large_is_warned_of_before_any_work(
    finished_run: Path,
    photographs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    command: str,
    work: str,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"anomalib_tiled.{work}", interrupted)
    for module in ("system.memory", "ensemble.run"):
        monkeypatch.setattr(f"anomalib_tiled.{module}.available_memory", lambda: 1000)
    data = ["--data", str(photographs / "bad" / "000.png"), "--output", str(tmp_path / "output")]
    assert main([command, "--ckpt_dir", str(finished_run), *(data if command == "predict" else [])]) == 130
    assert capsys.readouterr().err.count("warning: Predicting an image of 112 x 150 pixels takes about") == 1
