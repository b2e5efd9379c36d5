"""A run is exported, and what comes out predicts without anomalib and without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from weakref import ReferenceType, ref

import numpy as np
import pytest
import torch
import yaml
from anomalib.models.components import AnomalibModule

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.loaded_models import SavedModels
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.grid import Tile
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.checksums import Checksum

BLOCKED = ["anomalib", "anomalib_tiled", "lightning", "timm", "torchvision"]
NEEDED = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino", "onnx", "onnxscript")}
RUNTIME = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
MAIN = {"torch": "model.pt2", "onnx": "model.onnx", "openvino": "model.xml"}


def whole_checkpoints(run: Path) -> int:
    """Give the bytes that checkpoints would take if each held all of its weights."""
    own = [path.stat().st_size for path in (run / "tiles").glob("r*.ckpt")]
    [shared] = (run / "tiles").glob("shared-*.ckpt")
    return sum(own) + len(own) * shared.stat().st_size


ALONE = """
import sys
sys.path[:] = [path for path in sys.path if path]
for name in {blocked}:  # torch too, where it is not what runs the files
    sys.modules[name] = None  # importing it fails
import numpy
images = numpy.load("images.npy")
{code}
numpy.savez("found.npz", **{{name: numpy.asarray(values) for name, values in found.items()}})
"""

CODE = {
    "torch": """
import torch
model = torch.export.load("export/model.pt2").module()
found = model(torch.from_numpy(images))
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession("export/model.onnx")
names = [output.name for output in session.get_outputs()]
found = dict(zip(names, session.run(names, {"images": images})))
""",
    "openvino": """
import openvino
model = openvino.Core().compile_model("export/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
predicted = model({"images": images})
found = {name: predicted[name] for name in ("pred_score", "pred_label", "anomaly_map", "pred_mask")}
""",
}


def predicted_alone(folder: Path, images: np.ndarray, code: str) -> dict[str, np.ndarray]:
    """Run a program in a process of its own that can import none of the packages that models are trained with."""
    np.save(folder / "images.npy", images)
    blocked = BLOCKED if "torch" in code else [*BLOCKED, "torch"]
    program = ALONE.format(blocked=blocked, code=code)
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True, timeout=300)
    with np.load(folder / "found.npz") as found:
        return dict(found)


def expected(run: Path, images: torch.Tensor) -> dict[str, np.ndarray]:
    ensemble = Run.open(RunFolder.open(run)).calibrated_ensemble()
    return {name: values.numpy() for name, values in ensemble(images)._asdict().items()}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted) == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    for name in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4)
    for name in ("pred_label", "pred_mask"):
        assert np.mean(found[name] != wanted[name]) < 1e-4


@pytest.fixture
def photographs_of(finished_run: Path) -> torch.Tensor:
    """Four test images."""
    run = Run.open(RunFolder.open(finished_run))
    batches = [batch.image.as_subclass(torch.Tensor) for batch in run.images("test")]
    return torch.cat(batches)[::2]


@pytest.mark.slow
@pytest.mark.parametrize("form", CODE)
def test_a_run_is_exported_and_predicts_without_the_packages(
    finished_run: Path, photographs_of: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    for package in NEEDED[form]:
        pytest.importorskip(package)
    output = tmp_path / "export"
    assert main(["export", "--ckpt_dir", str(finished_run), "--format", form, "--output", str(output)]) == 0
    assert f"Export: {output}" in capsys.readouterr().out
    found = predicted_alone(tmp_path, photographs_of.numpy(), CODE[form])
    assert_same(found, expected(finished_run, photographs_of))
    check_manifest(output, finished_run, form)
    checkpoints = whole_checkpoints(finished_run)
    exported = sum(path.stat().st_size for path in output.iterdir())
    assert exported < checkpoints / 2, "the backbone is there once, not nine times"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tile models were there, each time that one was loaded."""
    loaded: list[ReferenceType[AnomalibModule]] = []
    numbers: list[int] = []
    load = SavedModels.load

    def counted(saved: SavedModels, tile: Tile) -> AnomalibModule:
        loaded.append(ref(model := load(saved, tile)))
        numbers.append(sum(each() is not None for each in loaded))
        return model

    monkeypatch.setattr(SavedModels, "load", counted)
    return numbers


def test_augmentations_of_test_images_are_refused_before_tiles_are_loaded(
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    held: list[int],
    noted_again: Callable[[Path], None],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["data"]["init_args"]["augmentations"] = {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip"}
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    noted_again(run)
    assert main(["export", "--ckpt_dir", str(run), "--format", "torch"]) == 2
    assert "the data module augments test images (RandomHorizontalFlip)" in capsys.readouterr().err
    assert held == []
    assert not any((run / "export").iterdir())


@pytest.mark.slow
def test_tile_models_run_one_after_the_other_with_the_program_beside_them(
    finished_run: Path, photographs_of: torch.Tensor, tmp_path: Path, held: list[int]
) -> None:
    for package in NEEDED["onnx"]:
        pytest.importorskip(package)
    output = tmp_path / "export"
    options = ["--format", "onnx", "--per_tile", "--input", "uint8", "--output", str(output)]
    assert main(["export", "--ckpt_dir", str(finished_run), *options]) == 0
    assert max(held) == 1, "tile models are not in memory together"
    pixels = (photographs_of * 255).round().to(torch.uint8)
    code = 'import sys\nsys.path.insert(0, "export")\nfrom run import TiledModel\nfound = TiledModel().predict(images)'
    assert_same(predicted_alone(tmp_path, pixels.numpy(), code), expected(finished_run, pixels / 255))
    assert len((output / "run.py").read_text().splitlines()) <= 100
    checkpoints = whole_checkpoints(finished_run)
    exported = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert exported < checkpoints / 2, "the backbone is there once, not nine times"
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"][0]["range"] == [0, 255]
    assert {"run.py", "joining.onnx", "tiles/r02_c02.onnx", "tiles/weights.data"} <= set(manifest["files"])


def test_tile_models_by_themselves_are_for_onnx_only(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--ckpt_dir", str(finished_run), "--format", "torch", "--per_tile"]) == 2
    assert "--per_tile writes onnx, but --format is torch. Set --format onnx." in capsys.readouterr().err


def check_manifest(output: Path, finished_run: Path, form: str) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"][0]["shape"] == ["any", 3, 112, 150]
    assert "bilinear with antialiasing, of bytes" in manifest["inputs"][0]["resizing"]
    assert manifest["augmentations"] == []
    assert manifest["needs"].partition(">")[0] == RUNTIME[form]
    assert [each["name"] for each in manifest["outputs"]] == ["pred_score", "pred_label", "anomaly_map", "pred_mask"]
    assert manifest["grid"]["tiles"][4] == {"name": "r01_c01", "top": 40, "left": 56}
    assert (manifest["format"], manifest["model"]) == (form, MAIN[form])
    calibration = json.loads((finished_run / "calibration.json").read_text())
    assert manifest["calibration"]["image"] == calibration["image"]
    assert manifest["run"]["folder"] == str(finished_run.resolve())
    assert manifest["packages"]["anomalib"].startswith("2.7")
    assert manifest["checked"]["real_images"] == 2
    assert manifest["checked"]["largest_difference"] < 1e-4
    assert set(manifest["files"]) == {path.name for path in output.iterdir()} - {"manifest.json", "export.log"}
    assert "Exporting: tile r00_c00 done, 1 of " in (output / "export.log").read_text()
    for name, checksum in manifest["files"].items():
        assert Checksum(**checksum) == Checksum.of(output / name)


def test_an_earlier_export_is_not_replaced_unasked(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "torch", "files": {}}')
    assert main(["export", "--ckpt_dir", str(finished_run), "--format", "torch", "--output", str(tmp_path)]) == 2
    assert "holds an earlier export. Replace it by --overwrite, or choose another" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_an_incomplete_run_is_refused_and_nothing_is_left(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "tiles" / "r01_c01.json").unlink()
    assert main(["export", "--ckpt_dir", str(run), "--format", "torch"]) == 2
    assert "lacks 1 tiles: r01_c01. Train them: `anomalib tiled fit --ckpt_dir" in capsys.readouterr().err
    assert not any((run / "export").iterdir())


def test_an_unknown_format_is_refused_before_the_run_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--ckpt_dir", "nowhere", "--format", "onyx"]) == 2
    assert "--format cannot be 'onyx'." in capsys.readouterr().err


def test_whole_checkpoints_are_of_one_kind(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--per_tile"], ["--input", "uint8"]):
        assert main(["export", "--ckpt_dir", str(finished_run), "--format", "checkpoints", *option]) == 2
        assert "--per_tile and --input have no meaning with --format checkpoints" in capsys.readouterr().err
