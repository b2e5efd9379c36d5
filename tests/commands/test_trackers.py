"""Trackers of whole commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from anomalib_tiled.cli.main import main

TWO_TILES = {"tiling": {"image_size": [75, 150], "tile_size": 75}, "model__init_args__layers": ["layer1"]}


@pytest.mark.slow
def test_a_tracker_gets_the_run_and_one_that_fails_does_not_stop_it(
    configure: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nowhere = {"class_path": "MLFlowLogger", "init_args": {"tracking_uri": "http://127.0.0.1:9"}}
    assert main(["train", "--config", str(configure(**TWO_TILES, loggers=["TensorBoardLogger", nowhere]))]) == 0
    printed = capsys.readouterr()
    (run,) = (Path(line.removeprefix("Run folder: ")) for line in printed.out.splitlines() if "Run folder: " in line)
    for hook in ("run_calibrated", "run_tested"):
        assert f"warning: {hook} of MLFlowLogger of lightning " in printed.err
    assert "failed and is not called again: MlflowException: API request to http://127.0.0.1:9" in printed.err
    metrics = json.loads((run / "metrics.json").read_text())
    found = EventAccumulator(str(run / "tracked")).Reload()
    assert found.Scalars("image_AUROC")[0].value == pytest.approx(metrics["image_AUROC"])
    assert found.Scalars("fit/tiles")[0].value == 2
    assert main(["fit", "--ckpt_dir", str(run), "--loggers", "[CSVLogger]"]) == 0
    assert "Changed in config.yaml: loggers is [{'class_path': 'CSVLogger'" in capsys.readouterr().err
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    assert any("image_AUROC" in each.read_text() for each in (run / "tracked").rglob("metrics.csv"))


def test_a_logger_that_does_not_exist_is_refused_before_the_training(
    configure: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(configure(loggers=["NoSuchLogger"]))]) == 2
    assert "lightning.pytorch.loggers.NoSuchLogger cannot be made with" in capsys.readouterr().err
    assert not list(tmp_path.rglob("config.yaml"))
