"""The ensemble as a model of anomalib's own Engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.engine import Engine

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.runs.run_folder import RunFolder


@pytest.fixture
def ensemble(finished_run: Path) -> TiledEnsemble:
    return TiledEnsemble.load(finished_run)


@pytest.fixture
def datamodule(finished_run: Path) -> AnomalibDataModule:
    return Run.open(RunFolder.open(finished_run)).datamodule


def test_engine_measures_what_the_command_measures(
    ensemble: TiledEnsemble, datamodule: AnomalibDataModule, finished_run: Path, tmp_path: Path
) -> None:
    (measured,) = Engine(default_root_dir=tmp_path).test(ensemble, datamodule=datamodule, verbose=False)
    assert measured == pytest.approx(json.loads((finished_run / "metrics.json").read_text()), abs=1e-6)


def test_engine_predicts(ensemble: TiledEnsemble, photographs: Path, tmp_path: Path) -> None:
    predictions = Engine(default_root_dir=tmp_path).predict(ensemble, data_path=photographs / "bad")
    assert predictions is not None
    assert [bool(batch.pred_label) for batch in predictions] == [True] * 4
    assert all(batch.anomaly_map.shape[-2:] == (112, 150) for batch in predictions)


def test_forward_gives_an_inference_batch(ensemble: TiledEnsemble) -> None:
    output = ensemble(torch.rand(2, 3, 112, 150))
    assert isinstance(output, InferenceBatch)
    assert output.pred_score.shape == output.pred_label.shape == (2,)
    assert output.anomaly_map.shape == output.pred_mask.shape == (2, 1, 112, 150)


def test_a_batch_is_predicted_as_its_images_are(ensemble: TiledEnsemble) -> None:
    images = torch.rand(3, 3, 112, 150)
    together = ensemble(images).anomaly_map
    apart = torch.cat([ensemble(image[None]).anomaly_map for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
