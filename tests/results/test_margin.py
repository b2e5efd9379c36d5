from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageDraw

from anomalib_tiled.grid import Size
from anomalib_tiled.results.composition import Layers, Style, compose
from anomalib_tiled.results.margin import (
    GROUND,
    LEAST_WIDTH,
    Caption,
    Legend,
    caption_strip,
    distinguishable,
    legend_strip,
    letters_of,
)
from anomalib_tiled.results.painting import Scale

CAPTION = Caption("anomalous", 0.83, 0.5, 3, "normal, but with anomalous pixels", "scratch/000.png")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that are drawn from now on."""
    words: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def noted(self: ImageDraw.ImageDraw, place: tuple[float, float], text: str, **options: object) -> None:
        words.append(text)
        draw(self, place, text, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    return words


def test_the_margin_says_all_that_was_decided(written: list[str]) -> None:
    caption_strip(CAPTION, 512, 12)
    assert written == [
        "ANOMALOUS",
        "score 0.83",
        "threshold 0.5",
        "3 regions",
        "normal, but with anomalous pixels",
        "scratch/000.png",
    ]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        (Caption("normal"), ["NORMAL"]),
        (Caption("uncertain", 12.3456, None, 0), ["UNCERTAIN", "score 12.3", "no regions"]),
        (
            Caption("normal", 0.50004, 0.5, 1, name="\n.png"),
            ["NORMAL", "score 0.50004", "threshold 0.5", "1 region", "?.png"],
        ),
    ],
)
def test_what_is_not_known_is_left_out(written: list[str], caption: Caption, words: list[str]) -> None:
    caption_strip(caption, 512, 12)
    assert written == words


def test_score_and_threshold_are_told_apart() -> None:
    assert distinguishable(0.5000004, 0.5) == ("0.5000004", "0.5")
    assert distinguishable(0.5, 0.5) == ("0.5", "0.5")
    assert distinguishable(0.75, None) == ("0.75", "")


def test_a_long_name_is_cut_in_the_middle(written: list[str]) -> None:
    caption_strip(Caption("normal", name=f"first/{'x' * 300}/last.png"), LEAST_WIDTH, 12)
    (name,) = written[1:]
    assert name.startswith("first/xx")
    assert name.endswith("xx/last.png")
    assert "…" in name
    assert 30 < len(name) < 60


def test_long_words_are_broken_into_lines(written: list[str]) -> None:
    remark = "The part is not found: 0 pixels are white, but 1 must be. " * 3
    strip = caption_strip(Caption("anomalous", remark=remark), LEAST_WIDTH, 12)
    assert " ".join(written[1:]) == remark.strip()
    assert len(strip) > 6 * 12
    assert (strip[:, -2:] == GROUND).all(), "nothing reaches the edge"


def test_the_bar_has_the_numbers_of_its_ends_and_the_threshold(written: list[str]) -> None:
    legend_strip(Legend(Scale(4, 41), 22.5, is_predicted=True, is_true=True), 512, 12)
    assert written == ["4", "41", "pixel threshold 22.5", "predicted", "ground truth"]


@pytest.mark.parametrize(("threshold", "words"), [(50, "50 (above all)"), (1, "1 (below all)")])
def test_a_threshold_outside_of_the_scale_is_not_marked(written: list[str], threshold: float, words: str) -> None:
    strip = legend_strip(Legend(Scale(4, 41), threshold), 512, 12)
    assert written == ["4", "41", f"pixel threshold {words}"]
    marked = legend_strip(Legend(Scale(4, 41), 22.5), 512, 12)
    assert (marked[2:6] == 255).all(axis=2).any()
    assert not (strip[2:6] == 255).all(axis=2).any()


def test_without_map_and_masks_there_is_nothing_to_explain() -> None:
    assert legend_strip(Legend(), 512, 12).shape == (0, 512, 3)


@pytest.mark.parametrize(
    ("size", "letters"), [((16, 16), 12), ((512, 512), 12), ((2048, 2048), 41), ((8192, 8192), 164)]
)
def test_letters_grow_with_the_image(size: tuple[int, int], letters: int) -> None:
    assert letters_of(Size(*size)) == letters


@pytest.mark.parametrize("size", [(1, 1), (400, 40), (40, 400), (64, 1200), (480, 640)])
@pytest.mark.parametrize("beside", [False, True])
def test_an_image_of_any_size_keeps_its_pixels_in_the_picture(size: tuple[int, int], *, beside: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    layers = Layers(np.zeros(size, np.float32), np.zeros(size, bool), np.zeros(size, bool))
    picture = np.asarray(compose(pixels, layers, CAPTION, Style(beside=beside, pixel_threshold=0.5)))
    width = max(LEAST_WIDTH, 2 * size[1] + letters_of(Size(*size)) // 2 if beside else size[1])
    assert picture.shape[1] == width
    top, content = len(caption_strip(CAPTION, width, letters_of(Size(*size)))), width - 2 * ((width - size[1]) // 2)
    left = (width - content) // 2
    places = (0, width - size[1]) if beside and width > LEAST_WIDTH else (left,)
    if beside and width == LEAST_WIDTH:
        places = ((width - 2 * size[1] - 6) // 2, (width + 6) // 2)
    for place in places:
        assert np.array_equal(picture[top : top + size[0], place : place + size[1]], pixels)


def test_a_map_that_counts_nowhere_has_no_bar(written: list[str]) -> None:
    pixels = np.zeros((30, 300, 3), np.uint8)
    compose(pixels, Layers(np.full((30, 300), np.nan, np.float32)), Caption("normal", 0.5), Style(pixel_threshold=0.5))
    assert written == ["NORMAL", "score 0.5"]


def test_regions_touch_at_corners() -> None:
    mask = np.eye(6, dtype=bool)
    mask[0, 5] = True
    assert Layers(predicted=mask).regions == 2
    assert Layers(predicted=~np.ones((3, 3), bool)).regions == 0
    assert Layers().regions is None
