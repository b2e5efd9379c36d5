"""Predicting where single images go wrong, and names of files are unusual."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from anomalib.data import ImageItem

from anomalib_tiled.cli.main import main
from anomalib_tiled.results.prediction_writer import PredictionWriter

Predict = Callable[..., int]


def predicted(output: Path) -> list[str]:
    """Names of the images that were predicted, with those of their folders."""
    lines = map(json.loads, (output / "predictions.jsonl").read_text().splitlines())
    return ["/".join(Path(line["image_path"]).parts[-2:]) for line in lines]


def failures(output: Path) -> dict[str, str]:
    with (output / "failures.csv").open(newline="", encoding="utf-8") as file:
        return {row["image_path"]: row["error"] for row in csv.DictReader(file)}


def starve(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have too little memory for images of these names, whatever else is predicted."""
    write = PredictionWriter.write

    def hungry(writer: PredictionWriter, item: ImageItem, *arguments: object) -> object:
        if str(item.image_path).endswith(names):
            torch.empty(2**60)
        return write(writer, item, *arguments)

    monkeypatch.setattr(PredictionWriter, "write", hungry)


def test_data_may_be_given_several_times(predict: Predict, new: Path, output: Path) -> None:
    assert predict("--data", new / "right", "--masks", "--data", new / "left" / "001.png") == 0
    assert predicted(output) == ["right/000.png", "left/001.png"]


def test_an_image_for_which_there_is_too_little_memory_stops_no_other(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    large = new / "left" / "001.png"
    with monkeypatch.context() as patched:
        starve(patched, "left/001.png")
        assert predict("--data", new) == 3
        assert predict("--data", new, "--skip_existing") == 3, "others were predicted before"
    assert predicted(output) == ["left/000.png", "right/000.png"]
    assert list(failures(output)) == [str(large)]
    said = capsys.readouterr().err
    assert f"skipped: {large} is left out. The memory of the machine ran out (" in said
    assert predict("--data", new, "--skip_existing") == 0
    assert sorted(predicted(output)) == ["left/000.png", "left/001.png", "right/000.png"]
    assert not (output / "failures.csv").exists()


def test_two_such_images_after_each_other_are_a_reason_to_stop(
    predict: Predict, new: Path, output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        starve(patched, "left/001.png", "right/000.png")
        assert predict("--data", new) == 2
    assert predicted(output) == ["left/000.png"]
    said = capsys.readouterr().err
    assert "error: The memory of the machine ran out (" in said
    assert "--skip_existing" in said.partition("Resume with: ")[2]
    assert predict("--data", new, "--skip_existing") == 0
    assert len(predicted(output)) == 3


def test_where_every_image_failed_the_same_command_tries_again_and_going_on_forgets_none(
    predict: Predict, new: Path, output: Path
) -> None:
    broken, good = new / "left" / "000.png", new / "right" / "000.png"
    shutil.copy(broken, kept := new / "kept")
    broken.write_bytes(b"")
    for _ in range(2):
        assert predict("--data", broken) == 3
        assert list(failures(output)) == [str(broken)]
    assert predict("--data", good, "--skip_existing") == 0
    assert list(failures(output)) == [str(broken)], "it is not among the images asked for"
    shutil.copy(kept, broken)
    assert predict("--data", broken, good, "--skip_existing") == 0
    assert not (output / "failures.csv").exists()


def test_a_path_stays_a_path_wherever_it_is_printed(
    finished_run: Path, new: Path, tmp_path: Path, kept_models: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a:100:b [red]c"
    (new / "left" / ":100:.png").touch()
    given = ["--ckpt_dir", str(finished_run), "--data", str(new), "--output", str(output)]
    assert main(["predict", *given]) == 3
    printed = capsys.readouterr()
    assert f"Predictions: {output}\n" in printed.out
    assert f"skipped: {new / 'left' / ':100:.png'} is empty" in printed.err


def test_a_tilde_is_the_home_of_the_user(
    finished_run: Path,
    new: Path,
    tmp_path: Path,
    kept_models: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(finished_run)
    assert main(["predict", "--ckpt_dir=~/run", f"--data={new}", "--output=~/predicted"]) == 0
    assert main(["export", "--ckpt_dir=~/run", "--format=checkpoints", "--output=~/exported"]) == 0
    assert main(["status", "--ckpt_dir=~/run"]) == 0
    for name, file in {"predicted": "predictions.jsonl", "exported": "manifest.json"}.items():
        assert (tmp_path / name / file).is_file()
    printed = capsys.readouterr().out
    assert f"Export: {tmp_path / 'exported'}\n" in printed


def test_what_was_calibrated_can_be_returned_to(predict: Predict, new: Path, output: Path) -> None:
    assert predict("--data", new, "--maps", "npy", "--masks", "--overlays") == 0
    kept = [path for path in output.rglob("*") if path.suffix in {".png", ".csv", ".jsonl"}]
    before = [path.read_bytes() for path in kept]
    assert predict("--threshold", "0.9", "--pixel_threshold=-1e-3") == 0
    assert all(path.read_bytes() != content for path, content in zip(kept, before, strict=True))
    assert predict("--threshold", "0.5", "--pixel_threshold", "0.5") == 0
    assert [path.read_bytes() for path in kept] == before
    assert predict("--data", new, "--maps", "npy", "--masks", "--overlays", "--skip_existing") == 2
    again = ["--threshold", "0.5", "--pixel_threshold", "0.5", "--skip_existing"]
    assert predict("--data", new, "--maps", "npy", "--masks", "--overlays", *again) == 0
