"""A configuration of anomalib's own tiled ensemble, run as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.cli.main import main
from anomalib_tiled.config.settings import Settings

REFERENCE = """
seed: 42
accelerator: "cpu"
default_root_dir: "results"
tiling:
  tile_size: [56, 75]
  stride: [56, 75]
normalization_stage: image
thresholding:
  method: anomalib.metrics.F1AdaptiveThreshold
  stage: tile
data:
  class_path: anomalib.data.image.folder.Folder
  init_args:
    name: photographs
    root: ./datasets/photographs
    normal_dir: good
    normal_test_dir: good_test
    abnormal_dir: bad
    mask_dir: mask
    num_workers: 0
    task: segmentation
    transform: null
    image_size: [112, 150]
    val_split_mode: same_as_test
SeamSmoothing:
  apply: False
  sigma: 2
  width: 0.1
TrainModels:
  model:
    class_path: Padim
    init_args: {pre_trained: false, layers: [layer1], n_features: 10}
  metrics:
    image: AUROC
    pixel: [AUROC, AUPRO]
  trainer:
    max_epochs: 1
    callbacks:
      - class_path: lightning.pytorch.callbacks.EarlyStopping
        init_args: {monitor: image_F1Score, mode: max}
"""


@pytest.mark.slow
def test_it_runs_unchanged(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration, results = tmp_path / "ens_config.yaml", tmp_path / "results"
    configuration.write_text(REFERENCE, encoding="utf-8")
    overrides = ["--data.init_args.root", str(photographs), "--default_root_dir", str(results)]
    overrides += ["--workers.processes=1", "--visualize=false"]  # other processes start in seconds
    assert main(["train", *overrides, "--config", str(configuration)]) == 0
    run = results / "Padim" / "photographs" / "v0"
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert list(metrics) == ["image_AUROC", "pixel_AUROC", "pixel_AUPRO"]
    assert metrics["pixel_AUROC"] > 0.8
    assert len(list(run.glob("tiles/r*_c*.ckpt"))) == 4
    settings = Settings.from_mapping(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
    assert (settings.seed_everything, "seam_smoothing" in settings.stages, settings.thresholding.stage) == (
        42,
        False,
        "tile",
    )
    assert capsys.readouterr().err.count("Configuration of anomalib's own tiled ensemble, read as") == 1


def test_a_mixture_of_forms_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = tmp_path / "ens_config.yaml"
    configuration.write_text(f"{REFERENCE}\nworkers: LocalWorkers\n", encoding="utf-8")
    assert main(["fit", "--config", str(configuration)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(
        "error: A configuration must be in one form, but workers stands beside seed, accelerator, "
    )
