"""A run with a global model, through every command."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.runs.run_folder import RunFolder

WHOLE = {"class_path": "Padim", "init_args": {"pre_trained": False, "layers": ["layer3"], "n_features": 30}}
FORMATS = {"torch": [], "onnx": [], "openvino": [], "per tile": ["--per_tile"]}
OUTPUTS = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]

Configure = Callable[..., Path]


@pytest.fixture(scope="module")
def run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder after ``train``; the model of the whole image is of another class than that of the tiles."""
    root = tmp_path_factory.mktemp("global")
    given = {
        "seed_everything": 1,
        "default_root_dir": str(root),
        "tiling": {"tile_size": [64, 72], "stride": [40, 56]},
        "model": {"class_path": "Padim", "init_args": {**WHOLE["init_args"], "layers": ["layer1"], "n_features": 10}},
        "global_model": {"image_size": [56, 80], "model": WHOLE},
        "data": {
            "class_path": "Folder",
            "init_args": {
                "name": "photographs",
                "root": str(photographs),
                "normal_dir": "good",
                "normal_test_dir": "good_test",
                "abnormal_dir": "bad",
                "mask_dir": "mask",
                "val_split_mode": "same_as_test",
                "train_batch_size": 4,
                "num_workers": 0,
            },
        },
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},  # others start in seconds
    }
    (root / "configuration.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    assert main(["train", "--config", str(root / "configuration.yaml")]) == 0
    return root / "Padim" / "photographs" / "v0"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.slow
def test_whole_is_trained_measured_and_described_like_a_tile(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    assert "whole" in capsys.readouterr().out
    assert {"whole.ckpt", "whole.json"} <= {path.name for path in (run / "tiles").iterdir()}
    assert len([*(run / "raw").rglob("whole.*.values")]) == 1, "validation images are the test images"
    with (run / "tiles.csv").open(encoding="utf-8") as file:
        *tiles, whole = csv.DictReader(file)
    assert [tiles[0]["tile"], whole["tile"]] == ["r00_c00", "whole"]
    assert (whole["images"], whole["anomalous"], whole["top"], whole["left"]) == ("8", "4", "0", "0")
    assert 0 <= float(whole["image_AUROC"]) <= 1
    assert 0 <= float(whole["pixel_AUROC"]) <= 1
    assert json.loads((run / "calibration.json").read_text())["branches"].keys() == {"tiles", "whole"}
    settings = RunFolder(run).settings()
    assert settings.whole_size == (56, 80)
    assert settings.whole_model.init_args["layers"] == ["layer3"]


@pytest.mark.slow
def test_predict_gives_what_test_gives_here_and_on_workers(run: Path, photographs: Path, tmp_path: Path) -> None:
    arguments = ["predict", "--ckpt_dir", str(run), "--data", str(photographs / "bad"), "--maps", "npy"]
    with (run / "scores.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if Path(row["image_path"]).parent.name == "bad"]
    tested = {Path(row["image_path"]).name: float(row["pred_score"]) for row in rows}
    for name, more in {"here": [], "places": ["--workers", "LocalWorkers", "--workers.processes", "1"]}.items():
        assert main([*arguments, "--output", str(tmp_path / name), *more]) == 0
        lines = (tmp_path / name / "predictions.jsonl").read_text().splitlines()
        found = {Path(line["image_path"]).name: line["pred_score"] for line in map(json.loads, lines)}
        assert found == pytest.approx(tested, abs=1e-3)
    given = ["--output", str(tmp_path / "here"), "--pixel_threshold", "q0.9"]
    assert main(["predict", "--ckpt_dir", str(run), *given]) == 0


@pytest.mark.slow
def test_whole_is_trained_again_alone(copy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "tiles").glob("*.ckpt")}
    calibration = (copy / "calibration.json").read_text()
    assert main(["fit", "--ckpt_dir", str(copy), "--tiles", "whole"]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (copy / "tiles").glob("*.ckpt")}
    assert {name for name in after if after[name] != before[name]} == {"whole.ckpt"}
    assert (copy / "calibration.json").read_text() == calibration, "the same seed gives the same model"


@pytest.mark.slow
def test_a_changed_checkpoint_is_found(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (copy / "tiles" / "whole.ckpt").open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    assert main(["test", "--ckpt_dir", str(copy)]) == 2
    assert "whole.ckpt" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_exports_predict_the_same(run: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip({"openvino": "openvino", "torch": "torch"}.get(form, "onnxruntime"))
    pytest.importorskip("onnxscript")
    kind = "onnx" if form == "per tile" else form
    arguments = ["export", "--ckpt_dir", str(run), "--format", kind, "--output", str(tmp_path / "export")]
    assert main([*arguments, *FORMATS[form]]) == 0, "the files are compared with the run"
    manifest = json.loads((tmp_path / "export" / "manifest.json").read_text())
    assert manifest["grid"]["whole"] == [56, 80]
    assert manifest["checked"]["largest_difference"] < 1e-3
    if form == "per tile":
        opened = Run.open(RunFolder.open(run))
        images = torch.cat([torch.as_tensor(batch.image) for batch in opened.images("test")])[:2]
        np.save(tmp_path / "images.npy", images.numpy())
        program = [sys.executable, str(tmp_path / "export" / "run.py")]
        subprocess.run([*program, tmp_path / "images.npy", tmp_path / "found.npz"], check=True)
        expected = opened.calibrated_ensemble()(images)
        with np.load(tmp_path / "found.npz") as found:
            np.testing.assert_allclose(found["pred_score"], expected.pred_score.numpy(), atol=1e-3)
            np.testing.assert_allclose(found["anomaly_map"], expected.anomaly_map.numpy(), atol=1e-3)


@pytest.mark.slow
def test_checkpoints_are_of_two_classes(run: Path, tmp_path: Path) -> None:
    assert main(["export", "--ckpt_dir", str(run), "--format", "checkpoints", "--output", str(tmp_path / "all")]) == 0
    assert (tmp_path / "all" / "whole.ckpt").is_file()
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert manifest["global_class"]["init_args"]["layers"] == ["layer3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image_size": 400}, "global_model.image_size is 400 x 400, the image has 112 x 150 pixels"),
        ({"image_size": [0, 56]}, "global_model.image_size is 0 x 56"),
        ({"model": {"class_path": "builtins.print"}}, "global_model"),
        ({"model": {"class_path": "CFM"}}, "The model of the whole image (global_model), on images shrunk to 56 x 80"),
        ({"model": {**WHOLE, "init_args": {"layers": ["layer9"], "pre_trained": False}}}, "has no 'layer9'"),
        ({"class_path": "WeightedMean", "init_args": {"weight": 2.0}}, "weight must be between 0 and 1, but is 2.0"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    configure: Configure,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    given: dict[str, object],
    message: str,
) -> None:
    whole = given if "class_path" in given else {"image_size": [56, 80], **given}
    assert main(["fit", "--config", str(configure(global_model=whole))]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not [*tmp_path.rglob("v0")]
