from __future__ import annotations

import re

import pytest
import torch
from anomalib.models.components import GaussianBlur2d

from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.seams import GaussianSeams

EXACT = TileGrid(Size(48, 64), Size(16, 16), Size(16, 16))
NON_DIVIDING = TileGrid(Size(40, 50), Size(16, 16), Size(14, 12))


def random_maps(grid: TileGrid) -> torch.Tensor:
    return torch.rand(2, 1, *grid.image_size, generator=torch.Generator().manual_seed(0))


def near_seams(grid: TileGrid, reach: int) -> torch.Tensor:
    """Which pixels lie within reach of a seam."""
    near = torch.zeros(tuple(grid.image_size), dtype=torch.bool)
    for seam in grid.row_seams:
        near[max(0, seam - reach) : seam + reach] = True
    for seam in grid.column_seams:
        near[:, max(0, seam - reach) : seam + reach] = True
    return near


# Reach in pixels is the fraction of the tile side of 16, rounded down: 1 (never 0), 1, 3 and 6.
@pytest.mark.parametrize(("sigma", "width", "reach"), [(0.7, 0.01, 1), (2.0, 0.1, 1), (0.7, 0.2, 3), (2.0, 0.4, 6)])
@pytest.mark.parametrize("grid", [EXACT, NON_DIVIDING], ids=["exact", "non-dividing"])
def test_blurred_near_every_seam_and_untouched_elsewhere(
    grid: TileGrid, sigma: float, width: float, reach: int
) -> None:
    maps = random_maps(grid)
    before = maps.clone()
    smoothed = GaussianSeams(sigma, width).smooth(maps, grid)
    assert torch.equal(maps, before), "what is given is not changed"
    expected = torch.where(near_seams(grid, reach), GaussianBlur2d(sigma)(maps), maps)
    torch.testing.assert_close(smoothed, expected, atol=1e-6, rtol=0)
    untouched = ~near_seams(grid, reach).expand_as(maps)
    assert torch.equal(smoothed[untouched], maps[untouched])


def test_every_seam_of_a_non_dividing_grid_is_smoothed() -> None:
    smoothed = GaussianSeams(width=0.01).smooth(random_maps(NON_DIVIDING), NON_DIVIDING)
    rows = (smoothed != random_maps(NON_DIVIDING)).all(dim=3)[0, 0].nonzero().flatten().tolist()
    assert NON_DIVIDING.row_seams == (14, 16, 24, 30)
    assert rows == [13, 14, 15, 16, 23, 24, 29, 30]


def test_strips_that_overlap_cover_the_image() -> None:
    """A strip wider than the stride neither vanishes nor is blurred twice."""
    grid = TileGrid(Size(32, 32), Size(16, 16), Size(4, 4))
    maps = random_maps(grid)
    smoothed = GaussianSeams(1.0, 0.5).smooth(maps, grid)
    torch.testing.assert_close(smoothed, GaussianBlur2d(1.0)(maps), atol=1e-6, rtol=0)


def test_a_constant_map_stays_as_it_is(grid: TileGrid) -> None:
    maps = torch.full((1, 1, *grid.image_size), 3.7)
    torch.testing.assert_close(GaussianSeams(width=0.5).smooth(maps, grid), maps)


def test_one_tile_has_no_seams() -> None:
    grid = TileGrid(Size(16, 16), Size(16, 16), Size(16, 16))
    assert torch.equal(GaussianSeams(width=1.0).smooth(random_maps(grid), grid), random_maps(grid))


def test_a_blur_wider_than_the_image_mirrors_as_often_as_needed(grid: TileGrid) -> None:
    maps = random_maps(grid)
    smoothed = GaussianSeams(sigma=20.0, width=1.0).smooth(maps, grid)
    assert smoothed.isfinite().all()
    assert smoothed.min() >= maps.min() - 1e-6
    assert smoothed.max() <= maps.max() + 1e-6


def test_an_image_of_one_row() -> None:
    grid = TileGrid(Size(1, 8), Size(1, 4), Size(1, 4))
    assert GaussianSeams().smooth(torch.ones(1, 1, 1, 8), grid).flatten().tolist() == pytest.approx([1] * 8)


@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_blur_is_on_the_device_of_the_maps_from_map_to_map(device: str) -> None:
    smoother = GaussianSeams()
    for each in (device, "cpu", device):
        maps = torch.empty(2, 1, 48, 64, device=each)
        smoothed = smoother.smooth(maps, EXACT)
        assert smoothed.device.type == each
        assert smoother._kernel(maps).device.type == each, "a meta device takes any kernel, CUDA does not"
        assert smoothed.shape == maps.shape


def test_the_last_tile_that_is_moved_back_has_its_seams_where_it_is() -> None:
    grid = TileGrid(Size(1, 700), Size(1, 256), Size(1, 192))
    maps = torch.rand(1, 1, 1, 700, generator=torch.Generator().manual_seed(0))
    changed = (GaussianSeams(sigma=1.0, width=0.001).smooth(maps, grid) != maps).flatten().nonzero().flatten().tolist()
    assert grid.tiles[-1].columns == slice(444, 700)
    assert changed == [line for seam in (192, 256, 384, 444, 448, 640) for line in (seam - 1, seam)]


def test_a_strip_wider_than_the_stride_or_across_the_border_does_not_vanish() -> None:
    grid = TileGrid(Size(1, 40), Size(1, 20), Size(1, 5))
    maps = torch.rand(1, 1, 1, 40, generator=torch.Generator().manual_seed(0))
    changed = (GaussianSeams(sigma=1.0, width=0.3).smooth(maps, grid) != maps).flatten()
    assert torch.equal(changed, near_seams(grid, 6).flatten())
    assert changed[[5, 35]].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigma": 0}, "needs a positive sigma of at most 100 pixels, got 0. Use null for no smoothing."),
        ({"sigma": float("nan")}, "needs a positive sigma of at most 100 pixels, got nan. Use null"),
        ({"width": 0}, "needs a width between 0 and 1 of the tile side, got 0."),
        ({"width": 1.5}, "needs a width between 0 and 1 of the tile side, got 1.5."),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        GaussianSeams(**arguments)
