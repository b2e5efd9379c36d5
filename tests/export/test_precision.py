"""Files of less precision: what loses it, what keeps it, and what it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.export import Exported, write_whole
from anomalib_tiled.export.formats import FORMATS, format_named
from anomalib_tiled.export.precision import (
    HalfWeights,
    PredictImages,
    Quantized,
    Reduced,
    TrainingImages,
    check_format,
    in_precision,
)
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.results.changes import Changes, Metric

Make = Callable[..., EnsembleModel]

GRID = TileGrid(Size(8, 12), Size(8, 8), Size(8, 4))
RANDOM = torch.Generator().manual_seed(0)
KERNELS, MATRIX, BLUR = (
    torch.rand(8, 3, 3, 3, generator=RANDOM),
    torch.rand(8, 8, generator=RANDOM),
    torch.ones(1, 1, 3, 3),
)


def a_little_of_all(tiles: torch.Tensor) -> torch.Tensor:
    """Convolve as a backbone does, multiply as a comparison with what was learned does, and blur as maps are."""
    found = functional.conv2d(tiles, KERNELS / 27, padding=1) @ MATRIX / 8
    return functional.conv2d(found.mean(dim=1, keepdim=True), BLUR / 9, padding=1)


@pytest.fixture
def run(image_folder: Path) -> SimpleNamespace:
    """What the quantization needs of a run: four training images."""
    samples = [Sample("train", path, None, 0) for path in sorted((image_folder / "good").iterdir())]
    return SimpleNamespace(split=Split(samples), source=DecodedFiles(GRID.image_size, has_masks=False), grid=GRID)


def largest_difference(ensemble: EnsembleModel, predict: PredictImages) -> float:
    images = torch.rand(3, 3, *GRID.image_size, generator=torch.Generator().manual_seed(1))
    return float((predict(images).anomaly_map - ensemble(images).anomaly_map).abs().max())


def test_weights_of_16_bits_take_half_of_the_room_and_change_little(make_ensemble: Make, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    ensemble = make_ensemble(GRID, lambda tiles: tiles @ torch.rand(8, 8, generator=torch.Generator().manual_seed(2)))
    sizes = {}
    for form in (FORMATS["openvino"], HalfWeights()):
        folder = tmp_path / type(form).__name__
        folder.mkdir()
        written = write_whole(ensemble, form, folder, torch.float32, print)
        sizes[type(form)] = (folder / "model.bin").stat().st_size
    assert sizes[HalfWeights] < 0.6 * sizes[type(FORMATS["openvino"])]
    difference = largest_difference(ensemble, PredictImages(written.predict, torch.float32, written.graph.batch))
    assert 1e-6 < difference < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_int8_is_for_convolutions_of_several_channels(
    make_ensemble: Make, run: SimpleNamespace, tmp_path: Path, dtype: torch.dtype
) -> None:
    pytest.importorskip("nncf")
    openvino = pytest.importorskip("openvino")
    ensemble = make_ensemble(GRID, a_little_of_all)
    written = write_whole(ensemble, Quantized(TrainingImages.of(run, dtype)), tmp_path, dtype, print)
    model = openvino.Core().read_model(tmp_path / "model.xml")
    inputs = [
        (node.get_type_name(), node.input_value(0).get_node().get_type_name() == "FakeQuantize", node.input(1).shape)
        for node in model.get_ops()
        if node.get_type_name() in {"Convolution", "MatMul"}
    ]
    assert {(name, quantized) for name, quantized, _ in inputs} == {
        ("Convolution", True),
        ("Convolution", False),
        ("MatMul", False),
    }
    assert all(quantized == (shape[0] == 8) for name, quantized, shape in inputs if name == "Convolution")
    assert [type_of_weights(node) for node in model.get_ops() if node.get_type_name() == "Convolution"].count("i8") == 2
    predict = PredictImages(written.predict, dtype, written.graph.batch)
    assert 1e-5 < largest_difference(ensemble, predict) < 0.1


def type_of_weights(convolution: object) -> str:
    """Give the type in which a file holds the weights of a convolution."""
    node = convolution.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node.get_element_type().get_type_name()


def test_training_images_are_chosen_evenly_and_read_as_the_run_does(run: SimpleNamespace) -> None:
    images = TrainingImages.of(run, torch.uint8, most=3)
    assert [each.image_path.name for each in images.images.samples] == ["0.png", "2.png", "3.png"]
    read = [each["images"] for each in images]
    assert len(images) == len(read) == len(list(images)) == 3, "they are read more than once"
    pixels = run.source.image(run.split.subset("train")[2], *GRID.whole)
    assert np.array_equal(read[1], pixels.transpose(2, 0, 1)[None])
    assert len(TrainingImages.of(run, torch.float32)) == 4


def test_files_predict_in_their_batches_as_an_ensemble_does() -> None:
    given = []

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given.append(inputs["images"])
        return {"pred_score": inputs["images"][:, 0, 0, 0].astype(np.float32)}

    images = torch.tensor([0.0, 1.0, 0.2]).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
    assert PredictImages(predict, torch.uint8, 1)(images).pred_score.tolist() == [0, 255, 51]
    assert [len(each) for each in given] == [1, 1, 1]
    assert PredictImages(predict, torch.float32, None)(images).pred_score.tolist() == images[:, 0, 0, 0].tolist()
    assert len(given) == 4


def test_less_precision_is_for_openvino_only(run: SimpleNamespace) -> None:
    assert in_precision(FORMATS["onnx"], "float32", run, torch.float32) is FORMATS["onnx"]
    assert isinstance(in_precision(FORMATS["openvino"], "float16", run, torch.float32), HalfWeights)
    assert isinstance(in_precision(FORMATS["openvino"], "int8", run, torch.float32), Quantized)
    with pytest.raises(ConfigurationError, match=r"--precision int8 needs --format openvino, but --format is onnx\."):
        in_precision(format_named("onnx"), "int8", run, torch.float32)
    with pytest.raises(ConfigurationError, match=r"--format is checkpoints\. Set --format openvino, or leave --prec"):
        check_format("checkpoints", "float16")


def test_a_missing_nncf_is_named_with_its_extra(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantized, "packages", ("not_there",))
    with pytest.raises(ConfigurationError, match=r"not installed: not_there\. .* pip install 'anomalib-tiled\[int8\]'"):
        Quantized(TrainingImages.of(run, torch.float32)).check_installed()


def test_changes_beyond_the_tolerance_are_refused_or_told() -> None:
    found = Reduced("int8", Changes(10, 0.3, 0.1, 0, Metric(1.0, 0.9), None), 64)
    message = (
        r"^Predictions with int8 .* scores move by 0\.1 on average .* image AUROC falls from 1\.0000 to 0\.9000 .*"
        r"Set --precision float32 or float16; or accept the changes by --allow_changes"
    )
    with pytest.raises(ConfigurationError, match=message):
        found.check()
    compared, warning, batch = Exported(found, 1).lines("Patchcore")
    assert compared.startswith("Compared with the run, by int8: scores move by 0.1, at most by 0.3; 0 of 10 labels")
    assert warning.startswith("warning: More changes than without --allow_changes: scores move by 0.1 on average")
    assert batch.startswith("Note: The files take 1 image at a time")
    assert found.to_json()["precision"]["calibration_images"] == 64
    half = Reduced("float16", Changes(10, 0.0, 0.0, 0, None, None))
    half.check()
    assert [*half.to_json()["precision"]] == ["type", "changes", "tolerance"]
    assert len([*half.lines()]) == 1
