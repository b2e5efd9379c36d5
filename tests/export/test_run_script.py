"""The program that is copied beside tile models refuses images that it would score wrongly."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from anomalib_tiled.export.export import RUNNER
from anomalib_tiled.export.run_script import TiledModel

SIZE = (4, 6)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest for one tile; models give the mean of each image, and accept a single one."""
    image = {"dtype": "float32", "shape": [1, 3, *SIZE], "range": [0, 1]}
    grid = {"tile_size": SIZE, "tiles": [{"name": "r00_c00", "top": 0, "left": 0}]}
    manifest = {"files": {}, "joining": "joining.onnx", "inputs": [image], "grid": grid}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))

    class Session:
        def __init__(self, path: str, providers: list[str]) -> None:
            del path, providers

        def get_outputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="pred_score")]

        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            del names
            (values,) = inputs.values()
            assert len(values) == 1
            return [values.reshape(1, -1).mean(axis=1)]

    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setitem(TiledModel.__init__.__globals__, "InferenceSession", Session)
    return tmp_path


def test_several_images_are_predicted_one_by_one(folder: Path) -> None:
    images = np.random.default_rng(0).random((3, 3, *SIZE), dtype=np.float32)
    found = TiledModel(folder).predict(images)
    np.testing.assert_allclose(found["pred_score"], images.mean(axis=(1, 2, 3)), rtol=1e-6)


WRONG = {
    "float64": (np.zeros((1, 3, *SIZE)), r"must be float32 of shape \[1, 3, 4, 6\], but are float64"),
    "channels last": (np.zeros((1, *SIZE, 3), np.float32), r"but are float32, \(1, 4, 6, 3\)"),
    "0 to 255": (
        np.full((1, 3, *SIZE), 255, np.float32),
        r"from 0 to 1, but have values from 255\.0 to 255\.0",
    ),
    "not a number": (np.full((1, 3, *SIZE), np.nan, np.float32), "but have values from nan to nan"),
}


@pytest.mark.parametrize(("images", "message"), WRONG.values(), ids=WRONG)
def test_images_of_another_kind_are_refused(folder: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TiledModel(folder).predict(images)


def test_nothing_but_predictions_is_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy before 2.1 takes every argument with a name for an array."""
    given = []
    monkeypatch.setattr(np, "savez", lambda _, **arrays: given.append(sorted(arrays)))
    program = folder / "run.py"
    program.write_text(RUNNER.read_text())
    np.save(folder / "images.npy", np.zeros((1, 3, *SIZE), np.float32))
    monkeypatch.setattr("sys.argv", [str(program), str(folder / "images.npy"), "found.npz"])
    runpy.run_path(str(program), run_name="__main__")
    assert given == [["pred_score"]]


def test_rounding_may_take_white_beyond_1(folder: Path) -> None:
    images = np.full((1, 3, *SIZE), 1 + 1e-6, np.float32)
    assert images.max() > 1
    assert TiledModel(str(folder)).predict(images)["pred_score"] == [1.0]
    with pytest.raises(ValueError, match=r"must have values from 0 to 1, but have values from 1\.0001\d* to 1\.0001"):
        TiledModel(folder).predict(images + np.float32(1e-4))


def test_it_is_short_enough_to_be_read() -> None:
    assert len(RUNNER.read_text().splitlines()) <= 100
