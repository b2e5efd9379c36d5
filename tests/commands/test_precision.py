"""Half precision: whole commands on photographs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import ConfigurationError, DataError, StorageError
from anomalib_tiled.results import precision_changes
from anomalib_tiled.results.changes import Tolerance
from anomalib_tiled.runs.run_folder import RunFolder

Configure = Callable[..., Path]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished_run, tmp_path / "v0", ignore=shutil.ignore_patterns("images", "raw"))


@pytest.fixture
def predict(run: Path, photographs: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*arguments: object, output: str = "found") -> int:
        data = photographs / "bad"
        given = ("--ckpt_dir", run, "--data", data, "--output", tmp_path / output, *arguments)
        return main(["predict", *map(str, given)])

    return call


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def scores(path: Path) -> list[float]:
    with path.open(newline="") as file:
        return [float(row["pred_score"]) for row in csv.DictReader(file)]


def test_a_run_predicts_in_another_precision(
    predict: Callable[..., int],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert predict(output="single") == 0
    assert "Precision" not in capsys.readouterr().err
    assert predict("--precision", "bfloat16") == 0
    said = capsys.readouterr().err
    assert "Precision: bfloat16 instead of float32. On 8 validation images, scores move by " in said
    single, half = (lines(tmp_path / name) for name in ("single", "found"))
    assert [each["pred_label"] for each in half] == [each["pred_label"] for each in single]
    for ours, theirs in zip(half, single, strict=True):
        assert ours["raw_score"] != theirs["raw_score"]
        assert ours["raw_score"] == pytest.approx(theirs["raw_score"], rel=0.03)

    known = json.loads((run / "precision_changes.json").read_text())
    assert known["changes"]["bfloat16"]["images"] == 8
    with monkeypatch.context() as patched:
        patched.setattr(precision_changes, "changes_of", lambda *_: pytest.fail("measured once"))
        assert predict("--precision", "bfloat16", "--skip_existing") == 0
    assert said.splitlines()[-1] in capsys.readouterr().err
    (run / "precision_changes.json").unlink()
    assert predict("--skip_existing") == 2
    message = "holds predictions with --precision bfloat16, but this command is without --precision. Give the same"
    assert message in capsys.readouterr().err
    assert predict("--precision", "bfloat16", "--skip_existing", output="single") == 2
    said = capsys.readouterr().err
    assert "holds predictions without --precision, but this command is with --precision bfloat16" in said
    assert "Precision: " not in said
    assert not (run / "precision_changes.json").exists(), "nothing is measured for a folder that is refused"

    (run / "precision_changes.json").write_text(json.dumps({**known, "calibration": "another"}))
    monkeypatch.setattr(precision_changes, "changes_of", lambda *_: pytest.fail("measured again"))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        precision_changes.predicting_in(Run.open(RunFolder.open(run)), "bfloat16", "cpu", print)


@pytest.mark.slow
def test_an_engine_predicts_in_half_precision(
    predict: Callable[..., int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(output="single") == 0
    half = ("--precision", "bfloat16", "--skip_existing")
    assert predict(*half, "--engine", "openvino") == 0
    said = capsys.readouterr().err
    assert "Precision: bfloat16 by openvino instead of float32. On 8 validation images, scores move by " in said
    assert "Engine: openvino; features differ from those of torch by up to 0.0" in said
    single, found = (lines(tmp_path / name) for name in ("single", "found"))
    for ours, theirs in zip(found, single, strict=True):
        assert ours["raw_score"] != theirs["raw_score"]
        assert ours["raw_score"] == pytest.approx(theirs["raw_score"], rel=0.03)
    assert [*json.loads((run / "precision_changes.json").read_text())["changes"]] == ["bfloat16 by openvino"]
    assert predict(*half) == 2
    assert "holds predictions with --engine openvino, but this command is without --engine" in capsys.readouterr().err


def test_changes_beyond_the_tolerance_are_refused_unless_they_are_accepted(
    predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision_changes, "TOLERANCE", Tolerance(mean=0))
    assert predict("--precision", "bfloat16") == 2
    said = capsys.readouterr().err
    assert (
        "Predictions with bfloat16 must be nearly those of the run, but on 8 validation images scores move by" in said
    )
    assert "Predict in float32. --allow_changes (allow_changes=True) accepts it." in said
    assert not (tmp_path / "found" / "predictions.jsonl").exists()
    assert predict("--precision", "bfloat16", "--allow_changes") == 0
    assert len(lines(tmp_path / "found")) == 4


def test_changes_that_cannot_be_measured_are_refused_unless_they_are_accepted(
    predict: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        message = "000.png is missing. Restore it."
        raise DataError(message)

    monkeypatch.setattr(precision_changes, "changes_of", missing)
    assert predict("--precision", "bfloat16") == 2
    unknown = "how predictions in bfloat16 differ from those in float32, as in the run, is unknown"
    assert f"000.png is missing. Restore it. Until then, {unknown}. --allow_changes" in capsys.readouterr().err
    assert predict("--precision", "bfloat16", "--allow_changes") == 0
    assert f"warning: {unknown}: 000.png is missing. Restore it." in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_folder_that_cannot_be_written_keeps_no_changes(
    predict: Callable[..., int], run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(path: Path, _: object) -> None:
        message = f"{path} cannot be written: Permission denied."
        raise StorageError(message)

    monkeypatch.setattr(precision_changes, "write_json", refused)
    assert predict("--precision", "bfloat16") == 0
    assert len(lines(tmp_path / "found")) == 4
    assert not (run / "precision_changes.json").exists()


@pytest.mark.slow
def test_a_file_of_changes_that_was_changed_says_so(
    predict: Callable[..., int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--precision", "bfloat16") == 0
    known = json.loads((path := run / "precision_changes.json").read_text())
    measured = known["changes"]["bfloat16"]
    lacking = "lacks image_auroc, images, labels, largest, mean, pixel_aupro"
    for changed, fault in (({}, lacking), ({**measured, "mean": "little"}, "mean is 'little': it should be a valid")):
        path.write_text(json.dumps({**known, "changes": {"bfloat16": changed}}))
        capsys.readouterr()
        assert predict("--precision", "bfloat16", output="again") == 2
        said = capsys.readouterr().err
        assert f"{path} must hold how predictions change, but {fault}" in said
        assert "Delete it: it is measured again." in said


@pytest.mark.slow
def test_python_loads_a_run_in_a_precision(run: Path, photographs: Path) -> None:
    image = photographs / "bad" / "000.png"
    single = TiledEnsemble.load(run).predict(image).raw_score
    half = TiledEnsemble.load(run, precision="bfloat16").predict(image).raw_score
    assert half != single
    assert half == pytest.approx(single, rel=0.03)
    assert TiledEnsemble.load(run, precision="float32").predict(image).raw_score == single
    with pytest.raises(ConfigurationError, match=r"no precision 'bf16'. Did you mean 'bfloat16'\? Allowed: bfloat16,"):
        TiledEnsemble.load(run, precision="bf16")
    with pytest.raises(ConfigurationError, match=r"on a CPU\. Set the precision to float32, or bfloat16\."):
        TiledEnsemble.load(run, precision="float16")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "float16"), "float16, and it takes longer than float32 on a CPU. Set the precision to"),
        (("--precision", "int8"), "precision"),
    ],
)
def test_what_cannot_predict(
    predict: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert predict(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "found" / "predictions.jsonl").exists()


def test_a_precision_needs_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_dir", str(run), "--threshold", "0.5", "--precision", "bfloat16"]) == 2
    assert "Without --data, only thresholds can be changed." in capsys.readouterr().err


def test_a_fit_refuses_what_the_device_lacks(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    path = configure(precision="float16", trainer={"accelerator": "cpu"})
    assert main(["fit", "--config", str(path)]) == 2
    assert "precision must be one that the device has, but is float16" in capsys.readouterr().err
    assert not list(path.parent.glob("results/*/*/v0"))


@pytest.fixture
def half_run(configure: Configure) -> Path:
    path = configure(precision="bfloat16")
    assert main(["train", "--config", str(path)]) == 0
    return path.parent / "results" / "Padim" / "photographs" / "v0"


@pytest.mark.slow
def test_a_run_in_half_precision(
    half_run: Path,
    finished_run: Path,
    configure: Configure,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half, single = (scores(folder / "scores.csv") for folder in (half_run, finished_run))
    assert half != single
    assert half == pytest.approx(single, abs=0.1)
    state = torch.load(half_run / "tiles" / "r00_c00.ckpt", weights_only=False)["state_dict"]
    assert {each.dtype for each in state.values() if each.is_floating_point()} == {torch.float32}

    assert main(["fit", "--ckpt_dir", str(half_run), "--tiles", "r01_c01"]) == 0
    assert main(["test", "--ckpt_dir", str(half_run)]) == 0
    assert scores(half_run / "scores.csv") == half
    assert main(["fit", "--ckpt_dir", str(half_run), "--precision", "float32"]) == 2
    assert "was made with another configuration: precision is bfloat16, not float32" in capsys.readouterr().err

    two = configure(precision="bfloat16", workers={"class_path": "LocalWorkers", "init_args": {"processes": 2}})
    assert main(["train", "--config", str(two)]) == 0
    assert scores(half_run.with_name("v1") / "scores.csv") == half

    assert main(["export", "--ckpt_dir", str(half_run), "--format", "torch"]) == 0
    said = capsys.readouterr().out
    assert "Precision: float32 instead of bfloat16. On 8 validation images, scores move by" in said
    manifest = json.loads((half_run / "export" / "torch" / "manifest.json").read_text())
    assert manifest["checked"]["largest_difference"] < 1e-4, "than the run in single precision"
    assert manifest["notes"][0] in said

    for name, more in {"here": [], "places": ["--workers", "LocalWorkers", "--workers.processes", "2"]}.items():
        given = ["--data", str(photographs / "bad"), "--output", str(tmp_path / name), "--precision", "float32", *more]
        assert main(["predict", "--ckpt_dir", str(half_run), *given]) == 0
        assert "Precision: float32 instead of bfloat16. On 8 validation images" in capsys.readouterr().err
    here, places = (lines(tmp_path / name) for name in ("here", "places"))
    assert [each["raw_score"] for each in here] == pytest.approx([each["raw_score"] for each in places], rel=1e-6)


@pytest.mark.slow
def test_a_model_without_a_frozen_backbone_is_trained_and_predicts_in_half_precision(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"class_path": "Fastflow", "init_args": {"backbone": "resnet18", "pre_trained": False, "flow_steps": 1}}
    changes = {
        "tiling": {"tile_size": [112, 80]},
        "trainer": {"max_epochs": 1, "limit_train_batches": 1},
        "model": model,
    }
    found = []
    for precision in ("float32", "bfloat16"):
        path = configure(**changes, precision=precision)
        assert main(["train", "--config", str(path)]) == 0
        run = max(path.parent.glob("results/Fastflow/photographs/v*"))
        found.append(scores(run / "scores.csv"))
        log = (run / "logs" / "r00_c00.log").read_text()
        assert ("bfloat16 Automatic Mixed Precision" in log) == (precision == "bfloat16")
    assert found[0] != found[1]
    capsys.readouterr()
