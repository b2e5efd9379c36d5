"""Files of less precision: what loses it, what keeps it, and what it changes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_tiled.data.cache import DecodedFiles
from anomalib_tiled.data.split import Sample, Split
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.export.export import Exported
from anomalib_tiled.export.formats import FORMATS, OpenVinoFormat, format_named
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

GRID = TileGrid(Size(8, 12), Size(8, 8), Size(8, 4))
RANDOM = np.random.default_rng(0)


@pytest.fixture
def model() -> object:
    """A model of OpenVINO with a bit of all: a convolution, a blur, a product of matrices, and a threshold."""
    openvino = pytest.importorskip("openvino")
    operations = pytest.importorskip("openvino.opset13")

    def convolved(images: object, kernels: np.ndarray) -> object:
        return operations.convolution(images, operations.constant(kernels), [1, 1], [1, 1], [1, 1], [1, 1])

    images = operations.parameter([-1, 3, *GRID.image_size], np.float32, name="images")
    images.output(0).set_names({"images"})
    features = convolved(images, RANDOM.random((8, 3, 3, 3), np.float32) / 27)
    compared = operations.matmul(
        features, operations.constant(RANDOM.random((12, 1000), np.float32) / 12), transpose_a=False, transpose_b=False
    )
    maps = operations.reduce_mean(compared, operations.constant(np.array([1])), keep_dims=True)
    blurred = convolved(maps, np.full((1, 1, 3, 3), 1 / 9, np.float32))
    found = operations.subtract(blurred, operations.constant(np.float32(0.3)))
    found.output(0).set_names({"anomaly_map"})
    return openvino.Model([found], [images])


@pytest.fixture
def run(image_folder: Path) -> SimpleNamespace:
    """What the quantization needs of a run: four training images."""
    samples = [Sample("train", path, None, 0) for path in sorted((image_folder / "good").iterdir())]
    return SimpleNamespace(split=Split(samples), source=DecodedFiles(GRID.image_size, has_masks=False), grid=GRID)


def compared(model: object, form: OpenVinoFormat, path: Path) -> float:
    """Write a model in two ways, and give the largest difference of what the files predict."""
    images, exact = RANDOM.random((3, 3, *GRID.image_size), np.float32), FORMATS["openvino"]
    exact._save(model, path.with_name("exact.xml"))
    form._save(model, path)
    found = [each.load(file)({"images": images}) for each, file in ((exact, path.with_name("exact.xml")), (form, path))]
    return float(np.abs(found[0]["anomaly_map"] - found[1]["anomaly_map"]).max())


def test_weights_of_16_bits_take_half_of_the_room_and_change_little(model: object, tmp_path: Path) -> None:
    assert 1e-6 < compared(model, HalfWeights(), tmp_path / "half.xml") < 1e-3
    half, exact = ((tmp_path / f"{name}.bin").stat().st_size for name in ("half", "exact"))
    assert half < 0.55 * exact
    assert sorted(constants_of(tmp_path / "half.xml")) == [
        ((), "f32"),
        ((1, 1, 3, 3), "f16"),
        ((8, 3, 3, 3), "f16"),
        ((12, 1000), "f16"),
    ]


def test_int8_is_for_convolutions_of_several_channels(model: object, run: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    form = Quantized(TrainingImages.of(run, torch.float32))
    assert 1e-6 < compared(model, form, tmp_path / "int8.xml") < 0.02
    held = dict(constants_of(tmp_path / "int8.xml"))
    assert held[8, 3, 3, 3] == "i8"
    assert held[1, 1, 3, 3] == held[12, 1000] == "f32"


def constants_of(path: Path) -> list[tuple[tuple[int, ...], str]]:
    """Give shape and type of the numbers in a file, without those of quantizers, which are scalars."""
    import openvino

    nodes = [node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    found = [(tuple(node.get_output_shape(0)), node.get_output_element_type(0).get_type_name()) for node in nodes]
    return [(shape, kind) for shape, kind in found if kind != "i64"]


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


def test_changes_beyond_the_tolerance_are_refused_or_printed() -> None:
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
