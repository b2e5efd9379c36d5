"""Frozen backbones that another engine computes: which ones, how often they are compiled, and what they give."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from anomalib.models.components import TimmFeatureExtractor
from torch import nn
from torch.export import ExportedProgram

from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.compiled_backbones import CompiledBackbones, Features, frozen_backbones
from anomalib_tiled.ensemble.engines import Engine
from anomalib_tiled.ensemble.half_precision import HalfBackbone
from anomalib_tiled.errors import ConfigurationError


class Graphs(Engine):
    """Lets PyTorch compute the graphs, and counts them."""

    name = "graphs"
    packages = ("torch",)

    def __init__(self) -> None:
        self.compiled = 0
        self.precisions: list[str] = []

    def compile(
        self, program: ExportedProgram, precision: str, threads: int
    ) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        self.compiled += 1
        self.precisions.append(precision)
        module = program.module(check_guards=False)
        return lambda images: list(module(images).values())


def fail(*_: object) -> list[torch.Tensor]:
    message = "no such operation"
    raise RuntimeError(message)


class Broken(Engine):
    """Fails when it compiles, or when it computes."""

    name = "broken"
    packages = ()

    def __init__(self, *, compiles: bool) -> None:
        self.compiles = compiles

    def compile(
        self, program: ExportedProgram, precision: str, threads: int
    ) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        if not self.compiles:
            fail()
        return fail


class TeacherAndStudent(nn.Module):
    """A frozen backbone, and one that was trained."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = backbone()
        self.student = TimmFeatureExtractor("resnet18", ["layer1"], pre_trained=False, requires_grad=True)


def backbone(layers: tuple[str, ...] = ("layer1", "layer2")) -> TimmFeatureExtractor:
    return TimmFeatureExtractor("resnet18", list(layers), pre_trained=False).eval()


def served(module: nn.Module, compiled: CompiledBackbones) -> nn.Module:
    [found] = frozen_backbones(module)
    found.compiled = compiled
    return module


@pytest.fixture
def engine() -> Graphs:
    return Graphs()


@pytest.fixture
def predicted() -> Callable[[nn.Module, torch.Tensor], Features]:
    @torch.inference_mode()
    def predict(module: nn.Module, images: torch.Tensor) -> Features:
        return module(images)

    return predict


Predict = Callable[[nn.Module, torch.Tensor], Features]


@pytest.mark.parametrize("adapt", [accelerate, lambda _: None], ids=["accelerated", "as anomalib's"])
def test_an_engine_gives_the_features_of_pytorch_in_their_order(
    engine: Graphs, predicted: Predict, adapt: Callable[[nn.Module], None]
) -> None:
    module = nn.ModuleDict({"own": backbone(), "served": nn.Module()})
    module["served"] = deepcopy(module["own"])
    adapt(module)
    served(module["served"], CompiledBackbones(engine))
    images = torch.rand(3, 3, 64, 96)
    expected, found = (predicted(module[name], images) for name in ("own", "served"))
    assert list(found) == list(expected) == ["layer1", "layer2"]
    for name, features in expected.items():
        torch.testing.assert_close(found[name], features, rtol=1e-4, atol=1e-5)
    assert engine.compiled == 1


def test_a_backbone_that_was_trained_stays_with_pytorch() -> None:
    model = TeacherAndStudent()
    assert [each.role for each in frozen_backbones(model)] == ["teacher"]
    assert [each.role for each in frozen_backbones(model)] == ["teacher"], "found again"
    assert "forward" not in vars(model.student)


def test_a_backbone_is_compiled_once_for_all_tiles_and_batches(engine: Graphs, predicted: Predict) -> None:
    compiled, first = CompiledBackbones(engine), backbone()
    for module in (first, deepcopy(first)):
        for images in (1, 2, 5):
            predicted(served(module, compiled), torch.rand(images, 3, 64, 64))
    assert engine.compiled == 1
    assert compiled.nbytes == sum(each.nbytes for each in (*first.parameters(), *first.buffers()))


def test_each_size_of_images_is_compiled(engine: Graphs, predicted: Predict) -> None:
    compiled, module = CompiledBackbones(engine), backbone()
    for side in (64, 32, 64):
        predicted(served(module, compiled), torch.rand(2, 3, side, side))
    assert engine.compiled == 2


def test_other_weights_are_left_to_pytorch(engine: Graphs, predicted: Predict) -> None:
    compiled, first, other, images = CompiledBackbones(engine), backbone(), backbone(), torch.rand(2, 3, 64, 64)
    predicted(served(first, compiled), images)
    expected = predicted(other, images)
    found = predicted(served(other, compiled), images)
    assert all(torch.equal(found[name], features) for name, features in expected.items())
    assert engine.compiled == 1


def test_weights_that_are_exchanged_are_noticed(engine: Graphs, predicted: Predict) -> None:
    """As where one model object is that of one tile after the other."""
    compiled, first, other, images = CompiledBackbones(engine), backbone(), backbone(), torch.rand(2, 3, 64, 64)
    module = served(first, compiled)
    before = predicted(module, images)
    for tensor, value in zip(first.parameters(), other.parameters(), strict=True):
        tensor.data = value.data
    found, expected = predicted(module, images), predicted(other, images)
    assert not torch.equal(found["layer2"], before["layer2"])
    assert torch.equal(found["layer2"], expected["layer2"])


def test_training_is_left_to_pytorch(engine: Graphs) -> None:
    module, images = backbone(), torch.rand(2, 3, 64, 64)
    expected = module(images)
    assert torch.equal(served(module, CompiledBackbones(engine))(images)["layer1"], expected["layer1"])
    assert not engine.compiled


def test_weights_that_were_loaded_in_inference_mode_can_be_compiled(engine: Graphs, predicted: Predict) -> None:
    with torch.inference_mode():
        module = backbone()
    predicted(served(module, CompiledBackbones(engine)), torch.rand(2, 3, 64, 64))
    assert engine.compiled == 1


@pytest.mark.parametrize("compiles", [False, True])
def test_what_an_engine_cannot_compile_or_compute_is_named(predicted: Predict, *, compiles: bool) -> None:
    module = served(backbone(), CompiledBackbones(Broken(compiles=compiles)))
    message = r"engine broken cannot compute the backbone resnet18 \(RuntimeError: no such operation\). Predict with"
    with pytest.raises(ConfigurationError, match=message):
        predicted(module, torch.rand(2, 3, 64, 64))


def test_a_copy_computes_with_pytorch(engine: Graphs, predicted: Predict) -> None:
    module = served(backbone(), CompiledBackbones(engine))
    copy = deepcopy(module)
    predicted(copy, torch.rand(2, 3, 64, 64))
    assert vars(copy)["forward"].backbone is copy
    assert not engine.compiled


def test_an_engine_computes_in_the_precision_of_the_backbone(engine: Graphs, predicted: Predict) -> None:
    """The graph is that in single precision: what is rounded, and where, is up to the engine."""
    single, images = backbone(), torch.rand(2, 3, 64, 64)
    half = deepcopy(single)
    half.__class__, half.half_type = HalfBackbone, torch.bfloat16
    expected, found = predicted(single, images), predicted(served(half, CompiledBackbones(engine)), images)
    torch.testing.assert_close(found["layer2"], expected["layer2"], rtol=1e-4, atol=1e-5)
    predicted(served(single, CompiledBackbones(engine)), images)
    assert engine.precisions == ["bfloat16", "float32"]


def test_a_graph_is_in_single_precision_in_a_model_that_computes_in_half_precision_as_a_whole(
    predicted: Predict,
) -> None:
    class Noting(Graphs):
        def compile(
            self, program: ExportedProgram, precision: str, threads: int
        ) -> Callable[[torch.Tensor], list[torch.Tensor]]:
            self.rounds = torch.is_autocast_enabled("cpu")
            return super().compile(program, precision, threads)

    engine = Noting()
    with torch.autocast("cpu", torch.bfloat16):
        predicted(served(backbone(), CompiledBackbones(engine)), torch.rand(2, 3, 64, 64))
    assert engine.compiled == 1
    assert not engine.rounds


def test_after_a_fork_pytorch_computes(engine: Graphs, predicted: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO and onnxruntime would wait for ever."""
    module, images = served(backbone(), CompiledBackbones(engine)), torch.rand(2, 3, 64, 64)
    with monkeypatch.context() as child:
        child.setattr("anomalib_tiled.ensemble.compiled_backbones.os.getpid", lambda: 0)
        predicted(module, images)
        assert not engine.compiled
    predicted(module, images)
    assert engine.compiled == 1
