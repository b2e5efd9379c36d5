"""A run is exported; what comes out predicts as the documentation says, without anomalib and without this package."""

from __future__ import annotations

import json
import re
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
from anomalib_tiled.results.changes import Tolerance
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.system.checksums import Checksum

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
RUNTIMES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
MAIN = {"torch": "model.pt2", "onnx": "model.onnx", "openvino": "model.xml"}
TRAINING = ["anomalib", "anomalib_tiled", "lightning", "timm", "torchvision"]
OUTPUTS = ["pred_score", "pred_label", "anomaly_map", "pred_mask"]


def block_of(runtime: str) -> str:
    """Give the program of the page for a runtime, with images from a file, that writes the outputs to another."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    [block] = [each for each in blocks if f"import {runtime}\n" in each and "image.png" not in each]
    block, times = re.subn(r"np\.random\.rand\(1, 3, 1024, 1024\)|torch\.rand\(1, 3, 1024, 1024\)", "IMAGES", block)
    assert times == 1
    block = block.replace("model(IMAGES)", "model(torch.from_numpy(IMAGES))")
    if runtime == "onnxruntime":
        block += f"found = dict(zip({OUTPUTS}, (score, label, anomaly_map, mask)))\n"
    saving = f"{{name: numpy.asarray(found[name]) for name in {OUTPUTS}}}"
    return f"import numpy\nIMAGES = numpy.load('images.npy')\n{block}numpy.savez('found.npz', **{saving})"


def predicted_alone(folder: Path, images: np.ndarray, program: str, runtime: str) -> dict[str, np.ndarray]:
    """Run a program in the folder of an export, where of all packages only NumPy and the runtime can be imported."""
    np.save(folder / "images.npy", images)
    blocked = [*TRAINING, *(each for each in RUNTIMES.values() if each != runtime)]
    command = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n{program}"
    subprocess.run([sys.executable, "-c", command], cwd=folder, check=True, timeout=300, capture_output=True)
    with np.load(folder / "found.npz") as found:
        return dict(found)


def assert_same(found: dict[str, np.ndarray], run: Path, images: torch.Tensor) -> None:
    expected = Run.open(RunFolder.open(run)).calibrated_ensemble()(images)._asdict()
    assert set(found) == set(expected) == set(OUTPUTS)
    for name in ("pred_score", "anomaly_map"):
        np.testing.assert_allclose(found[name], expected[name].numpy(), atol=1e-4)
    for name in ("pred_label", "pred_mask"):
        assert np.mean(found[name] != expected[name].numpy()) < 1e-4


def assert_shared(run: Path, output: Path) -> None:
    """Compare with the size that checkpoints would have if each held all of its weights."""
    own = [path.stat().st_size for path in (run / "tiles").glob("r*.ckpt")]
    [shared] = (run / "tiles").glob("shared-*.ckpt")
    exported = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert exported < (sum(own) + len(own) * shared.stat().st_size) / 2, "the backbone is there once, not nine times"


@pytest.fixture
def photographs_of(finished_run: Path) -> torch.Tensor:
    """Four test images."""
    run = Run.open(RunFolder.open(finished_run))
    batches = [batch.image.as_subclass(torch.Tensor) for batch in run.images("test")]
    return torch.cat(batches)[::2]


@pytest.mark.slow
@pytest.mark.parametrize("form", RUNTIMES)
def test_a_run_is_exported_and_predicts_without_the_packages(
    finished_run: Path, photographs_of: torch.Tensor, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    pytest.importorskip(RUNTIMES[form])
    pytest.importorskip("onnxscript")
    output = tmp_path / "export"
    assert main(["export", "--ckpt_dir", str(finished_run), "--format", form, "--output", str(output)]) == 0
    assert f"Export: {output}" in capsys.readouterr().out
    check_manifest(output, finished_run, form)
    assert_shared(finished_run, output)
    found = predicted_alone(output, photographs_of.numpy(), block_of(RUNTIMES[form]), RUNTIMES[form])
    assert_same(found, finished_run, photographs_of)


def check_manifest(output: Path, finished_run: Path, form: str) -> None:
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"][0]["shape"] == ["any", 3, 112, 150]
    assert "bilinear with antialiasing, of bytes" in manifest["inputs"][0]["resizing"]
    assert manifest["augmentations"] == []
    assert manifest["needs"].partition(">")[0] == RUNTIMES[form]
    assert [each["name"] for each in manifest["outputs"]] == OUTPUTS
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


@pytest.mark.slow
def test_tile_models_run_one_after_the_other_with_the_program_beside_them(
    finished_run: Path, photographs_of: torch.Tensor, tmp_path: Path, held: list[int]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    output = tmp_path / "export"
    options = ["--format", "onnx", "--per_tile", "--input", "uint8", "--output", str(output)]
    assert main(["export", "--ckpt_dir", str(finished_run), *options]) == 0
    assert max(held) == 1, "tile models are not in memory together"
    assert_shared(finished_run, output)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"][0]["range"] == [0, 255]
    assert {"run.py", "joining.onnx", "tiles/r02_c02.onnx", "tiles/weights.data"} <= set(manifest["files"])

    pixels = (photographs_of * 255).round().to(torch.uint8)
    [command] = re.findall(r"^```bash\npython (.*?)\n```", PAGE, re.MULTILINE)
    program = f"import runpy\nsys.argv = {command.split()}\nrunpy.run_path('run.py', run_name='__main__')"
    found = predicted_alone(output, pixels.numpy(), program, "onnxruntime")
    assert_same(found, finished_run, pixels / 255)
    [(imports, predicting)] = re.findall(r"`(from run .*?)` and `(TiledModel.*?)` do the same", PAGE)
    program = f"import numpy\nimages = numpy.load('images.npy')\n{imports}\nnumpy.savez('found.npz', **{predicting})"
    assert all(
        np.array_equal(values, found[name])
        for name, values in predicted_alone(output, pixels.numpy(), program, "onnxruntime").items()
    )

    manifest["files"]["tiles/r01_c01.onnx"]["sha256"] = "another"
    (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        predicted_alone(output, pixels.numpy(), program, "onnxruntime")
    assert b"r01_c01.onnx has changed since its export. Export it again." in caught.value.stderr


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_less_precision_says_what_it_changes(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf" if precision == "int8" else "onnxscript")
    output = tmp_path / "export"
    options = ["--format", "openvino", "--precision", precision, "--output", str(output)]
    assert main(["export", "--ckpt_dir", str(finished_run), *options]) == 0
    assert f"Compared with the run, by {precision}: scores move by " in capsys.readouterr().out
    manifest = json.loads((output / "manifest.json").read_text())
    assert "checked" not in manifest, "rounding is not all that changes"
    facts = manifest["precision"]
    assert facts["type"] == precision
    assert facts.get("calibration_images") == (8 if precision == "int8" else None)
    assert facts["changes"]["images"] == 8
    assert 0 < facts["changes"]["mean"] <= facts["tolerance"]["mean"]
    assert facts["changes"]["image_auroc"]["before"] == 1


@pytest.mark.slow
def test_changes_beyond_the_tolerance_leave_no_files_unless_they_are_allowed(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(Tolerance, "beyond", lambda *_: ["all is different"])
    output = tmp_path / "export"
    options = ["--format", "openvino", "--precision", "float16", "--output", str(output)]
    command = ["export", "--ckpt_dir", str(finished_run), *options]
    assert main(command) == 2
    assert "validation images all is different. Set --precision float32; or accept" in capsys.readouterr().err
    assert not output.exists()
    assert main([*command, "--allow_changes"]) == 0
    assert "warning: More changes than without --allow_changes: all is different." in capsys.readouterr().out
    assert (output / "model.xml").is_file()


@pytest.mark.parametrize("form", ["torch", "onnx", "checkpoints"])
def test_less_precision_is_for_openvino_only(capsys: pytest.CaptureFixture[str], form: str) -> None:
    assert main(["export", "--ckpt_dir", "nowhere", "--format", form, "--precision", "float16"]) == 2
    assert f"--precision float16 needs --format openvino, but --format is {form}." in capsys.readouterr().err


def test_tile_models_by_themselves_are_for_onnx_only(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--ckpt_dir", str(finished_run), "--format", "torch", "--per_tile"]) == 2
    assert "--per_tile writes onnx, but --format is torch. Set --format onnx." in capsys.readouterr().err


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
