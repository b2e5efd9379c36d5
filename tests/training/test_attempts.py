"""Which failures stop the others, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from anomalib_tiled.errors import OutOfMemoryError, UnfitLocationError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.stages.workers import KilledError, PlaceError, PreemptedError
from anomalib_tiled.training.attempts import Attempts, Failures
from anomalib_tiled.workers.task import UnsentError

ONE, TWO, THREE = TileGrid(Size(4, 12), Size(4, 4), Size(4, 4)).tiles


def after(*errors: Exception, keep_going: bool = False) -> Failures:
    failures = Failures(keep_going)
    for tile, error in zip((ONE, TWO, THREE), errors, strict=False):
        failures.add(tile, error, others_fitted=False)
    return failures


@pytest.mark.parametrize(
    ("one", "two", "alike"),
    [
        (ValueError("a"), ValueError("a"), True),
        (ValueError("a"), ValueError("b"), False),
        (ValueError("a"), TypeError("a"), False),
        (ValueError("r00_c00 is bad"), ValueError("r00_c01 is bad"), True),
        (UnsentError("Odd: a"), UnsentError("Odd: a"), True),
    ],
)
def test_two_that_are_alike_are_enough(one: Exception, two: Exception, alike: bool) -> None:  # noqa: FBT001
    assert not after(one).are_alike
    assert after(one, two).are_alike == alike
    assert after(one, KeyError("c"), two).are_alike == (alike and "r00" not in str(one))
    assert not after(one, two, keep_going=True).are_alike


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("full"),
        KilledError("killed"),
        PlaceError("process 1 has ended: it ended with exit code -11"),
        PreemptedError("job 7 has ended: its time is over"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_what_may_pass_stops_nothing(error: Exception) -> None:
    assert not after(error, error, error).are_alike


def test_the_reason_names_the_error() -> None:
    failures = Failures()
    assert not failures
    assert failures.add(ONE, ValueError("too small"), others_fitted=False) == "ValueError: too small"
    assert failures


@pytest.mark.parametrize(("tiles", "done"), [((ONE, TWO, THREE), "all others are done"), ((ONE, TWO), "none is done")])
def test_the_heading_says_what_is_done(tmp_path: Path, tiles: tuple[Tile, ...], done: str) -> None:
    said = after(ValueError("a"), ValueError("b")).message(RunFolder(tmp_path), tiles, left=2)
    assert said.startswith(f"2 tiles could not be trained; {done}.\n")


def test_records_of_other_tiles_are_looked_up_only_where_a_location_is_to_blame() -> None:
    looks: list[bool] = []

    def seen() -> SimpleNamespace:
        looks.append(True)
        return SimpleNamespace(has_record=lambda tile: tile is THREE)

    folder = SimpleNamespace(seen=seen, has_record=lambda _: False, write_failure=lambda *_: None)
    run = SimpleNamespace(folder=folder, grid=SimpleNamespace(model_locations=(ONE, TWO, THREE)))
    attempts = Attempts(run, keep_going=True)
    for tile in (ONE, TWO):
        attempts.fail(tile, ValueError("too small"))
    assert looks == []
    for tile in (ONE, TWO):
        attempts.fail(tile, UnfitLocationError("singular"))
    assert looks == [True], "once one is fitted, none is looked for"
