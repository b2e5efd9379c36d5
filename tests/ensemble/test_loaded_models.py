from __future__ import annotations

import gc
import weakref

import pytest
import torch

from anomalib_tiled.ensemble import loaded_models
from anomalib_tiled.ensemble.loaded_models import TileModels
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.system import memory

GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))


class Scaled(torch.nn.Module):
    """A frozen part that is equal in all tiles, and a factor that is not."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.frozen = torch.nn.Parameter(torch.ones(1000))
        self.register_buffer("factor", torch.tensor(factor))


def scaled(tile: Tile) -> Scaled:
    return Scaled(10.0 * (1 + tile.row + tile.column))


OWN_BYTES = 4  # of the factor; the frozen weights of 4000 bytes are equal in all tiles


def loads(models: TileModels, passes: int = 2) -> list[torch.nn.Module]:
    return [models.model(tile, torch.device("cpu")) for _ in range(passes) for tile in GRID.tiles]


def test_models_within_the_budget_are_loaded_once_and_equal_weights_held_once() -> None:
    models = TileModels(scaled)
    first, second = loads(models)[:6], loads(models)[6:]
    assert first == second
    assert len({model.frozen.data_ptr() for model in first}) == 1
    assert [float(model.factor) for model in first] == [10, 20, 30, 20, 30, 40]


def test_the_bytes_of_models_are_counted_once() -> None:
    models = TileModels(scaled)
    loads(models)
    assert models.held == 4000 + 6 * OWN_BYTES


def test_models_are_ready_to_predict() -> None:
    assert not any(model.training for model in loads(TileModels(scaled)))


def test_beyond_the_budget_models_are_loaded_each_time() -> None:
    loaded: list[str] = []

    def load(tile: Tile) -> Scaled:
        loaded.append(tile.name)
        return scaled(tile)

    models = TileModels(load, budget=4000 + 2 * OWN_BYTES)
    loads(models, passes=2)
    names = [tile.name for tile in GRID.tiles]
    assert loaded == [*names, *names[2:]]


def test_a_budget_of_nothing_holds_nothing() -> None:
    loaded: list[weakref.ref[Scaled]] = []

    def load(tile: Tile) -> Scaled:
        loaded.append(weakref.ref(model := scaled(tile)))
        return model

    models = TileModels(load, budget=0)
    loads(models)
    gc.collect()
    assert [model() for model in loaded] == [None] * 12
    assert sum(tensor.nbytes for tensor in models._shared.values()) == 0


class Turned:
    """Has one model become that of one tile after the other, and notes what was made and loaded."""

    def __init__(self, budget: int) -> None:
        self.made: list[str] = []
        self.loaded: list[str] = []
        self.models = TileModels(self.load, budget, self.reload)

    def load(self, tile: Tile) -> Scaled:
        self.made.append(tile.name)
        return scaled(tile)

    def reload(self, model: Scaled, tile: Tile) -> None:
        self.loaded.append(tile.name)
        for name, tensor in [*scaled(tile).named_parameters(), *scaled(tile).named_buffers()]:
            dict([*model.named_parameters(), *model.named_buffers()])[name].data = tensor.data

    def said(self) -> list[float]:
        return [float(self.models.model(tile, torch.device("cpu")).factor) for tile in GRID.tiles]


@pytest.mark.parametrize(("kept", "again"), [(6, 0), (2, 4), (0, 6)])
def test_one_model_is_made_where_it_can_become_that_of_another_tile(kept: int, again: int) -> None:
    turned, names = Turned(4000 + kept * OWN_BYTES if kept else 0), [tile.name for tile in GRID.tiles]
    assert turned.said() == turned.said() == [10, 20, 30, 20, 30, 40]
    assert turned.made == names[:1]
    assert turned.loaded == [*names[1:], *names[6 - again :]]
    assert turned.models.held == (4000 + kept * OWN_BYTES if kept else 0)


def test_weights_that_are_equal_are_held_once_by_one_model_too() -> None:
    turned = Turned(10**6)
    turned.said()
    assert len({weights["frozen"].data_ptr() for _, weights in turned.models._kept.values()}) == 1


def test_what_a_model_makes_in_inference_mode_is_exchanged_too() -> None:
    turned = Turned(10**6)
    turned.said()
    with torch.inference_mode():
        turned.models.model(GRID.tiles[0], torch.device("cpu")).factor = torch.tensor(5.0)
    assert turned.said() == [10, 20, 30, 20, 30, 40]


def test_models_are_loaded_anew_for_another_device() -> None:
    models = TileModels(scaled)
    first = loads(models, passes=1)
    elsewhere = models.model(GRID.tiles[0], torch.device("meta"))
    assert elsewhere.factor.device.type == "meta"
    assert all(model.factor.device.type == "cpu" for model in first)


def test_without_a_budget_a_share_of_what_is_free_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 4 * (4000 + 2 * OWN_BYTES))
    models = TileModels(scaled, share=1 / 4)
    loads(models)
    assert models.held == 4000 + 2 * OWN_BYTES


def test_what_is_free_is_measured_on_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cpu": 4000 + 2 * OWN_BYTES, "meta": 0}
    monkeypatch.setattr(loaded_models, "memory_budget", lambda device, share: free[device.type])
    models = TileModels(scaled)
    loads(models)
    assert models.held == free["cpu"]
    models.model(GRID.tiles[0], torch.device("meta"))
    assert models.held == 0, "a GPU has less memory than the machine"
