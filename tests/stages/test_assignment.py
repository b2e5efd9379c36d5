"""Which tiles share a model."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size, Tile, TileGrid
from anomalib_tiled.stages import assignment
from anomalib_tiled.stages.assignment import Assignment, Clusters, Grid, Groups, PerTile, Shared

GRID = TileGrid(Size(12, 20), Size(4, 4), Size(4, 4))
"""Three rows, five columns."""

NAMES = [tile.name for tile in GRID.tiles]


def unseen(tile: Tile) -> Iterator[np.ndarray]:
    pytest.fail(f"{tile.name} is not to be looked at")


def columns_alike(tile: Tile) -> Iterator[np.ndarray]:
    """Bright tiles on the left, dark ones on the right, striped ones in the middle column; each with some noise."""
    random = np.random.default_rng(tile.row + 10 * tile.column)
    for _ in range(3):
        plain = np.full((4, 4, 3), 40 if tile.column > 2 else 200, np.int64)
        striped = np.where(np.indices((4, 4))[0][..., None] % 2, 250, 150) + 0 * plain
        pixels = striped if tile.column == 2 else plain
        yield (pixels + random.integers(-5, 6, pixels.shape)).astype(np.uint8)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (PerTile(), [[name] for name in NAMES]),
        (Shared(), [NAMES]),
        (Grid(1, 1), [NAMES]),
        (Grid(3, 5), [[name] for name in NAMES]),
        (Grid(1, 2), [[name for name in NAMES if name[-1] in "012"], [name for name in NAMES if name[-1] in "34"]]),
        (Groups([["r00_*", "r02_c04"], ["r01_*", "r02_c0[0-3]"]]), [[*NAMES[:5], NAMES[-1]], NAMES[5:-1]]),
    ],
)
def test_groups_without_a_look(chosen: Assignment, expected: list[list[str]]) -> None:
    assert chosen.groups(GRID, unseen) == expected


def test_a_map_may_name_locations_that_are_left_out() -> None:
    grid = GRID.without(["r00_c00", "r02_c04"])
    listed = Groups([["r00_*"], ["r01_*", "r02_c0[0-3]"], ["r02_c04"]]).groups(grid, unseen)
    assert listed == [NAMES[1:5], NAMES[5:-1]]
    assert Shared().groups(grid, unseen) == [NAMES[1:-1]]


def test_tiles_that_look_alike_are_a_cluster() -> None:
    left, right, middle = ([name for name in NAMES if name[-1] in columns] for columns in ("01", "34", "2"))
    assert Clusters(3).groups(GRID, columns_alike) == [left, middle, right]


def test_clusters_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    described = assignment._cells

    def noted(pixels: np.ndarray) -> np.ndarray:
        threads.extend(library["num_threads"] for library in threadpool_info())
        return described(pixels)

    monkeypatch.setattr(assignment, "_cells", noted)
    found = []
    for number in (1, 2):
        with threadpool_limits(number):
            found.append(Clusters(4).groups(GRID, columns_alike))
    assert found[0] == found[1]
    assert max(threads) == 2, "there were two"


def test_a_look_at_some_images_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "MOST_SEEN", 2)

    def look(tile: Tile) -> Iterator[np.ndarray]:
        yield from list(columns_alike(tile))[:2]
        pytest.fail("a third image is decoded for nothing")

    assert len(Clusters(3).groups(GRID, look)) == 3


def test_there_are_no_more_clusters_than_kinds_of_tiles() -> None:
    assert Clusters(3).groups(GRID, lambda _: [np.zeros((4, 4, 3), np.uint8)]) == [NAMES]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            Clusters(16),
            (
                "assignment Clusters must have at most as many groups as there are tiles, but has 16 for 15. "
                "Lower assignment.init_args.number."
            ),
        ),
        (
            Grid(2, 6),
            (
                "assignment Grid must have at most as many columns of neighbourhoods as there are columns of tiles, "
                "but has 6 for 5. Lower assignment.init_args.columns."
            ),
        ),
        (
            Groups([["r00_*", "r00_c00"], ["r01_*", "r02_*"]]),
            (
                "Groups must name each of the 15 tiles exactly once, but name 1 more than once: r00_c00. "
                "Change assignment.init_args.groups."
            ),
        ),
        (
            Groups([["r00_*"], ["r01_*"], ["r02_c00"]]),
            (
                "Groups must name each of the 15 tiles exactly once, but name 4 not at all: r02_c01, r02_c02, r02_c03, "
                "r02_c04. Change assignment.init_args.groups."
            ),
        ),
        (
            Groups([["r0*"], ["r03_*"]]),
            "assignment Groups must name tiles of the grid, but names 'r03_*'. Did you mean",
        ),
    ],
)
def test_what_does_not_fit_the_grid_is_refused(chosen: Assignment, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}"):
        chosen.groups(GRID, columns_alike)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clusters(0), "Clusters needs a number of groups of at least 1, got 0."),
        (lambda: Grid(rows=0), "Grid needs at least 1 neighbourhood along each side, got rows = 0."),
        (lambda: Grid(columns=-1), "Grid needs at least 1 neighbourhood along each side, got columns = -1."),
        (lambda: Shared(0), "Shared needs at least 1 tile of each training image, got tiles_per_image = 0."),
        (
            lambda: Groups([NAMES], tiles_per_image=-1),
            "Groups needs at least 1 tile of each training image, got tiles_per_image = -1.",
        ),
        (lambda: Groups([["r00_*"], []]), "Groups needs names of tiles in each group, but group 2 is empty."),
    ],
)
def test_nothing_is_shared_by_no_tiles(make: type, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize("chosen", [Shared, Grid, Clusters, lambda **given: Groups([NAMES], **given)])
def test_a_shared_model_learns_from_all_tiles_unless_told_how_many(chosen: type[Shared]) -> None:
    assert chosen().tiles_per_image is None
    assert chosen(tiles_per_image=3).tiles_per_image == 3
    assert PerTile().tiles_per_image is None
