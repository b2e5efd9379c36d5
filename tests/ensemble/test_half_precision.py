"""Half precision: what computes in it, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models import Fastflow, Padim, Patchcore, ReverseDistillation
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor

from anomalib_tiled.ensemble import half_precision
from anomalib_tiled.ensemble.arithmetic import Arithmetic
from anomalib_tiled.ensemble.half_precision import (
    HalfBackbone,
    compute_in,
    precision_of_trainer,
    remark_on,
)
from anomalib_tiled.ensemble.tile_model import predict_tile, traceable_prediction
from anomalib_tiled.errors import ConfigurationError

SMALL = {"backbone": "resnet18", "layers": ["layer1", "layer2"], "pre_trained": False}
CPU = torch.device("cpu")


class Linear(AnomalibModule):
    """A model without a backbone, whose map is computed by a convolution."""

    def __init__(self, backbone: torch.nn.Module | None = None) -> None:
        super().__init__(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
        self.model, self.backbone, self.computed = torch.nn.Conv2d(3, 1, 3, padding=1), backbone, None

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        maps = self.model(images)
        self.computed = maps.dtype
        return InferenceBatch(anomaly_map=maps)

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


class OwnExtractor(TimmFeatureExtractor):
    """A backbone of another package."""


def backbones(model: AnomalibModule) -> list[TimmFeatureExtractor]:
    return [each for each in model.modules() if isinstance(each, TimmFeatureExtractor)]


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("made", [Padim, Patchcore, ReverseDistillation])
def test_a_frozen_backbone_computes_in_half_precision(made: type[AnomalibModule], *, faster: bool) -> None:
    model = made(**SMALL)
    own = deepcopy(model)
    Arithmetic(faster, "bfloat16").adapt(model)
    (backbone,) = backbones(model)
    assert type(backbone) is HalfBackbone
    assert type(model) is made
    assert precision_of_trainer(model) is None, "all else computes in single precision"
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected, found = backbones(own)[0].eval()(images), backbone.eval()(images)
    assert list(found) == list(expected) == ["layer1", "layer2"]
    for name, features in expected.items():
        assert found[name].dtype == torch.float32
        assert found[name].stride() == features.stride()
        assert not torch.equal(found[name], features)
        assert torch.allclose(found[name], features, atol=0.03 * float(features.max()))


def test_a_backbone_computes_in_training_as_in_predictions() -> None:
    model = Padim(**SMALL)
    compute_in(model, "bfloat16")
    (backbone,), images = backbones(model), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = backbone(images)
    assert all(torch.equal(each, expected[name]) for name, each in backbone(images).items())


def test_a_model_that_is_copied_or_loaded_stays_in_its_precision() -> None:
    model, arithmetic = Padim(**SMALL), Arithmetic(precision="bfloat16")
    names = list(model.state_dict())
    arithmetic.adapt(model)
    arithmetic.adapt(model)
    copy = deepcopy(model)
    assert [(type(each), each.half_type) for each in backbones(copy)] == [(HalfBackbone, torch.bfloat16)]
    assert list(copy.state_dict()) == names
    assert {each.dtype for each in copy.state_dict().values() if each.is_floating_point()} == {torch.float32}


def test_in_single_precision_nothing_changes() -> None:
    for model in (Padim(**SMALL), Linear()):
        compute_in(model, "float32")
        assert not any(isinstance(each, HalfBackbone) for each in model.modules())
        assert precision_of_trainer(model) is None


def trained() -> AnomalibModule:
    extractor = TimmFeatureExtractor("resnet18", ["layer1"], pre_trained=False, requires_grad=True)
    return Linear(extractor)


WHOLE = {
    "without a backbone": Linear,
    "with a backbone of its own": lambda: Fastflow(backbone="resnet18", pre_trained=False),
    "that trains its backbone": trained,
    "with a backbone of another package": lambda: Linear(OwnExtractor("resnet18", ["layer1"], pre_trained=False)),
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_another_model_computes_in_half_precision_as_a_whole(make: Callable[[], AnomalibModule]) -> None:
    model = make()
    compute_in(model, "bfloat16")
    assert not any(isinstance(each, HalfBackbone) for each in model.modules())
    assert precision_of_trainer(model) == "bf16-mixed"
    assert precision_of_trainer(deepcopy(model)) == "bf16-mixed"


def test_a_whole_model_predicts_in_half_precision_and_is_exported_in_single_precision() -> None:
    model, images = Linear().eval(), torch.rand(2, 3, 8, 8)
    expected = predict_tile(model, images)
    assert model.computed == torch.float32
    compute_in(model, "bfloat16")
    found = predict_tile(model, images)
    assert model.computed == torch.bfloat16
    assert found.scores.dtype == found.maps.dtype == torch.float32
    assert not torch.equal(found.maps, expected.maps)
    assert torch.allclose(found.maps, expected.maps, atol=0.03)
    with torch.inference_mode():
        assert torch.equal(traceable_prediction(model, images).maps, expected.maps)


@pytest.mark.parametrize("flags", [None, {"sse", "amx_bf16"}, {"avx512_bf16"}, {"asimd", "bf16"}])
def test_a_processor_with_instructions_for_it_is_fast(monkeypatch: pytest.MonkeyPatch, flags: set[str] | None) -> None:
    monkeypatch.setattr(half_precision, "processor_flags", lambda: flags)
    assert remark_on("bfloat16", CPU) is None


def test_a_processor_without_them_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_precision, "processor_flags", lambda: {"sse", "avx512f"})
    assert remark_on("float32", CPU) is None
    assert remark_on("bfloat16", CPU) == (
        "This processor has no instructions for bfloat16 (AVX512-BF16 or AMX), so it takes longer than float32. Set "
        "the precision to float32, unless you need the numbers of another machine."
    )


REFUSED = {
    ("float16", "cpu"): (
        "float16, and it takes longer than float32 on a CPU. Set the precision to float32, or bfloat16."
    ),
    ("bfloat16", "cuda"): (
        "bfloat16, and Tesla T4 has compute capability 7.5, but 8.0 is needed. Set the precision to float32, or "
        "float16."
    ),
    ("float16", "meta"): (
        "float16, and PyTorch computes in single precision alone on meta. Set the precision to float32."
    ),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.items())
def test_a_precision_that_a_device_lacks(monkeypatch: pytest.MonkeyPatch, given: tuple[str, str], message: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    precision, device = given
    assert remark_on("float32", torch.device(device)) is None
    with pytest.raises(ConfigurationError, match="precision must be one that the device has, but is ") as error:
        remark_on(precision, torch.device(device))
    assert message in str(error.value)


def test_gpus_from_ampere_on_have_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert all(remark_on(precision, torch.device("cuda")) is None for precision in ("bfloat16", "float16"))
