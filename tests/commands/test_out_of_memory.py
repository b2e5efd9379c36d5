"""A tile for which there is too little memory costs no more than itself, and it is said why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine

from anomalib_tiled.cli import main

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
    state = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The memory of GPU 1 ran out" in state
    assert state.count(ADVICE) == 2
    monkeypatch.undo()
    settings = run / "config.yaml"
    settings.write_text(settings.read_text().replace("processes: 1", "processes: auto"))
    assert "processes: auto" in settings.read_text(), "another number of processes is no other run"
    assert main(["fit", "--ckpt_dir", str(run)]) == 0
