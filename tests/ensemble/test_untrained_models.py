from __future__ import annotations

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from anomalib.models.components import AnomalibModule

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble import untrained_models as fresh_models
from anomalib_tiled.ensemble.tile_model import build_tile_model
from anomalib_tiled.ensemble.untrained_models import FreshModels
from anomalib_tiled.grid import Size

TILE = Size(64, 64)
FASTFLOW = ClassSpec("anomalib.models.Fastflow", {"backbone": "resnet18", "pre_trained": False})


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[AnomalibModule]:
    """The models that were made, not copied."""
    made: list[AnomalibModule] = []

    def build(spec: ClassSpec, tile_size: Size) -> AnomalibModule:
        made.append(build_tile_model(spec, tile_size))
        return made[-1]

    monkeypatch.setattr(fresh_models, "build_tile_model", build)
    return made


def drawn() -> list[float]:
    """What is drawn next from everything that is seeded."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: S311, NPY002


def state_of(model: AnomalibModule) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("copied", [True, False])
def test_each_model_is_the_same_whatever_became_of_those_before(built: list[AnomalibModule], *, copied: bool) -> None:
    models = FreshModels(FASTFLOW, TILE, seed=42, copied=copied)
    first = models.model()
    state, numbers = state_of(first), drawn()
    for parameter in first.parameters():
        torch.nn.init.zeros_(parameter.data)
    drawn()
    for _ in range(2):
        model = models.model()
        assert_same(state_of(model), state)
        assert drawn() == numbers
        torch.nn.init.zeros_(next(model.parameters()).data)
    assert len(built) == (1 if copied else 3)


def test_models_differ_by_the_seed() -> None:
    first, second = (FreshModels(FASTFLOW, TILE, seed=seed, copied=True).model() for seed in (1, 2))
    assert any(not torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_a_model_with_functions_hooked_into_it_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[AnomalibModule] = []

    def build(spec: ClassSpec, tile_size: Size) -> AnomalibModule:
        model = build_tile_model(spec, tile_size)
        next(model.children()).register_forward_hook(lambda *_: seen.append(model))
        return model

    monkeypatch.setattr(fresh_models, "build_tile_model", build)
    models = FreshModels(FASTFLOW, TILE, seed=42, copied=True)
    for model in (models.model(), models.model()):
        next(model.children()).eval()(torch.zeros(1, 3, *TILE))
        assert seen[-1] is model, "the function of a copy would still look at the first model"


class Computed(torch.nn.Module):
    """Holds a tensor that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.radius = torch.ones(1, requires_grad=True) * 2


@pytest.mark.parametrize("part", [Computed(), torch.fx.symbolic_trace(torch.nn.ReLU())])
def test_what_cannot_be_copied_is_made_anew(monkeypatch: pytest.MonkeyPatch, part: torch.nn.Module) -> None:
    made: list[AnomalibModule] = []

    def build(spec: ClassSpec, tile_size: Size) -> AnomalibModule:
        made.append(build_tile_model(spec, tile_size))
        made[-1].part = part
        return made[-1]

    monkeypatch.setattr(fresh_models, "build_tile_model", build)
    models = FreshModels(FASTFLOW, TILE, seed=42, copied=True)
    assert [models.model(), models.model()] == made


def test_a_copy_in_another_mode_is_none(built: list[AnomalibModule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh_models, "deepcopy", lambda model: deepcopy(model).train(not model.training))
    models = FreshModels(FASTFLOW, TILE, seed=42, copied=True)
    assert [models.model(), models.model()] == built
