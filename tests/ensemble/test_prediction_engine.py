"""Which engine predicts: by name or by its speed; and what is refused."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable

import pytest
import torch
from anomalib.models import Padim, Patchcore
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything
from torch.export import ExportedProgram

from anomalib_tiled.ensemble import engines, prediction_engine
from anomalib_tiled.ensemble.compiled_backbones import CompiledBackbones
from anomalib_tiled.ensemble.engines import ENGINES, Engine
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.ensemble.prediction_engine import PredictionEngine
from anomalib_tiled.ensemble.tile_model import TilePrediction, predict_tile
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size, TileGrid

CPU = torch.device("cpu")

Lines = list[str]


class Graphs(Engine):
    """Lets PyTorch compute the graphs, and adds a fraction of each feature."""

    packages = ("torch",)

    def __init__(self, name: str = "graphs", wrong: float = 0.0) -> None:
        self.name, self.wrong = name, wrong  # type: ignore[misc]  # of the class elsewhere

    def compile(
        self, program: ExportedProgram, precision: str, threads: int
    ) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        module = program.module(check_guards=False)
        return lambda images: [each * (1 + self.wrong) for each in module(images).values()]


def fitted(
    made: type[AnomalibModule], layers: tuple[str, ...] = ("layer1", "layer2"), **arguments: int
) -> AnomalibModule:
    seed_everything(0, verbose=False)
    whole = made(backbone="resnet18", layers=[*layers], pre_trained=False, **arguments)
    whole.pre_processor = whole.post_processor = None
    model = whole.model.train()
    model.feature_extractor.eval()
    with torch.no_grad():
        model(torch.rand(12, 3, 64, 64))
    _ = model.subsample_embedding(0.5) if made is Patchcore else model.fit()
    return whole.eval()


@pytest.fixture(scope="module")
def padim() -> AnomalibModule:
    return fitted(Padim, n_features=20)


@pytest.fixture
def lines() -> Lines:
    return []


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(7))


def predicted(engine: PredictionEngine, model: AnomalibModule, tiles: torch.Tensor) -> TilePrediction:
    engine.prepare(model, tiles)
    return predict_tile(model, tiles)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (Padim, "openvino"),
        pytest.param(Patchcore, "openvino", marks=pytest.mark.slow),
        pytest.param(Padim, "onnx", marks=pytest.mark.slow),
        pytest.param(Patchcore, "onnx", marks=pytest.mark.slow),
    ],
)
def test_engines_predict_what_pytorch_predicts(
    made: type[AnomalibModule], name: str, lines: Lines, tiles: torch.Tensor
) -> None:
    model, engine = fitted(made), PredictionEngine.named(name, CPU, "float32", lines.append)
    assert engine is not None
    expected, found = predict_tile(model, tiles), predicted(engine, model, tiles)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-4, atol=1e-4)
    [line] = lines
    assert re.fullmatch(
        rf"Engine: {name}; features differ from those of torch by up to \de-\d\d of the highest\.", line
    )
    predicted(engine, model, tiles[:1])
    assert len(lines) == 1, "said once"


@pytest.mark.parametrize(("wrong", "difference"), [(0.01, r"0\.01"), (float("nan"), "nan")])
def test_an_engine_that_predicts_something_else_is_refused(
    padim: AnomalibModule, lines: Lines, tiles: torch.Tensor, wrong: float, difference: str
) -> None:
    engine = PredictionEngine([Graphs(wrong=wrong)], chooses=False, report=lines.append)
    with pytest.raises(
        ConfigurationError,
        match=rf"graphs must compute what PyTorch computes, to 0\.0001, but features differ by {difference} of",
    ):
        predicted(engine, padim, tiles)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each engine takes, by its name."""
    taken = {"torch": 0.3}

    def measured(model: AnomalibModule, tiles: torch.Tensor, compiled: CompiledBackbones | None) -> float:
        prediction_engine._predicted(model, tiles, compiled)
        return taken["torch" if compiled is None else compiled.engine.name]

    monkeypatch.setattr(prediction_engine, "_seconds", measured)
    return taken


def test_the_fastest_engine_is_chosen(
    padim: AnomalibModule, lines: Lines, tiles: torch.Tensor, seconds: dict[str, float]
) -> None:
    seconds |= {"slow": 0.4, "fast": 0.2}
    engine = PredictionEngine([Graphs("slow"), Graphs("fast")], chooses=True, report=lines.append)
    predicted(engine, padim, tiles)
    predicted(engine, padim, tiles)
    assert lines == ["Engine: fast. 3 tiles took: fast 200 ms, torch 300 ms, slow 400 ms."]
    assert engine.nbytes == sum(each.nbytes for each in padim.model.feature_extractor.state_dict().values())


def test_pytorch_is_chosen_if_it_is_the_fastest(
    padim: AnomalibModule, lines: Lines, tiles: torch.Tensor, seconds: dict[str, float]
) -> None:
    seconds |= {"slow": 0.4}
    engine = PredictionEngine([Graphs("slow")], chooses=True, report=lines.append)
    expected = predict_tile(padim, tiles)
    assert torch.equal(predicted(engine, padim, tiles).scores, expected.scores)
    assert lines == ["Engine: torch. 3 tiles took: torch 300 ms, slow 400 ms."]
    assert not engine.nbytes


def test_an_engine_that_cannot_be_used_is_not_chosen(
    padim: AnomalibModule, lines: Lines, tiles: torch.Tensor, seconds: dict[str, float]
) -> None:
    seconds |= {"wrong": 0.1}
    PredictionEngine([Graphs("wrong", wrong=0.01)], chooses=True, report=lines.append).prepare(padim, tiles)
    assert lines[0] == "Engine: torch. 3 tiles took: torch 300 ms."
    assert lines[1].startswith("Note: An engine cannot be used. wrong: The engine wrong must compute what")


def test_an_ensemble_that_has_predicted_by_an_engine_can_be_pickled(tiles: torch.Tensor) -> None:
    model, engine = fitted(Padim, n_features=20), PredictionEngine([Graphs()], chooses=False, report=print)
    expected = predicted(engine, model, tiles)
    copied, of_copy = pickle.loads(pickle.dumps((model, engine)))  # noqa: S301  # was pickled on the same line
    assert not of_copy.nbytes
    assert torch.equal(predicted(of_copy, copied, tiles).scores, expected.scores)
    assert of_copy.nbytes == engine.nbytes


def test_the_time_of_a_prediction_is_measured(padim: AnomalibModule, tiles: torch.Tensor) -> None:
    assert 0 < prediction_engine._seconds(padim, tiles, None) < 60


Brightness = Callable[[float], AnomalibModule]


def test_a_model_without_a_frozen_backbone_is_refused(brightness: Brightness, tiles: torch.Tensor) -> None:
    engine = PredictionEngine([Graphs()], chooses=False, report=print)
    with pytest.raises(ConfigurationError, match=r"TimmFeatureExtractor of anomalib, and Brightness has none"):
        predicted(engine, brightness(1.0), tiles)


def test_a_global_model_without_a_frozen_backbone_stays_with_pytorch(
    padim: AnomalibModule, brightness: Brightness, lines: Lines, tiles: torch.Tensor
) -> None:
    engine = PredictionEngine([Graphs()], chooses=False, report=lines.append)
    predicted(engine, padim, tiles)
    torch.testing.assert_close(predicted(engine, brightness(1.0), tiles).maps, tiles.mean(dim=1, keepdim=True))
    assert len(lines) == 1


def test_a_global_model_with_other_layers_of_the_same_backbone_is_compiled_by_itself(
    lines: Lines, tiles: torch.Tensor
) -> None:
    model, engine = fitted(Padim, n_features=20), PredictionEngine([Graphs()], chooses=False, report=lines.append)
    expected = predict_tile(model, tiles)
    predicted(engine, fitted(Padim, ("layer2",), n_features=20), tiles)
    torch.testing.assert_close(predicted(engine, model, tiles).scores, expected.scores, rtol=1e-4, atol=1e-4)
    assert len(lines) == 2


def test_on_another_device_than_a_cpu_an_engine_is_refused_and_pytorch_chosen(
    padim: AnomalibModule, lines: Lines, tiles: torch.Tensor
) -> None:
    """As where the ensemble was moved after it was loaded."""
    elsewhere = tiles.to("meta")
    with pytest.raises(ConfigurationError, match="graphs computes on a CPU, but the device is meta"):
        PredictionEngine([Graphs()], chooses=False, report=lines.append).prepare(padim, elsewhere)
    engine = PredictionEngine([Graphs()], chooses=True, report=lines.append)
    engine.prepare(padim, elsewhere)
    assert (lines, engine.nbytes) == ([], 0)


def test_without_a_frozen_backbone_the_fastest_engine_is_pytorch(
    brightness: Brightness, lines: Lines, tiles: torch.Tensor
) -> None:
    engine = PredictionEngine([Graphs()], chooses=True, report=lines.append)
    torch.testing.assert_close(predicted(engine, brightness(1.0), tiles).maps, tiles.mean(dim=1, keepdim=True))
    assert lines == ["Engine: torch, because Brightness has no frozen TimmFeatureExtractor."]


def test_pytorch_needs_no_engine() -> None:
    assert PredictionEngine.named("torch", CPU, "float32", print) is None
    assert PredictionEngine.named("torch", torch.device("cuda:1"), "float32", print) is None
    assert PredictionEngine.named("auto", torch.device("cuda:1"), "float32", print) is None


def test_few_tiles_are_not_worth_compiling(lines: Lines) -> None:
    assert PredictionEngine.named("auto", CPU, "float32", lines.append, tiles=499) is None
    assert lines == ["Engine: torch. Compiling for another one takes longer than 499 tiles can save."]
    assert PredictionEngine.named("auto", CPU, "float32", lines.append, tiles=500) is not None
    assert len(lines) == 1


def test_an_engine_that_does_not_exist_is_refused() -> None:
    message = r"no engine 'openvin'\. Did you mean 'openvino'\? Allowed: auto, onnx, openvino, torch\."
    with pytest.raises(ConfigurationError, match=message):
        PredictionEngine.named("openvin", CPU, "float32", print)


def test_an_engine_of_the_cpu_is_refused_on_a_gpu() -> None:
    message = r"openvino computes on a CPU, but the device is cuda:1\. Set the device to cpu, or the engine to torch"
    with pytest.raises(ConfigurationError, match=message):
        PredictionEngine.named("openvino", torch.device("cuda:1"), "float32", print)


def test_an_engine_that_is_not_installed_is_refused_and_not_tried(
    monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    message = (
        r"engine onnx needs onnx, onnxscript, onnxruntime; not installed: onnx, .*pip install 'anomalib-tiled\[onnx\]'"
    )
    with pytest.raises(ConfigurationError, match=message):
        PredictionEngine.named("onnx", CPU, "float32", print)
    assert PredictionEngine.named("auto", CPU, "float32", lines.append) is None
    assert lines == ["Engine: torch. No other one is installed: pip install 'anomalib-tiled[openvino]'"]


def test_the_extras_of_the_package_are_named_as_the_engines() -> None:
    assert list(ENGINES) == ["openvino", "onnx"]


def test_what_an_engine_holds_counts_for_the_budget_of_the_models(tiles: torch.Tensor) -> None:
    grid = TileGrid(Size(64, 128), Size(64, 64), Size(64, 64))
    models = {tile.name: fitted(Padim, n_features=20) for tile in grid.tiles}
    backbone = sum(each.nbytes for each in models["r00_c00"].model.feature_extractor.state_dict().values())
    whole = sum(each.nbytes for each in models["r00_c00"].state_dict().values())
    for engine, kept in ((None, 2), (PredictionEngine([Graphs()], chooses=False, report=print), 1)):
        loaded = TileModels(lambda tile: models[tile.name], budget=2 * whole - backbone + backbone // 2)
        loaded.engine = engine
        for tile in grid.tiles:
            loaded.predict(tile, tiles)
        assert len(loaded._kept) == kept


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        (
            "auto",
            "bfloat16",
            "in float32 only, but the precision is bfloat16. Name an engine (openvino, torch), or predict in float32.",
        ),
        ("onnx", "bfloat16", "onnx lacks bfloat16, but the precision is bfloat16. Allowed: openvino, torch."),
        ("openvino", "float16", "but the precision is float16. Allowed: torch."),
    ],
)
def test_a_precision_that_an_engine_lacks_is_refused(name: str, precision: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        PredictionEngine.named(name, CPU, precision, print)


def test_in_half_precision_engines_round_in_their_own_ways(
    padim: AnomalibModule, lines: Lines, tiles: torch.Tensor
) -> None:
    PredictionEngine([Graphs(wrong=0.01)], "bfloat16", chooses=False, report=lines.append).prepare(padim, tiles)
    assert re.fullmatch(
        r"Engine: graphs; features differ from those of torch by up to 0\.01 of the highest\.", lines[0]
    )
