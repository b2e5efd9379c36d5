"""The two ways in which docs/weights.md brings weights to a machine without internet, with a very small backbone."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from anomalib_tiled.cli.main import main

pytestmark = pytest.mark.slow

NAME = "test_resnet"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder as docs/weights.md has it written."""
    torch.manual_seed(0)
    folder = tmp_path / "weights"
    save_for_hf(timm.create_model(NAME), folder, safe_serialization=True)
    return folder


@pytest.fixture
def padim(configure: Callable[..., Path]) -> Path:
    """Configuration of a Padim with trained weights, two tiles."""
    arguments = {"backbone": NAME, "layers": ["layer1"], "n_features": 10, "pre_trained": True}
    return configure(tiling__tile_size=[112, 75], tiling__stride=None, visualize=False, model__init_args=arguments)


@pytest.fixture
def cache(weights: Path, tmp_path: Path) -> Path:
    """A folder HF_HOME that holds the same weights under the name by which timm asks for them."""
    model = f"models--{timm.get_pretrained_cfg(NAME).hf_hub_id}".replace("/", "--")
    snapshot = tmp_path / "home" / "hub" / model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.copy(weights / "model.safetensors", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    return tmp_path / "home"


def scores(run: Path) -> list[str]:
    with (run / "scores.csv").open() as file:
        return [row["pred_score"] for row in csv.DictReader(file)]


def test_a_folder_and_a_cache_with_the_same_weights_give_the_same_scores(
    padim: Path, weights: Path, cache: Path, tmp_path: Path
) -> None:
    folder = ["--model.backbone", f"local-dir:{weights}", "--data.name", "folder"]
    assert main(["train", "--config", str(padim), *folder]) == 0
    program = Path(sys.executable).with_name("anomalib-tiled")
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [program, "train", "--config", padim, "--data.name", "cache"]
    subprocess.run(command, check=True, env=environment)
    random = ["--model.pre_trained", "false", "--data.name", "random"]
    assert main(["train", "--config", str(padim), *random]) == 0
    runs = tmp_path / "results" / "Padim"
    assert scores(runs / "folder" / "v0") == scores(runs / "cache" / "v0") != scores(runs / "random" / "v0")


def test_a_run_needs_of_its_folder_of_weights_only_the_configuration(
    padim: Path, weights: Path, tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(padim), "--model.backbone", f"local-dir:{weights}"]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    predict = ["predict", "--ckpt_dir", str(run), "--data", str(photographs / "bad")]
    moved = weights.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(predict) == 2
    assert capsys.readouterr().err == (
        "error: Padim, the model of the run, cannot be made here; the checkpoints are not the cause. "
        f"{weights / 'config.json'} is missing. Restore the folder; only config.json is read.\n"
    )
    weights.mkdir()
    shutil.copy(moved / "config.json", weights)
    assert main(predict) == 0
