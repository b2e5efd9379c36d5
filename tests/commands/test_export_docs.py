"""What the page on exports shows runs in the folder of an export, with the runtime alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from anomalib_tiled.cli.main import main
from anomalib_tiled.data.images import read_image
from anomalib_tiled.ensemble.supported_models import SUPPORT
from anomalib_tiled.grid import Size

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
RESIZING = [block for block in BLOCKS if "image.png" in block]
PROGRAMS = re.findall(r"^```bash\n(python .*?)^```", PAGE, re.DOTALL | re.MULTILINE)
RUNTIMES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
TRAINING = ["anomalib", "anomalib_tiled", "lightning", "timm", "torchvision"]


def alone(code: str, folder: Path, runtime: str) -> str:
    """Run code where only a runtime can be imported, and give what it prints."""
    blocked = [*TRAINING, *(each for each in RUNTIMES.values() if each != runtime)]
    # A folder of its own comes first; what is not to be had is taken out of the modules.
    program = f"import sys\nsys.modules.update(dict.fromkeys({blocked}))\n{code}"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, check=True, timeout=300, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("form", RUNTIMES)
def test_the_block_of_each_format_runs(finished_run: Path, tmp_path: Path, form: str) -> None:
    pytest.importorskip(RUNTIMES[form])
    pytest.importorskip("onnxscript")
    (block,) = (
        each for each in BLOCKS if each not in RESIZING and re.search(rf"^import {RUNTIMES[form]}$", each, re.MULTILINE)
    )
    assert main(["export", "--ckpt_dir", str(finished_run), "--format", form, "--output", str(tmp_path / "out")]) == 0
    printed = alone(
        sized(block) + ("" if "print" in block else "print(score, label)"), tmp_path / "out", RUNTIMES[form]
    )
    assert re.search(r"\[[\d.e-]+\].*\[ ?(True|False)\]", printed), printed


@pytest.mark.slow
def test_the_program_for_tiles_runs_and_refuses_what_was_altered(finished_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    output = tmp_path / "out"
    options = ["--format", "onnx", "--per_tile", "--output", str(output)]
    assert main(["export", "--ckpt_dir", str(finished_run), *options]) == 0
    (command,) = PROGRAMS
    _, program, images, found = command.split()
    np.save(output / images, np.zeros((1, 3, 112, 150), np.float32))
    subprocess.run([sys.executable, program, images, found], cwd=output, check=True, timeout=300)
    with np.load(output / found) as content:
        assert sorted(content) == ["anomaly_map", "pred_label", "pred_mask", "pred_score"]
    imports, predicting = re.findall(r"`(from run import TiledModel)` and `(TiledModel\(\)\.predict\(images\))`", PAGE)[
        0
    ]
    code = f"{imports}\nimport numpy\nimages = numpy.load('{images}')\nprint({predicting}['pred_score'])"
    assert alone(code, output, "onnxruntime").startswith("[")
    manifest = json.loads((output / "manifest.json").read_text())
    manifest["files"]["tiles/r01_c01.onnx"]["sha256"] = "another"
    (output / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        alone(code, output, "onnxruntime")
    assert "r01_c01.onnx has changed since its export." in caught.value.stderr


def test_there_is_a_block_for_each_format() -> None:
    assert len(BLOCKS) == len(RUNTIMES) + len(RESIZING)


@pytest.mark.parametrize(("block", "level"), list(zip(RESIZING, (0, 1), strict=True)))
def test_the_blocks_that_resize_give_what_the_run_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str, level: int
) -> None:
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    width_first = "(1024, 1024)" in block
    sized_block = block.replace("(1024, 1024)", "(150, 112)") if width_first else sized(block)
    exec(compile(sized_block, "docs/export.md", "exec"), names)  # noqa: S102  # the blocks are our own
    images = np.asarray(names["images"])
    assert (images.dtype, images.shape) == (np.float32, (1, 3, 112, 150))
    expected = read_image(tmp_path / "image.png", Size(112, 150)).transpose(2, 0, 1)
    assert np.abs(images[0] * 255 - expected).max() < level + 1e-3


def test_the_table_of_models_says_what_the_rule_says() -> None:
    table = PAGE.partition("<!-- models -->")[2].partition("<!-- end of models -->")[0]
    rows = {name: cells.split(" | ") for name, cells in re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)}
    assert sorted(rows) == sorted(name for name, support in SUPPORT.items() if not support.reason)
    refused = {name: f"no: {support.not_exported}" for name, support in SUPPORT.items() if support.not_exported}
    not_onnx = {name: f"no: {support.not_onnx}" for name, support in SUPPORT.items() if support.not_onnx}
    assert {name: row[0] for name, row in rows.items() if row[0].startswith("no:")} == refused
    assert {name: row[1] for name, row in rows.items() if row[1].startswith("no:") and name not in refused} == not_onnx
    known = {name: row for name, row in rows.items() if name not in refused}
    assert all({*row[:2]} <= {"yes", "not tried"} for name, row in known.items() if name not in not_onnx)
    assert {row[2].strip() for row in known.values()} <= {"any", "one", ""}


def sized(block: str) -> str:
    """Give code for the images of the run."""
    assert "1024, 1024" in block
    return block.replace("1024, 1024", "112, 150")
