"""Between normal and anomalous, and thresholds by cost: whole commands on painted photographs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from anomalib_tiled.api import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.runs.image_decisions import ImageDecisions
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.uncertain import Band

Predict = Callable[..., int]

WIDE = {"width": 0.5}
"""Most photographs have a score so near the threshold, but not all."""


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def verdict(score: float, label: int, band: Band) -> str:
    return "uncertain" if band.lower < score <= band.upper else ("normal", "anomalous")[label]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """Copy of a run with uncertain images."""
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy, ignore=shutil.ignore_patterns("images", "predictions"))
    set_uncertain(copy, WIDE)
    return copy


def set_uncertain(run: Path, uncertain: dict[str, float] | None) -> None:
    path = run / "config.yaml"
    configuration = yaml.safe_load(path.read_text())
    configuration["thresholding"]["uncertain"] = uncertain
    path.write_text(yaml.safe_dump(configuration, sort_keys=False))


def test_without_the_setting_no_file_knows_of_it(finished_run: Path, predict: Predict, new: Path, output: Path) -> None:
    assert predict("--data", new) == 0
    contents = [path.read_bytes() for path in (*finished_run.glob("*.*"), *output.glob("*.*"))]
    assert len(contents) > 8
    assert not any(name in content for content in contents for name in (b'uncertain"', b"uncertain:", b"verdict"))


def test_null_is_the_same_as_nothing(run: Path, finished_run: Path, predict: Predict, new: Path, output: Path) -> None:
    set_uncertain(run, None)
    written = []
    for each in (run, finished_run):
        assert predict("--data", new, run=each) == 0
        written.append([(output / f"predictions.{ending}").read_bytes() for ending in ("jsonl", "csv")])
        shutil.rmtree(output)
    assert written[0] == written[1]


def test_predict_says_which_images_to_look_at(
    predict: Predict, run: Path, photographs: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = (photographs / "bad", photographs / "good_test")
    assert predict("--data", *images, run=run) == 0
    found, table = lines(output), rows(output / "predictions.csv")
    expected = [verdict(line["pred_score"], line["pred_label"], Band(0.25, 0.75)) for line in found]
    assert len({*expected}) > 1
    assert [line["verdict"] for line in found] == [row["verdict"] for row in table] == expected
    assert list(table[0])[-2:] == ["contradiction", "verdict"]
    anomalous, uncertain = (expected.count(each) for each in ("anomalous", "uncertain"))
    summary = f"{anomalous} of 8 are anomalous, {uncertain} uncertain."
    assert summary in capsys.readouterr().out
    assert predict("--data", *images, "--skip_existing", run=run) == 0
    assert summary in capsys.readouterr().out
    assert json.loads((output / "prediction.json").read_text())["uncertain"] == {"lower": 0.25, "upper": 0.75}
    ensemble = TiledEnsemble.load(run, "cpu")
    predictions = ensemble.predict_batch([line["image_path"] for line in found])
    assert [each.verdict for each in predictions] == expected


def test_labels_stay(predict: Predict, run: Path, finished_run: Path, new: Path, output: Path) -> None:
    assert predict("--data", new, run=run) == 0
    found = [{name: each for name, each in line.items() if name != "verdict"} for line in lines(output)]
    shutil.rmtree(output)
    assert predict("--data", new, run=finished_run) == 0
    assert found == lines(output)


@pytest.mark.parametrize(("width", "status"), [("2", 6), ("1e-9", 4)])
def test_uncertain_images_have_an_exit_status(
    predict: Predict, new: Path, output: Path, width: str, status: int
) -> None:
    assert predict("--data", new, "--fail_on_anomaly", "--uncertain", width) == status
    assert predict("--data", new, "--fail_on_anomaly", "--uncertain", width, "--skip_existing") == status
    assert {line["verdict"] for line in lines(output)} == ({"uncertain"} if status == 6 else {"normal", "anomalous"})
    assert predict("--data", new, "--uncertain", width, "--skip_existing") == 0


def test_images_are_judged_anew_without_predicting_them(
    predict: Predict, run: Path, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new, run=run) == 0
    before, scores = (output / "predictions.jsonl").read_text(), [line["pred_score"] for line in lines(output)]
    for arguments, band in {
        ("--threshold", "0.9"): Band(0.65, 1.15),
        ("--uncertain", "0.02"): Band(0.89, 0.91),
        ("--threshold", "0.5", "--uncertain", "0.5"): Band(0.25, 0.75),
    }.items():
        assert predict(*arguments, run=run) == 0
        found = lines(output)
        assert [each["verdict"] for each in found] == [
            verdict(score, each["pred_label"], band) for score, each in zip(scores, found, strict=True)
        ]
        assert [each["verdict"] for each in rows(output / "predictions.csv")] == [each["verdict"] for each in found]
    assert (output / "predictions.jsonl").read_text() == before
    set_uncertain(run, {"lower": 0.45, "upper": 0.6})
    capsys.readouterr()
    assert predict("--threshold", "0.9", run=run) == 2
    expected = "must be within thresholding.uncertain, but is 0.9, and the limits are 0.45 and 0.6"
    assert expected in capsys.readouterr().err
    assert (output / "predictions.jsonl").read_text() == before
    set_uncertain(run, None)
    assert predict("--threshold", "0.5", run=run) == 0
    assert not any("verdict" in line for line in lines(output))


def test_a_quantile_is_the_middle_of_a_width(predict: Predict, run: Path, photographs: Path, output: Path) -> None:
    assert predict("--data", photographs / "good_test", "--threshold", "q1", "--uncertain", "1e-4", run=run) == 0
    highest = max(lines(output), key=lambda line: line["pred_score"])
    limits = json.loads((output / "prediction.json").read_text())["uncertain"]
    assert (limits["lower"] + limits["upper"]) / 2 == pytest.approx(highest["pred_score"], abs=1e-3)


def test_other_limits_are_not_mixed(
    predict: Predict, run: Path, new: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--data", new / "left", run=run) == 0
    for arguments, words in {
        ("--uncertain", "0.1"): "scores from 0.45 to 0.55 as uncertain",
        (): "no uncertain images",
    }.items():
        if not arguments:
            set_uncertain(run, None)
        capsys.readouterr()
        assert predict("--data", new, "--skip_existing", *arguments, run=run) == 2
        expected = f"{output} holds predictions with scores from 0.25 to 0.75 as uncertain, but now there are {words}."
        assert expected in capsys.readouterr().err
        assert len(lines(output)) == 2


def test_a_negative_width_is_refused(predict: Predict, new: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("--data", new, "--uncertain", "-0.1") == 2
    assert (
        "--uncertain must be a width greater than 0 on the scale of the scores, but is -0.1" in capsys.readouterr().err
    )


def test_test_counts_uncertain_images(run: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    table, band = rows(run / "scores.csv"), Band(0.25, 0.75)
    expected = [verdict(float(row["pred_score"]), int(row["pred_label"]), band) for row in table]
    assert [row.pop("verdict") for row in table] == expected
    assert table == rows(finished_run / "scores.csv"), "all else stays"
    assert (run / "metrics.json").read_bytes() == (finished_run / "metrics.json").read_bytes()
    found = [row["gt_label"] for row, each in zip(table, expected, strict=True) if each == "uncertain"]
    kinds = {"anomalous": found.count("1"), "normal": found.count("0")}
    each = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    note = (
        f"Note: {len(found)} of 8 test images are uncertain, with scores above 0.25 and up to 0.75: "
        f"{each}. Metrics count them by pred_label."
    )
    assert note in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.slow
def test_a_run_can_get_it_without_training(
    run: Path, checkpoints: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    set_uncertain(run, None)
    before, tested = checkpoints(run), (run / "calibration.json").read_bytes()
    assert main(["fit", "--ckpt_dir", str(run), "--thresholding.uncertain.width", "0.2"]) == 0
    printed = capsys.readouterr()
    assert "Changed in config.yaml: thresholding.uncertain.width is 0.2, not None" in printed.err + printed.out
    assert checkpoints(run) == before
    assert (run / "calibration.json").read_bytes() == tested
    assert not (run / "scores.csv").exists(), "it has no verdicts"
    assert ImageDecisions.read(RunFolder(run)) == ImageDecisions(0.5, Band(0.4, 0.6))
    limits = ["--thresholding.uncertain", "{lower: 0.6, upper: 0.7}"]
    assert main(["fit", "--ckpt_dir", str(run), *limits]) == 2
    assert "must be within thresholding.uncertain, but is 0.5" in capsys.readouterr().err
    assert main(["fit", "--ckpt_dir", str(run), *limits, "--thresholding.image_sensitivity", "0.35"]) == 0
    assert ImageDecisions.read(RunFolder(run)) == ImageDecisions(0.65, Band(0.6, 0.7))
    assert main(["fit", "--ckpt_dir", str(run), "--thresholding.uncertain", "null"]) == 0
    assert ImageDecisions.read(RunFolder(run)) == ImageDecisions(0.65)
    assert "uncertain:" not in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_raw_limits_are_checked_when_the_threshold_is_known(
    run: Path, checkpoints: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    set_uncertain(run, None)
    before, limits = checkpoints(run), ["--thresholding.uncertain", "{lower: -2, upper: -1}"]
    assert main(["fit", "--ckpt_dir", str(run), "--normalization.stage", "none", *limits]) == 2
    learned = json.loads((run / "calibration.json").read_text())["image"]["scores"]["threshold"]
    error = capsys.readouterr().err
    assert f"must be within thresholding.uncertain, but is {learned:.6g}, and the limits are -2 and -1" in error
    assert checkpoints(run) == before
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    assert main(["fit", "--ckpt_dir", str(run), "--thresholding.uncertain", "{width: 4}"]) == 0
    assert ImageDecisions.read(RunFolder(run)) == ImageDecisions(learned, Band(learned - 2, learned + 2))


@pytest.mark.parametrize("stage", ["image", "tile"])
def test_costs_give_a_threshold_without_training(
    run: Path, checkpoints: Callable[[Path], object], capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    set_uncertain(run, None)
    before, rule = checkpoints(run), "--thresholding.method"
    costs = [rule, "CostThreshold", f"{rule}.miss", "50", f"{rule}.false_alarm", "1", f"{rule}.prevalence", "0.01"]
    assert main(["fit", "--ckpt_dir", str(run), "--thresholding.stage", stage, *costs]) == 0
    note = "Note: Expected cost of an image: 0, at a prevalence of 0.01; more for new images, because"
    assert note in capsys.readouterr().out.replace("\n", " ")
    assert checkpoints(run) == before
    assert main(["fit", "--ckpt_dir", str(run), f"{rule}.prevalence", "1"]) == 2
    assert "CostThreshold needs a prevalence between 0 and 1, got 1.0." in capsys.readouterr().err


def test_a_setting_that_it_does_not_have_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ckpt_dir", str(run), "--thresholding.uncertain", "{with: 0.1}"]) == 2
    assert "There is no setting thresholding.uncertain.with" in capsys.readouterr().err


def test_tiles_that_decide_are_refused_before_training(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", "--config", str(finished_run / "config.yaml"), "--default_root_dir", str(tmp_path / "none")]
    uncertain = ["--thresholding.stage", "tile", "--thresholding.uncertain.width", "0.1"]
    assert main([*command, *uncertain]) == 2
    assert "thresholding.uncertain needs thresholding.stage image, because" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_exports_give_the_limits(run: Path, tmp_path: Path) -> None:
    command = ["export", "--ckpt_dir", str(run), "--format", "torch"]
    assert main([*command, "--output", str(tmp_path / "export")]) == 0
    assert json.loads((tmp_path / "export" / "manifest.json").read_text())["uncertain"] == {
        "lower": 0.25,
        "upper": 0.75,
    }


@pytest.mark.slow
def test_several_processes_give_the_same_verdicts(predict: Predict, run: Path, photographs: Path, output: Path) -> None:
    command = ("--data", photographs / "bad", photographs / "good_test")
    assert predict(*command, run=run) == 0
    alone = [(output / f"predictions.{ending}").read_bytes() for ending in ("jsonl", "csv")]
    shutil.rmtree(output)
    assert predict(*command, "--workers", "LocalWorkers", "--workers.processes", "2", run=run) == 0
    assert [(output / f"predictions.{ending}").read_bytes() for ending in ("jsonl", "csv")] == alone
