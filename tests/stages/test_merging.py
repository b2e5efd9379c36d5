from __future__ import annotations

import re

import pytest
import torch

from anomalib_tiled.grid import Size, TileGrid
from anomalib_tiled.stages.merging import Gaussian, Hann, Max, Mean, Merger, WindowMerger

MERGERS = [Mean(), Gaussian(), Gaussian(sigma=0.05), Hann(), Max()]
EACH = pytest.mark.parametrize("merger", MERGERS, ids=lambda merger: type(merger).__name__)


def merged(merger: Merger, grid: TileGrid, maps: list[torch.Tensor]) -> torch.Tensor:
    merger.start(grid, len(maps[0]))
    for tile, each in zip(grid.tiles, maps, strict=True):
        merger.add(tile, each)
    return merger.finish()


def cut(images: torch.Tensor, grid: TileGrid) -> list[torch.Tensor]:
    return [images[..., tile.rows, tile.columns] for tile in grid.tiles]


@EACH
def test_cutting_and_merging_gives_the_image_back(merger: Merger, grid: TileGrid) -> None:
    images = torch.randn(2, 1, *grid.image_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(merged(merger, grid, cut(images, grid)), images)


@EACH
def test_a_merge_depends_on_its_maps_alone(merger: Merger) -> None:
    grid, generator = TileGrid(Size(12, 20), Size(5, 8), Size(3, 7)), torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 1, *grid.tile_size, generator=generator) for _ in grid.tiles]
    before = [each.clone() for each in maps]
    first = merged(merger, grid, maps)
    kept = first.clone()
    assert all(torch.equal(*pair) for pair in zip(maps, before, strict=True)), "what is given is not changed"
    assert merged(merger, grid, [each - 1 for each in maps]).max() < first.max()
    assert torch.equal(first, kept), "the result of the first is still in use"
    merger.start(grid, 2)
    for tile, each in reversed(list(zip(grid.tiles, maps, strict=True))):
        merger.add(tile, each)
    torch.testing.assert_close(merger.finish(), first)


# Two tiles of three pixels that share one: 0 0 0 on the left, 6 6 6 on the right.
ROW = TileGrid(Size(1, 5), Size(1, 3), Size(1, 2))


@pytest.mark.parametrize(("merger", "expected"), [(Mean(), 3), (Gaussian(), 3), (Hann(), 3), (Max(), 6)])
def test_where_two_tiles_meet(merger: Merger, expected: float) -> None:
    result = merged(merger, ROW, [torch.zeros(1, 1, 1, 3), torch.full((1, 1, 1, 3), 6.0)])
    assert result.flatten().tolist() == pytest.approx([0, 0, expected, 6, 6])


def test_the_highest_may_be_negative() -> None:
    result = merged(Max(), ROW, [torch.full((1, 1, 1, 3), -5.0), torch.full((1, 1, 1, 3), -2.0)])
    assert result.flatten().tolist() == [-5, -5, -2, -2, -2]


@pytest.mark.parametrize("merger", [Gaussian(), Hann()])
def test_windows_weigh_the_middle_most(merger: WindowMerger) -> None:
    window = merger.window(Size(5, 8))
    assert window.shape == (5, 8)
    assert (window > 0).all()
    assert torch.allclose(window, window.flip(0, 1))
    assert int(window.argmax()) in {2 * 8 + 3, 2 * 8 + 4}


def test_hann_window_of_three_pixels() -> None:
    assert Hann().window(Size(1, 3)).flatten().tolist() == pytest.approx([0.5, 1, 0.5])


def test_gaussian_window_at_one_standard_deviation() -> None:
    window = Gaussian(sigma=0.2).window(Size(1, 5)).flatten()
    assert float(window[3]) == pytest.approx(0.60653066)


@pytest.mark.parametrize("sigma", [0, float("nan"), float("inf")])
def test_gaussian_refuses_a_sigma_without_sense(sigma: float) -> None:
    message = f"needs a positive sigma, a fraction of the tile side, got {sigma}."
    with pytest.raises(ValueError, match=re.escape(message)):
        Gaussian(sigma=sigma)


@EACH
@pytest.mark.parametrize("device", ["meta", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_maps_come_back_on_the_device_that_was_asked_for(merger: Merger, device: str) -> None:
    merger.start(ROW, 2, device=torch.device(device))
    for tile in ROW.tiles:
        merger.add(tile, torch.zeros(2, 1, 1, 3, device=device))
    assert merger.finish().device.type == device
