"""Models of several kinds are exported, and one that cannot be says so at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import yaml

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.supported_models import SUPPORT

SMALL = {"pre_trained": False, "backbone": "resnet18"}
KINDS = {
    "a memory of patches": ("Patchcore", SMALL | {"layers": ["layer2"]}, 1),
    "a flow": ("Fastflow", SMALL | {"flow_steps": 1}, "any"),
    "student and teacher": ("Stfpm", {}, "any"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "init_args", "batch"), KINDS.values(), ids=KINDS)
def test_models_of_each_kind_are_exported(
    configure: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    init_args: dict[str, object],
    batch: int | str,
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    create = timm.create_model

    def create_random(*args: object, pretrained: bool = False, **options: object) -> torch.nn.Module:
        return create(*args, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create_random)
    changes = {"tiling": {"tile_size": [112, 80]}, "trainer": {"max_epochs": 1, "limit_train_batches": 1}}
    path = configure(**changes, model={"class_path": f"anomalib.models.{model}", "init_args": init_args}, cache=None)
    assert main(["fit", "--config", str(path)]) == 0
    run = path.parent / "results" / model / "photographs" / "v0"
    assert main(["export", "--ckpt_dir", str(run), "--format", "onnx"]) == 0
    manifest = json.loads((run / "export" / "onnx" / "manifest.json").read_text())
    assert manifest["checked"]["largest_difference"] < 1e-4
    assert manifest["inputs"][0]["shape"] == [batch, 3, 112, 150]
    note = f"Note: The files take 1 image at a time: {model} or a stage fixes the batch size."
    assert (note in capsys.readouterr().out) == (batch == 1)


@pytest.mark.parametrize("name", sorted(name for name, each in SUPPORT.items() if each.not_exported or each.not_onnx))
def test_a_model_that_cannot_be_exported_says_so_at_once(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    configuration = yaml.safe_load((finished_run / "config.yaml").read_text())
    configuration["model"] = {"class_path": f"anomalib.models.{name}", "init_args": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(configuration))
    for file in ("split.csv", "seals.json"):  # no tile is needed to know
        shutil.copy(finished_run / file, run)
    assert main(["export", "--ckpt_dir", str(run), "--format", "onnx"]) == 2
    said, support = capsys.readouterr().err, SUPPORT[name]
    assert f"{name} cannot be exported" in said
    assert f": {support.not_exported or support.not_onnx}. " in said
    assert not (run / "export").exists()
