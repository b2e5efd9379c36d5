from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from anomalib_tiled.grid import Size
from anomalib_tiled.results.region import Region
from anomalib_tiled.results.regions import in_source_size, regions_of, run_lengths
from anomalib_tiled.system.validation import validated

NAN = float("nan")


@pytest.fixture
def scores() -> np.ndarray:
    return np.random.default_rng(0).random((30, 50), dtype=np.float32)


def masked(region: Region, shape: tuple[int, int]) -> np.ndarray:
    """Draw a region from its run lengths."""
    flat = np.concatenate([np.full(length, number % 2, bool) for number, length in enumerate(region.segmentation)])
    return flat.reshape(shape[::-1]).T


def test_two_boxes_by_hand() -> None:
    mask, scores = np.zeros((6, 9), bool), np.zeros((6, 9), np.float32)
    mask[1:3, 2:5] = True
    mask[5, 8] = True
    scores[2, 4], scores[5, 8] = 0.6, 0.9
    assert regions_of(mask, scores) == (
        Region((8, 5, 1, 1), 1, (8.0, 5.0), (8, 5), pytest.approx(0.9), pytest.approx(0.9)),
        Region((2, 1, 3, 2), 6, (3.0, 1.5), (4, 2), pytest.approx(0.6), pytest.approx(0.1)),
    )


def test_nothing_anomalous_no_region(scores: np.ndarray) -> None:
    assert regions_of(scores > 1, scores, segmentation=True) == ()


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    mask = np.eye(4, dtype=bool)
    (region,) = regions_of(mask, mask.astype(np.float32))
    assert (region.bbox, region.area) == ((0, 0, 4, 4), 4)


def test_regions_are_what_scipy_measures(scores: np.ndarray) -> None:
    mask = ndimage.gaussian_filter(scores, 2) > 0.53
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    found = regions_of(mask, scores, segmentation=True)
    assert len(found) == count > 3
    assert [region.peak_score for region in found] == sorted((region.peak_score for region in found), reverse=True)
    union = np.zeros(mask.shape, int)
    for region in found:
        inside = masked(region, mask.shape)
        union += inside
        label = labels[region.peak[1], region.peak[0]]
        assert np.array_equal(inside, labels == label)
        assert region.area == inside.sum()
        assert region.mean_score == pytest.approx(scores[inside].mean())
        assert region.peak_score == scores[inside].max()
        assert region.centroid == pytest.approx(ndimage.center_of_mass(inside)[::-1])
        x, y, width, height = region.bbox
        assert inside[y : y + height, x : x + width].sum() == region.area
        assert all(side.any() for side in (inside[y], inside[:, x], inside[y + height - 1], inside[:, x + width - 1]))
    assert np.array_equal(union, mask)


def test_small_regions_are_left_out() -> None:
    mask = np.zeros((5, 5), bool)
    mask[0, 0] = mask[3:, 3:] = True
    assert [each.area for each in regions_of(mask, mask.astype(np.float32), min_area=4)] == [4]


def test_a_region_is_read_as_it_was_written(scores: np.ndarray) -> None:
    for segmentation in (True, False):
        for region in regions_of(scores > 0.9, scores, segmentation=segmentation):
            content = json.loads(json.dumps(region.to_json()))
            assert validated(Region, content).to_json() == region.to_json()
            assert np.float32(content["peak_score"]) == np.float32(region.peak_score)


def test_run_lengths_go_down_the_columns() -> None:
    mask = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert run_lengths(*np.nonzero(mask), mask.shape) == (1, 3, 2)
    assert run_lengths(np.array([1]), np.array([2]), (2, 3)) == (5, 1, 0)


def test_a_map_in_the_size_of_its_image_stays_as_it_is(scores: np.ndarray) -> None:
    assert np.array_equal(in_source_size(torch.from_numpy(scores)[None], Size(30, 50)), scores)


@pytest.mark.parametrize("size", [Size(7, 13), Size(60, 100), Size(45, 20), Size(31, 49)])
def test_a_pixel_of_the_image_gets_the_highest_score_that_it_shares_area_with(scores: np.ndarray, size: Size) -> None:
    enlarged = np.kron(scores, np.ones(size))  # both sizes divide it, so that areas can be looked up
    expected = enlarged.reshape(size.height, 30, size.width, 50).max(axis=(1, 3))
    assert np.array_equal(in_source_size(torch.from_numpy(scores), size), expected)


@pytest.mark.parametrize("size", [Size(7, 13), Size(60, 100), Size(45, 20)])
def test_masks_and_scores_agree_in_every_size(scores: np.ndarray, size: Size) -> None:
    mask = in_source_size(torch.from_numpy(scores > 0.98), size) > 0
    assert np.array_equal(mask, in_source_size(torch.from_numpy(scores), size) > 0.98)
    assert mask.any()


@pytest.mark.parametrize("size", [Size(3, 5), Size(600, 400)])
def test_a_single_pixel_is_never_lost(size: Size) -> None:
    values = torch.zeros(30, 50)
    values[17, 23] = 1
    found = in_source_size(values, size)
    rows, columns = np.nonzero(found)
    assert rows.min() == 17 * size.height // 30
    assert columns.max() == -(-24 * size.width // 50) - 1


class Elsewhere(torch.Tensor):
    """Lies on a device that does not pool to any size."""

    @classmethod
    def __torch_function__(cls, function: Callable[..., object], *arguments: object) -> object:
        if "adaptive" in function.__name__:
            raise NotImplementedError
        found = super().__torch_function__(function, *arguments)
        return found.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else found


def test_a_map_may_lie_on_any_device(scores: np.ndarray) -> None:
    here, size = torch.from_numpy(scores)[None], Size(7, 13)
    assert np.array_equal(in_source_size(here.as_subclass(Elsewhere), size), in_source_size(here, size))


@pytest.mark.parametrize(("size", "expected"), [((1, 2), [[1, 5]]), ((1, 4), [[0, 1, NAN, 5]]), ((1, 3), [[1, 1, 5]])])
def test_a_pixel_without_a_score_in_the_map_has_none_in_the_image(
    size: tuple[int, int], expected: list[list[float]]
) -> None:
    found = in_source_size(torch.tensor([[[0.0, 1.0, NAN, 5.0]]]), Size(*size))
    assert np.array_equal(found, np.array(expected, np.float32), equal_nan=True)
    nothing = in_source_size(torch.full((1, 4, 4), NAN), Size(2, 2))
    assert np.isnan(nothing).all()
