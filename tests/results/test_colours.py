from __future__ import annotations

import numpy as np
import pytest

from anomalib_tiled.results.colours import grey_of, heat_colours

TABLE = np.array(heat_colours())

PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TRITANOPIA = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
"""What is seen of linear red, green and blue: Machado, Oliveira and Fernandes, 2009, doi 10.1109/TVCG.2009.113."""


def linear(colours: np.ndarray) -> np.ndarray:
    """Convert sRGB bytes to linear values in [0, 1]."""
    values = colours / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def test_each_score_has_a_colour_and_an_opacity() -> None:
    assert TABLE.shape == (256, 4)
    assert TABLE.min() >= 0
    assert TABLE.max() <= 255


def test_the_image_alone_shows_where_scores_are_low_and_never_disappears() -> None:
    opacity = TABLE[:, 3]
    assert (opacity[: 256 // 8] == 0).all()
    assert (np.diff(opacity) >= 0).all()
    assert opacity[96] < 255 / 5, "well below the threshold, the part keeps its colours"
    assert 90 < opacity[128] < opacity[-1] < 255


@pytest.mark.parametrize("seen", [np.eye(3).tolist(), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_higher_scores_are_lighter_for_every_reader(seen: list[list[float]]) -> None:
    luminance = np.clip(linear(TABLE[:, :3]) @ np.array(seen).T, 0, 1) @ [0.2126, 0.7152, 0.0722]
    steps = luminance[8:] - luminance[:-8]  # single bytes are too coarse for the darkest colours
    assert (steps > 0).all()


def test_scores_become_grey_values() -> None:
    scores = np.array([-1.0, np.nan, 0.5, 9.0], np.float32)
    assert grey_of(scores, 0.0, 1.0).tolist() == [0, 0, 128, 255]
