"""What only a GPU can show, through real commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.errors import OutOfMemoryError

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

Train = Callable[..., Path]

DEVICE = "cuda"
ROUNDING = 0.02
"""By how much scores in [0, 1] may differ: cuDNN convolves with numbers of 10 bits on cards that have these."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture
def train(configure: Callable[..., Path], folder: Path) -> Train:
    """Train and test, once for each name; gives the run folder."""

    def run(name: str, **changes: object) -> Path:
        root = folder / name
        if not root.exists():
            settings = {"trainer__accelerator": DEVICE, "default_root_dir": str(root), **changes}
            assert main(["train", "--config", str(configure(**settings))]) == 0
        return root / "Padim" / "photographs" / "v0"

    return run


@pytest.fixture
def too_little_memory() -> Iterator[None]:
    """Leave nothing of the GPU for new tensors."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def scores_of(run: Path) -> np.ndarray:
    with (run / "scores.csv").open(encoding="utf-8") as file:
        return np.array([float(row["pred_score"]) for row in csv.DictReader(file)])


def devices_of(run: Path) -> set[str]:
    return {json.loads(path.read_text())["device"] for path in (run / "tiles").glob("r*_c*.json")}


def test_a_gpu_gives_what_a_processor_gives(train: Train) -> None:
    there, here = train("gpu"), train("processor", trainer__accelerator="cpu")
    assert all(device.startswith(f"{DEVICE}:0 ") for device in devices_of(there))
    np.testing.assert_allclose(scores_of(there), scores_of(here), atol=ROUNDING)
    assert json.loads((there / "metrics.json").read_text())["image_AUROC"] == 1


def test_a_run_of_a_gpu_predicts_anywhere_and_may_move(train: Train, photographs: Path) -> None:
    image = photographs / "bad" / "000.png"
    ensemble = TiledEnsemble.load(train("gpu"))
    assert ensemble.device.type == DEVICE
    there = ensemble.predict(image)
    moved = [ensemble.to(device).predict(image) for device in ("cpu", DEVICE)]
    for each in (*moved, TiledEnsemble.load(train("gpu"), device="cpu").predict(image)):
        assert each.score == pytest.approx(there.score, abs=ROUNDING)
        np.testing.assert_allclose(each.map, there.map, atol=ROUNDING)


def test_predictions_of_a_command_are_those_in_memory(train: Train, photographs: Path, tmp_path: Path) -> None:
    run, output = train("gpu"), tmp_path / "output"
    command = ["predict", "--ckpt_dir", str(run), "--data", str(photographs / "bad"), "--output", str(output)]
    assert main([*command, "--device", f"{DEVICE}:0"]) == 0
    written = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    ensemble = TiledEnsemble.load(run)
    assert [line["pred_score"] for line in written] == pytest.approx(
        [ensemble.predict(line["image_path"]).score for line in written], abs=1e-3
    )


@pytest.mark.usefixtures("too_little_memory")
def test_a_fit_says_that_the_memory_of_the_gpu_ran_out(
    configure: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", str(configure(trainer__accelerator=DEVICE))]) == 2
    assert "The memory of GPU 0 ran out (CUDA out of memory." in capsys.readouterr().err


def test_a_prediction_says_so_too_and_later_ones_work(train: Train, photographs: Path) -> None:
    ensemble, image = TiledEnsemble.load(train("gpu")), photographs / "bad" / "000.png"
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(OutOfMemoryError, match=r"^The memory of GPU 0 ran out \(.*\)\. Lower memory_budget"):
            ensemble.predict(image)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert ensemble.predict(image).label


def test_models_beyond_a_budget_are_loaded_each_time_and_predict_alike(train: Train, photographs: Path) -> None:
    within, without = train("budget", memory_budget="1MB"), train("gpu")
    np.testing.assert_allclose(scores_of(within), scores_of(without), atol=1e-3)
    images = [photographs / "bad" / "000.png"] * 2
    limited, free = TiledEnsemble.load(within), TiledEnsemble.load(without)
    few, many = (
        [(each.score, ensemble.tile_models.held) for each in ensemble.predict_images(images)]
        for ensemble in (limited, free)
    )
    assert [score for score, _ in few] == pytest.approx([score for score, _ in many], abs=1e-3)
    assert few[-1][1] <= 500_000 < many[-1][1]


def test_several_processes_share_a_gpu(train: Train) -> None:
    two = train("two", workers={"class_path": "LocalWorkers", "init_args": {"processes": 2}})
    assert devices_of(two) == devices_of(train("gpu"))
    np.testing.assert_allclose(scores_of(two), scores_of(train("gpu")), atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_changes_scores_a_little(train: Train, precision: str) -> None:
    half, single = scores_of(train(precision, precision=precision)), scores_of(train("gpu"))
    np.testing.assert_allclose(half, single, atol=0.1)
    assert (half != single).any()
