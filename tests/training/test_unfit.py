"""Which failures are those of a model on a location, and which locations show nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.errors import DataError, OutOfMemoryError, StorageError, UnfitLocationError
from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.training.unfit import errors_naming_unfit_locations, unfit_location, why_not_left_out

Draw = Callable[[np.random.Generator], np.ndarray]


class Model(LightningModule):
    """Raises what it is given, and what others raise while it works."""

    def fit(self, error: BaseException) -> None:
        raise error


class Loader:
    """Raises beside the model."""

    model = Model()

    def load(self, error: BaseException) -> None:
        raise error


GRID = TileGrid(Size(8, 12), Size(4, 4), Size(4, 4))
IMAGES = 4


def run_on(draw: Draw, *, fitted: int = 0, unfitted_tiles: str = "leave_out") -> Run:
    """Stand in for a run and for its job, on drawn images, with so many tiles fitted."""
    random, done = np.random.default_rng(0), {tile.name for tile in GRID.tiles[:fitted]}
    images = [draw(random) for _ in range(IMAGES)]
    stand_in = SimpleNamespace(
        grid=GRID,
        settings=SimpleNamespace(model_of=lambda _: SimpleNamespace(name="Untrained"), unfitted_tiles=unfitted_tiles),
        data=SimpleNamespace(
            split=SimpleNamespace(subset=lambda _: range(IMAGES)),
            source=SimpleNamespace(image=lambda sample, rows, columns: images[sample][rows, columns]),
        ),
        folder=SimpleNamespace(seen=lambda: SimpleNamespace(has_record=lambda tile: tile.name in done)),
    )
    return cast("Run", stand_in)


def drawn(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 256, (8, 12, 3), dtype=np.uint8)


@pytest.fixture
def run() -> Run:
    """Six tiles of 4 x 4 random pixels."""
    return run_on(drawn)


def raised_by_the_model(run: Run, error: BaseException) -> None:
    with errors_naming_unfit_locations(run, run.grid.tiles[0]):
        Model().fit(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.linalg.LinAlgError("singular matrix.\nTry again"), "LinAlgError: singular matrix"),
        (np.linalg.LinAlgError("SVD did not converge"), "LinAlgError: SVD did not converge"),
        (ValueError("Input contains NaN."), "ValueError: Input contains NaN"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (FloatingPointError("overflow"), "FloatingPointError: overflow"),
        (IndexError("index 0 is out of bounds"), "IndexError: index 0 is out of bounds"),
        (RuntimeError(), "RuntimeError: "),
    ],
)
def test_a_model_that_cannot_work_with_the_numbers_cannot_be_fitted_there(
    run: Run, error: Exception, said: str
) -> None:
    with pytest.raises(UnfitLocationError) as raised:
        raised_by_the_model(run, error)
    assert str(raised.value) == f"Untrained cannot be fitted on these tiles: {said}"
    assert raised.value.__cause__ is error
    assert not raised.value.blank


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"),
        torch.OutOfMemoryError("CUDA out of memory"),
        OutOfMemoryError("The memory of GPU 1 ran out."),
        RuntimeError("CUDA error: device-side assert triggered"),
        StorageError("full"),
        DataError("no image"),
        OSError(5, "Input/output error"),
        TypeError("not a tensor"),
        KeyboardInterrupt(),
    ],
)
def test_what_the_location_is_not_to_blame_for_comes_out_as_it_is(run: Run, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        raised_by_the_model(run, error)
    assert raised.value is error


def test_neither_is_it_for_data_loaders_callbacks_and_the_trainer(run: Run) -> None:
    error = RuntimeError("Early stopping conditioned on metric `image_F1` which is not available")
    with pytest.raises(RuntimeError) as raised, errors_naming_unfit_locations(run, run.grid.tiles[0]):
        Loader().load(error)
    assert raised.value is error


def uniform(level: int) -> Draw:
    return lambda _: np.full((8, 12, 3), level, np.uint8)


def nearly_white(random: np.random.Generator) -> np.ndarray:
    return random.integers(252, 256, (8, 12, 3), dtype=np.uint8)


def of_another_brightness(random: np.random.Generator) -> np.ndarray:
    return np.full((8, 12, 3), random.integers(0, 256, 3), np.uint8)


def always_the_same(_: np.random.Generator) -> np.ndarray:
    return drawn(np.random.default_rng(1))


@pytest.mark.parametrize(
    ("draw", "blank"),
    [
        (uniform(255), True),
        (uniform(0), True),
        (nearly_white, True),
        (of_another_brightness, True),
        (always_the_same, True),
        (drawn, False),
    ],
)
def test_a_location_is_blank_if_nothing_can_be_learned_from_its_images(draw: Draw, *, blank: bool) -> None:
    assert unfit_location(run_on(draw), GRID.tiles[0], "no reason").blank is blank


def half_blank(random: np.random.Generator) -> np.ndarray:
    pixels = drawn(random)
    pixels[:, :4] = 255
    return pixels


def test_a_blank_tile_does_not_make_its_group_blank() -> None:
    run = run_on(half_blank)
    first = run.grid.tiles[0]
    assert unfit_location(run, first, "no reason").blank
    for names, blank in ((["r00_c00", "r01_c00"], True), (["r00_c00", "r01_c01"], False)):
        run.grid = GRID.grouped([names])
        assert unfit_location(run, first, "no reason").blank is blank


def failures(*, blank: int, others: int) -> list[UnfitLocationError]:
    errors = [UnfitLocationError("no") for _ in range(blank + others)]
    for error in errors[:blank]:
        error.blank = True
    return errors


@pytest.mark.parametrize(("fitted", "blank", "others"), [(1, 5, 0), (3, 0, 3), (5, 0, 1), (1, 4, 1)])
def test_blank_locations_are_left_out_however_many_and_others_while_most_can_be_fitted(
    fitted: int, blank: int, others: int
) -> None:
    assert why_not_left_out(run_on(drawn, fitted=fitted), failures(blank=blank, others=others)) is None


def test_why_locations_are_not_left_out() -> None:
    assert why_not_left_out(run_on(drawn, fitted=0), failures(blank=6, others=0)) == (
        "No tile could be fitted, so the cause is the model, its settings or the images, not a location."
    )
    assert why_not_left_out(run_on(drawn, fitted=2), failures(blank=1, others=3)) == (
        "3 tiles that are not blank could not be fitted, and only 2 could, so the cause is the model or its settings, "
        "not the locations."
    )
    assert why_not_left_out(run_on(drawn, fitted=5, unfitted_tiles="error"), failures(blank=1, others=0)) == (
        "To leave out the locations where the model cannot be fitted, set unfitted_tiles: leave_out."
    )
