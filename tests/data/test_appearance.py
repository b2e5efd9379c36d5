"""How images look: numbers that can be computed by hand, and what changes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from anomalib_tiled.data import appearance
from anomalib_tiled.data.appearance import Appearance

Pixels = NDArray[np.uint8]


def grey(values: NDArray[np.generic]) -> Pixels:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def halves(height: int = 40, width: int = 60, step: int = 102) -> Pixels:
    """Black to the left, brighter to the right."""
    values = np.zeros((height, width))
    values[:, width // 2 :] = step
    return grey(values)


def noisy(image: NDArray[np.generic], seed: int) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_an_edge_by_hand() -> None:
    seen = Appearance.of(halves())
    assert seen.brightness == pytest.approx(0.2)
    assert seen.contrast == pytest.approx(0.2)
    assert seen.sharpness == pytest.approx(51 / 51), "both pixels at the edge rise by half of the step"
    assert (seen.shift_x, seen.shift_y, seen.rotation) == (None, None, None)


def test_a_grey_image_has_no_edges() -> None:
    assert Appearance.of(grey(np.full((4, 6), 51))) == Appearance(0.2, 0.0, 0.0)


def test_strips_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    image = data.astronaut()
    hidden = np.zeros(image.shape[:2], np.bool_)
    hidden[100:300, 50:70] = True
    whole = [Appearance.of(image), Appearance.of(image, hidden)]
    for rows in (1, 7, 1000):
        monkeypatch.setattr(appearance, "ROWS_AT_ONCE", rows)
        assert [Appearance.of(image), Appearance.of(image, hidden)] == whole


def test_hidden_pixels_change_nothing() -> None:
    image, hidden = data.astronaut(), np.zeros((512, 512), np.bool_)
    hidden[50:90, 200:300] = True
    other = image.copy()
    other[hidden] = 255
    assert Appearance.of(other, hidden) == Appearance.of(image, hidden) != Appearance.of(image)
    everything = np.ones((512, 512), np.bool_)
    assert Appearance.of(image, everything) == Appearance(0.0, 0.0, 0.0), "nothing is left to look at"


def test_a_light_that_fades_changes_brightness_and_contrast_alone() -> None:
    before, after = (Appearance.of(noisy(light * data.astronaut(), 0)) for light in (1, 0.9))
    assert after.brightness == pytest.approx(0.9 * before.brightness, rel=0.02)
    assert after.contrast == pytest.approx(0.9 * before.contrast, rel=0.02)
    assert after.sharpness == pytest.approx(before.sharpness, rel=0.01)


@pytest.mark.parametrize("name", ["astronaut", "brick", "coffee", "gravel"])
def test_a_blurred_lens_is_seen_through_noise(name: str) -> None:
    image = np.atleast_3d(getattr(data, name)()) * np.ones((1, 1, 3))
    sharp = [Appearance.of(noisy(image, seed)).sharpness for seed in range(5)]
    blurred = [Appearance.of(noisy(cv2.GaussianBlur(image, (0, 0), 1), seed)).sharpness for seed in range(5)]
    lost = np.mean(sharp) - np.mean(blurred)
    assert lost > 0.2 * np.mean(sharp)
    assert lost > 20 * np.std(sharp), "noise moves it far less"


def test_shift_and_rotation_are_those_of_the_part() -> None:
    shifted = Appearance.of(halves(), matrix=(1, 0, 3, 0, 1, -2, 0, 0, 1))
    assert (shifted.shift_x, shifted.shift_y, shifted.rotation) == (3, -2, 0)
    cosine, sine = np.cos(np.radians(5)), np.sin(np.radians(5))
    turned = Appearance.of(halves(), matrix=(cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    assert turned.rotation == pytest.approx(5, abs=1e-4), "clockwise on the screen, where y points down"
