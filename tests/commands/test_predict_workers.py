"""Predicting with workers: every file is that of a prediction in one process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from anomalib.data import ImageItem

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble import run as run_module
from anomalib_tiled.results import shards
from anomalib_tiled.results.prediction_folder import PredictionFolder
from anomalib_tiled.results.prediction_row import PredictedImage
from anomalib_tiled.results.prediction_writer import PredictionWriter

Predict = Callable[..., int]

HERE = ["--workers", "LocalWorkers", "--workers.processes", "1"]
TWO = ["--workers={class_path: LocalWorkers, init_args: {processes: 2}}"]
ALL_FILES = ["--overlays", "--masks", "--maps", "npy", "--coco"]

PATIENCE = 120.0
"""Seconds to wait for the first results."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images in a batch, and one batch in a shard."""
    monkeypatch.setattr(run_module, "PIXELS_AT_ONCE", 2 * 112 * 150)
    monkeypatch.setattr(shards, "IMAGES_OF_A_SHARD", 2)


@pytest.fixture
def images(photographs: Path, new: Path) -> list[Path]:
    """Eleven images, two of them damaged and one of another size."""
    damaged = new / "left" / "cut.png"
    damaged.write_bytes((new / "left" / "000.png").read_bytes()[:-3000])
    (new / "right" / "text.jpg").write_text("no image")
    (new / "right" / "000.png").write_bytes((photographs / "good" / "000.png").read_bytes())
    return [new, photographs / "bad", photographs / "good_test", new / "left"]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder but for logs."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command has printed, without times."""
    printed = capsys.readouterr()
    return [re.sub(r" in \d+\.\d s( \([\d.]+ images/s\))?", "", each) for each in printed]


def test_files_and_messages_are_those_of_a_prediction_in_one_process(
    predict: Predict, images: list[Path], output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", *images, *ALL_FILES) == 3
    alone, printed = contents(output), said(capsys)
    output.rename(output.with_name("alone"))
    assert predict("--data", *images, *ALL_FILES, *HERE) == 3
    assert contents(output) == alone
    assert said(capsys) == printed
    assert not (output / "predict.parts").exists()


def test_an_interrupted_prediction_is_resumed(
    predict: Predict,
    images: list[Path],
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict("--data", *images, *ALL_FILES) == 3
    whole = contents(output)
    output.rename(output.with_name("whole"))
    write, items = PredictionWriter.write, []

    def interrupted(self: PredictionWriter, item: ImageItem, *arguments: object) -> PredictedImage:
        items.append(item)
        if len(items) == 6:
            raise KeyboardInterrupt
        return write(self, item, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PredictionWriter, "write", interrupted)
        assert predict("--data", *images, *ALL_FILES, *HERE) == 130
    assert "--skip_existing" in capsys.readouterr().err.partition("Resume with: ")[2]
    before = (output / "predictions.jsonl").read_bytes()
    assert whole["predictions.jsonl"].startswith(before)
    assert before
    (output / "masks" / ".000.png.other-1-77-0123abcd.tmp").touch()
    assert predict("--data", *images, *ALL_FILES, *HERE, "--skip_existing") == 3
    assert contents(output) == whole


@pytest.mark.parametrize("where", [pytest.param([], marks=pytest.mark.slow), HERE], ids=["this process", "workers"])
def test_a_command_that_is_killed_between_images_of_a_batch_is_resumed(
    predict: Predict, images: list[Path], output: Path, monkeypatch: pytest.MonkeyPatch, where: list[str]
) -> None:
    assert predict("--data", *images, *ALL_FILES) == 3
    whole = contents(output)
    output.rename(output.with_name("whole"))
    fail = PredictionFolder.append_failure

    def killed(self: PredictionFolder, path: Path, error: str) -> None:
        fail(self, path, error)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(PredictionFolder, "append_failure", killed)
        assert predict("--data", *images, *ALL_FILES, *where) == 130
    assert predict("--data", *images, *ALL_FILES, *where, "--skip_existing") == 3
    assert contents(output) == whole


REFUSED = {
    "a class": (["--data", "{new}", "--workers", "RemoteWorker"], "There is no 'RemoteWorker' for workers. Did you"),
    "another stage": (["--data", "{new}", "--workers", "Gaussian"], "workers"),
    "an argument": (["--data", "{new}", "--workers", "LocalWorkers", "--workers.processes", "0"], "at least 1 or auto"),
    "a device": (["--data", "{new}", *HERE, "--device", "warp"], "The device must be auto, cpu, or an accelerator"),
    "no data": (["--threshold", "0.5", *HERE], "Without --data, only thresholds can be changed."),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_says_what_can(
    predict: Predict, new: Path, output: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert predict(*(each.format(new=new) for each in arguments)) == 2
    assert message in (text := capsys.readouterr().err)
    assert "Traceback" not in text
    assert not (output / "predictions.jsonl").exists() or not (output / "predictions.jsonl").read_bytes()


def test_plugins_are_notified_where_images_are_predicted(
    predict: Predict, new: Path, tmp_path: Path, install: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "listener",
        "from anomalib_tiled import hookimpl\n"
        "@hookimpl\n"
        "def image_predicted(run_folder, prediction):\n"
        f"    with open({str(tmp_path / 'told.txt')!r}, 'a') as file:\n"
        "        print(run_folder.name, int(prediction.pred_label), prediction.anomaly_map.shape[-1], file=file)\n"
        "    raise RuntimeError('no connection')\n",
    )
    assert predict("--data", new, *HERE) == 0
    assert (tmp_path / "told.txt").read_text() == "v0 1 150\n", "it is not called again after it failed"
    assert capsys.readouterr().err.count("image_predicted of listener") == 1


@pytest.mark.slow
def test_two_processes_give_the_files_of_one_even_if_the_command_is_killed(
    finished_run: Path, images: list[Path], tmp_path: Path
) -> None:
    given = ["--ckpt_dir", str(finished_run), "--data", *map(str, images * 2), *ALL_FILES, "--output"]
    small = (
        "import sys; from anomalib_tiled.ensemble import run; from anomalib_tiled.results import shards; "
        "run.PIXELS_AT_ONCE = 2 * 112 * 150; shards.IMAGES_OF_A_SHARD = 2; "
        "from anomalib_tiled.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", small, "predict", *given, str(tmp_path / "two"), *TWO]
    program, lines = subprocess.Popen(command), tmp_path / "two" / "predictions.jsonl"
    began = time.monotonic()
    while not lines.is_file() or not lines.stat().st_size:
        assert time.monotonic() < began + PATIENCE
        assert program.poll() is None
        time.sleep(0.01)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert main(["predict", *given, str(tmp_path / "one")]) == 3
    assert subprocess.run([*command, "--skip_existing"], check=False).returncode == 3
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert two == one
    logs = sorted(path.name for path in (tmp_path / "two" / "logs").iterdir())
    assert "run.log" in logs
    assert len(logs) > 2, "and one for each process"
    assert json.loads(one["prediction.json"])["maps"] == "npy"
