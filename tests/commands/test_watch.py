"""Predicting images that appear in a folder: whole commands, and processes that a signal ends."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anomalib_tiled.cli.main import main
from anomalib_tiled.data import watching
from anomalib_tiled.results import sources

Predict = Callable[..., int]
Watch = Callable[..., int]

ENOUGH = 600.0
"""Seconds after which a test that waits has failed."""


def predicted(output: Path) -> list[str]:
    """Paths of the images in the folder of predictions, in order."""
    path = output / "predictions.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["image_path"] for line in lines if line.endswith("\n")]


def failures(output: Path) -> dict[str, str]:
    if not (path := output / "failures.csv").exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["image_path"]: row["error"] for row in csv.DictReader(file)}


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def watch(predict: Predict, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch in this process, with little patience, until a condition holds."""

    def command(*arguments: str | Path, until: Callable[[], bool]) -> int:
        @contextmanager
        def stopped() -> Iterator[Callable[[], bool]]:
            began = time.monotonic()
            yield lambda: until() or time.monotonic() > began + ENOUGH

        monkeypatch.setattr(sources, "noted_when_stopped", stopped)
        return predict("--watch", *arguments)

    monkeypatch.setattr(watching, "PAUSE", 0.02)
    monkeypatch.setattr(watching, "SLICE", 0.01)
    monkeypatch.setattr(watching, "PATIENCE", 0.2)
    return command


def test_images_that_appear_are_predicted_with_a_line_each(
    watch: Watch, new: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (incoming := tmp_path / "in").mkdir()
    names = ["left/000.png", "left/001.png", "right/000.png"]

    def bring() -> bool:
        done = len(predicted(output))
        if done < len(names) and not (target := incoming / names[done]).exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copy(new / names[done], target)
        return done == len(names)

    options = ("--masks", "--overlays", "--coco")
    assert watch("--data", incoming, *options, "--fail_on_anomaly", until=bring) == 4
    assert predicted(output) == [str(incoming / name) for name in names]
    shown, said = capsys.readouterr()
    lines = shown.splitlines()
    assert [re.split(r" {2,}", line) for line in lines[:3]] == [
        ["anomalous", "1", "1 region", str(incoming / names[0])],
        ["normal", lines[1].split()[1], lines[1][22:34].strip(), str(incoming / names[1])],
        ["anomalous", "1", "1 region", str(incoming / names[2])],
    ]
    assert lines[3].startswith("3 images predicted in ")
    assert said == f"Watching {incoming}. Ctrl-C ends it.\n"
    for kind in ("masks", "images"):
        assert sorted(str(path.relative_to(output / kind)) for path in (output / kind).rglob("*.png")) == names
    assert len(json.loads((output / "coco.json").read_text())["images"]) == 3


def test_images_that_are_there_have_the_results_of_the_same_folder_without_watching(
    watch: Watch, predict: Predict, new: Path, output: Path
) -> None:
    assert watch("--data", new, until=lambda: len(predicted(output)) == 3) == 0
    watched = (output / "predictions.csv").read_bytes()
    shutil.rmtree(output)
    assert predict("--data", new) == 0
    assert (output / "predictions.csv").read_bytes() == watched


def test_images_that_were_predicted_are_left_out_and_those_that_failed_are_tried_again(
    watch: Watch, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged := new / "left" / "000.png").write_bytes(damaged.read_bytes()[:200])
    (new / "empty.png").touch()
    assert watch("--data", new, until=lambda: len(failures(output)) == 2) == 3
    assert failures(output)[str(damaged)].startswith(f"{damaged} is damaged (")
    assert predicted(output) == [str(new / "left" / "001.png"), str(new / "right" / "000.png")]
    shutil.copy(new / "right" / "000.png", damaged)
    capsys.readouterr()
    assert watch("--data", new, "--skip_existing", until=lambda: len(predicted(output)) == 3) == 0
    assert predicted(output)[2] == str(damaged)
    shown, said = capsys.readouterr()
    assert ", 2 predicted before: 2 of 3 are anomalous." in shown
    assert said.endswith("Note: 1 images are not predicted yet. Resume with --skip_existing.\n")


def test_an_image_that_failed_and_is_replaced_is_no_failure_any_more(
    watch: Watch, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (image := new / "left" / "000.png").read_bytes()
    image.write_bytes(good[:200])

    def replaced() -> bool:
        if failures(output) and image.stat().st_size == 200:
            image.write_bytes(good)
        return len(predicted(output)) == 3

    assert watch("--data", new, until=replaced) == 0
    assert failures(output) == {}
    assert f"skipped: {image} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "-"], "--watch takes folders that exist in --data, in which images appear, but '-' is none."),
        (["--data", "*.png"], "but '*.png' is none."),
        (["--data", ".", "--workers", "LocalWorkers"], "--watch predicts in this process alone"),
        ([], "--data must name the images to predict"),
        (["--threshold", "0.5"], "Without --data, only thresholds can be changed."),
    ],
)
def test_what_cannot_be_watched_is_refused(
    predict: Predict, output: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--watch", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.fixture(autouse=True)
def ctrl_c_ends() -> Iterator[None]:
    """Processes started from here are ended by Ctrl-C, even if the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Process:
    """A command that watches a folder."""

    def __init__(self, run: Path, folder: Path, output: Path, *arguments: str, stdout: int | None = None) -> None:
        command = [sys.executable, "-m", "anomalib_tiled", "predict", "--ckpt_dir", str(run), "--watch"]
        self.output, self.log, self.shown = output, output.with_name("log"), output.with_name("shown")
        with self.log.open("w") as log, self.shown.open("w") as shown:  # a pipe that nobody reads gets full
            self.program = subprocess.Popen(
                [*command, "--data", str(folder), "--output", str(output), *arguments],
                stdout=shown if stdout is None else stdout,
                stderr=log,
            )
        wait_until(lambda: "Watching" in self.log.read_text() or self.program.poll() is not None)

    def wait_for(self, images: int) -> None:
        lines = self.output / "predictions.jsonl"
        wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= images)

    def memory(self) -> int:
        """Resident memory in bytes."""
        pages = Path(f"/proc/{self.program.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; give exit status and standard output."""
        self.program.send_signal(number)
        try:
            return self.program.wait(ENOUGH), self.shown.read_text()
        finally:
            self.program.kill()


@pytest.mark.slow
def test_a_thousand_images_at_once_and_one_each_second(finished_run: Path, new: Path, tmp_path: Path) -> None:
    (incoming := tmp_path / "in").mkdir()
    process = Process(finished_run, incoming, tmp_path / "output", "--coco")
    for number in range(1000):
        os.link(new / "left" / "000.png", incoming / f"{number:04d}.png")
    process.wait_for(100)
    before = process.memory()
    process.wait_for(1000)
    for number in range(10):
        time.sleep(1)
        shutil.copy(new / "left" / "001.png", incoming / f"late{number}.png")
    process.wait_for(1010)
    assert process.memory() < before * 1.1
    status, shown = process.end(signal.SIGINT)
    assert status == 0
    assert shown.count("anomalous  1") == 1000
    assert "1010 images predicted in " in shown
    assert len(set(predicted(process.output))) == 1010
    assert len(json.loads((process.output / "coco.json").read_text())["images"]) == 1010


@pytest.mark.slow
def test_sigterm_is_the_normal_end_and_the_same_command_resumes(finished_run: Path, new: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = Process(finished_run, new / "left", output, "--fail_on_anomaly")
    process.wait_for(2)
    status, shown = process.end(signal.SIGTERM)
    assert status == 4
    assert "2 images predicted in " in shown
    (new / "right" / "000.png").rename(new / "left" / "002.png")
    process = Process(finished_run, new / "left", output, "--skip_existing")
    process.wait_for(3)
    status, shown = process.end(signal.SIGTERM)
    assert status == 0
    assert "1 images predicted in " in shown
    assert predicted(output) == [str(new / "left" / f"00{number}.png") for number in range(3)]


@pytest.mark.slow
def test_a_reader_of_the_lines_that_ends_ends_the_watch(finished_run: Path, new: Path, tmp_path: Path) -> None:
    process = Process(finished_run, new / "left", tmp_path / "output", stdout=subprocess.PIPE)
    assert process.program.stdout is not None
    for shown in (b"anomalous  1 ", b"normal "):
        assert process.program.stdout.readline().startswith(shown)
    process.program.stdout.close()
    shutil.copy(new / "left" / "000.png", new / "left" / "002.png")
    assert process.program.wait(ENOUGH) == 2
    assert "error: Standard output: Broken pipe." in process.log.read_text()
    assert len(predicted(process.output)) == 3, "the image in hand was recorded first"


@pytest.mark.slow
def test_a_file_that_is_written_slowly_is_predicted_once_it_is_whole(
    finished_run: Path, new: Path, tmp_path: Path
) -> None:
    (incoming := tmp_path / "in").mkdir()
    content = (new / "left" / "000.png").read_bytes()
    process = Process(finished_run, incoming, tmp_path / "output")
    with (incoming / "slow.png").open("wb", buffering=0) as file:
        for part in range(5):
            file.write(content[len(content) * part // 5 : len(content) * (part + 1) // 5])
            time.sleep(0.9)
    process.wait_for(1)
    assert process.end(signal.SIGINT)[0] == 0
    assert not failures(process.output)


def test_help_says_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert "Ctrl-C or SIGTERM is its normal end" in " ".join(capsys.readouterr().out.split())
