from __future__ import annotations

import pytest

from anomalib_tiled.errors import ConfigurationError, StorageError, TrainingError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.training.workers import LocalWorkers
from anomalib_tiled.workers import Outcome

TILES = TileGrid(Size(4, 12), Size(4, 4), Size(4, 4)).tiles


class Training:
    """Trains tiles by noting their names; at the second one it fails in a given way."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.tried: list[str] = []

    def __call__(self, tile: Tile) -> None:
        self.tried.append(tile.name)
        if self.failure is not None and len(self.tried) == 2:
            raise self.failure


def test_tiles_are_trained_in_their_order() -> None:
    training = Training()
    outcomes = list(LocalWorkers().train(TILES, training))
    assert outcomes == [Outcome(tile, None) for tile in TILES]
    assert training.tried == ["r00_c00", "r00_c01", "r00_c02"]


def test_each_tile_is_reported_as_it_ends() -> None:
    training = Training()
    outcomes = LocalWorkers().train(TILES, training)
    assert training.tried == []
    assert next(outcomes).tile is TILES[0]
    assert training.tried == ["r00_c00"]


def test_no_tiles() -> None:
    assert list(LocalWorkers().train([], Training())) == []


@pytest.mark.parametrize("failure", [RuntimeError("out of luck"), TrainingError("out of luck"), OSError("out of luck")])
def test_a_tile_that_fails_does_not_stop_the_others(failure: Exception) -> None:
    training = Training(failure)
    outcomes = list(LocalWorkers().train(TILES, training))
    assert [outcome.error for outcome in outcomes] == [None, failure, None]
    assert len(training.tried) == 3


@pytest.mark.parametrize("failure", [StorageError("No space left"), KeyboardInterrupt(), SystemExit(3)])
def test_what_would_stop_every_tile_stops_all(failure: BaseException) -> None:
    training = Training(failure)
    with pytest.raises(type(failure)) as raised:
        list(LocalWorkers().train(TILES, training))
    assert raised.value is failure
    assert training.tried == ["r00_c00", "r00_c01"]


@pytest.mark.parametrize("processes", [1, "auto"])
def test_one_process_is_what_there_is(processes: object) -> None:
    assert list(LocalWorkers(processes).train(TILES[:1], Training())) == [Outcome(TILES[0], None)]


@pytest.mark.parametrize("processes", [0, 2, -1, "many", None])
def test_any_other_number_of_processes_is_refused(processes: object) -> None:
    message = "workers.init_args.processes must be 1 or auto: one tile is trained at a time, got"
    with pytest.raises(ConfigurationError, match=f"^{message} {processes!r}.$"):
        LocalWorkers(processes)
