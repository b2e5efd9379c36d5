"""What the page on exports says about sizes and models holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.data.images import read_image
from anomalib_tiled.data.part_finder import PartFinder
from anomalib_tiled.data.warping import unwarped
from anomalib_tiled.ensemble.supported_models import SUPPORT
from anomalib_tiled.export.export import Exported, alignment_of
from anomalib_tiled.export.manifest import Checked
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.alignment import Aligner

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
RESIZING = [block for block in BLOCKS if "image.png" in block]


@pytest.mark.parametrize(("block", "level"), list(zip(RESIZING, (0, 1), strict=True)))
def test_the_blocks_that_resize_give_what_the_run_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str, level: int
) -> None:
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    width_first = "(1024, 1024)" in block
    block = block.replace("1024, 1024", "150, 112" if width_first else "112, 150")
    exec(compile(block, "docs/export.md", "exec"), names)  # noqa: S102  # the blocks are our own
    images = np.asarray(names["images"])
    assert (images.dtype, images.shape) == (np.float32, (1, 3, 112, 150))
    expected = read_image(tmp_path / "image.png", Size(112, 150)).transpose(2, 0, 1)
    assert np.abs(images[0] * 255 - expected).max() < level + 1e-3


def test_the_block_that_aligns_gives_what_the_run_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [each for each in BLOCKS if "part.png" in each]
    part, size = skimage.data.astronaut()[100:260, 100:300], Size(160, 200)
    turned = cv2.getRotationMatrix2D((100, 80), 2, 1)
    turned[:, 2] += 5.5, -3
    Image.fromarray(cv2.warpAffine(part, turned, (200, 160))).save(tmp_path / "part.png")
    spec = ClassSpec("anomalib_tiled.stages.aligners.Rigid", {"max_rotation": 5.0})
    finder = PartFinder(aligner := spec.build(Aligner), aligner.learn([part] * 2), size)
    settings = SimpleNamespace(stages={"alignment": spec})
    manifest = alignment_of(SimpleNamespace(job=SimpleNamespace(finder=finder), settings=settings), tmp_path)
    manifest["inputs"] = [{"shape": ["any", 3, *size]}]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "docs/export.md", "exec"), names)  # noqa: S102  # the blocks are our own
    matrix = finder.find(read_image(tmp_path / "part.png", size)).matrix
    expected = read_image(tmp_path / "part.png", size, matrix)
    assert np.allclose(names["images"][0] * 255, expected.transpose(2, 0, 1), atol=1e-3)
    assert np.abs(expected.astype(int) - part)[20:-20, 20:-20].mean() < 4, "the part lies where it was learned"
    mask = np.zeros(size, np.bool_)
    mask[60:80, 90:120] = True
    back, ours = names["moved_back"](mask), unwarped(mask.astype(np.float32), size, matrix) > 0
    assert (back & ours).sum() > 0.95 * ours.sum()


def test_an_export_of_an_aligned_run_warns() -> None:
    lines = [*Exported(Checked(3, 2, 0.0), None, needs_alignment=True).lines("Padim")]
    assert any(line.startswith("warning: The files do not align images, as the run does") for line in lines)
    assert not any("align" in line for line in Exported(Checked(3, 2, 0.0), None).lines("Padim"))


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
