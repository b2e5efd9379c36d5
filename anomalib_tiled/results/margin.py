"""The margin of a picture: what was decided about the image, above it, and what the colours mean, below it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomalib_tiled.results.colours import heat_colours
from anomalib_tiled.results.painting import BETWEEN, PREDICTED, TRUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from anomalib_tiled.grid import Size
    from anomalib_tiled.results.painting import Scale
    from anomalib_tiled.stages.uncertain import Verdict

    Pixels = NDArray[np.uint8]
    Colour = tuple[int, int, int]

GROUND, TEXT, QUIET = (30, 30, 34), (240, 240, 240), (170, 170, 178)
VERDICTS = {"normal": (0, 114, 178), "uncertain": (240, 228, 66), "anomalous": (213, 94, 0)}
"""Ground of each verdict, from the colours of Okabe and Ito, which colour-blind readers tell apart."""

REMARK = (240, 228, 66)
CHEQUERS = (96, 160)
"""Greys behind the colour bar, so that one sees how transparent it is."""

LEAST_WIDTH, LEAST_LETTERS, LETTERS_PER_SIDE = 260, 12, 50
"""Least width of a picture, least size of letters in pixels, and letters in the height of a square image."""

DIGITS = range(3, 9)


@dataclass(frozen=True)
class Caption:
    """What was decided about an image.

    Args:
        verdict: ``normal``, ``uncertain`` or ``anomalous``.
        score: Score of the image; ``None`` if it has none.
        threshold: Threshold of images; ``None`` if each tile has its own, or if it is not known.
        regions: Number of anomalous regions; ``None`` if there are no masks.
        remark: What contradicts that, or why the part is not found; empty if nothing is to be said.
        name: The image; its middle is cut out if it is too long.
    """

    verdict: Verdict
    score: float | None = None
    threshold: float | None = None
    regions: int | None = None
    remark: str = ""
    name: str = ""


@dataclass(frozen=True)
class Legend:
    """What colours and lines mean.

    Args:
        scale: Scores of the first and the last colour; ``None`` if there is no heat map.
        threshold: Threshold of pixels, marked on the bar; ``None`` if each tile has its own, or if there are no masks.
        is_predicted: Whether a predicted mask is drawn.
        is_true: Whether a ground truth is drawn.
    """

    scale: Scale | None = None
    threshold: float | None = None
    is_predicted: bool = False
    is_true: bool = False


class Piece(NamedTuple):
    """Words that stay on one line.

    Args:
        words: The words.
        colour: Their colour.
        ground: Colour of the box that they stand on; ``None`` for none.
        line: Colours of the line that they explain, which is drawn before them; ``None`` for none.
    """

    words: str
    colour: Colour = TEXT
    ground: Colour | None = None
    line: tuple[Colour, Colour] | None = None


class Strip:
    """A strip with words, as wide as the picture.

    Args:
        width: Width in pixels.
        letters: Size of the letters in pixels.
    """

    def __init__(self, width: int, letters: int) -> None:
        self.width, self.letters = width, letters
        self._font = _font(letters)
        self._rows: list[list[tuple[float, Piece]]] = []

    @property
    def room(self) -> float:
        """Width for words, without the space at both sides."""
        return self.width - self.letters

    def add(self, *pieces: Piece) -> None:
        """Begin a line, and break it where it is full."""
        place = self.room + 1.0
        for piece in pieces:
            piece_width = self._width_of(piece)
            if place + piece_width > self.room:
                self._rows.append([])
                place = 0.0
            self._rows[-1].append((place, piece))
            place += piece_width + self.letters

    def add_cut(self, words: str, colour: Colour) -> None:
        """Add a line, and cut out its middle if it is too long."""
        kept = len(words)
        while kept > 1 and self._width_of(Piece(_cut(words, kept))) > self.room:
            kept -= max(1, kept // 20)
        self.add(Piece(_cut(words, kept), colour))

    def add_wrapped(self, words: str, colour: Colour) -> None:
        """Add words, in as many lines as they need."""
        longest = max(8, int(self.room / (0.55 * self.letters)))
        for line in textwrap.wrap(words, longest):
            self.add(Piece(line, colour))

    def drawn(self) -> Pixels:
        """Draw the strip."""
        space, row_height = self.letters // 2, round(1.6 * self.letters)
        picture = Image.new("RGB", (self.width, space + row_height * len(self._rows)), GROUND)
        draw = ImageDraw.Draw(picture)
        for number, row in enumerate(self._rows):
            for place, piece in row:
                self._draw(draw, (space + place, space / 2 + number * row_height), piece)
        return np.asarray(picture)

    def _draw(self, draw: ImageDraw.ImageDraw, place: tuple[float, float], piece: Piece) -> None:
        (left, top), size = place, self.letters
        if piece.ground is not None:
            right = left + self._width_of(piece)
            draw.rounded_rectangle((left, top + 0.1 * size, right, top + 1.5 * size), 0.3 * size, fill=piece.ground)
            left += size / 2
        if piece.line is not None:
            middle, dash, width = top + 0.8 * size, size / 2, max(2, size // 5)
            for number in range(4):
                start = left + number * dash
                draw.line((start, middle, start + dash, middle), piece.line[number % 2], width)
            left += 2.5 * size
        draw.text((left, top + 0.8 * size), piece.words, fill=piece.colour, font=self._font, anchor="lm")

    def _width_of(self, piece: Piece) -> float:
        around = 0.0 if piece.ground is None else self.letters
        return self._font.getlength(piece.words) + around + (0 if piece.line is None else 2.5 * self.letters)


def letters_of(size: Size) -> int:
    """Give the size of letters for an image, in pixels."""
    return max(LEAST_LETTERS, round(sqrt(size.height * size.width) / LETTERS_PER_SIDE))


def caption_strip(caption: Caption, width: int, letters: int) -> Pixels:
    """Draw what was decided about an image.

    Args:
        caption: The decision.
        width: Width of the picture in pixels.
        letters: Size of letters in pixels.
    """
    strip = Strip(width, letters)
    ground = VERDICTS[caption.verdict]
    pieces = [Piece(caption.verdict.upper(), _readable_on(ground), ground)]
    if caption.score is not None:
        score, threshold = distinguishable(caption.score, caption.threshold)
        pieces.append(Piece(f"score {score}"))
        pieces += [Piece(f"threshold {threshold}", QUIET)] if threshold else []
    if caption.regions is not None:
        pieces.append(Piece("1 region" if caption.regions == 1 else f"{caption.regions or 'no'} regions"))
    strip.add(*pieces)
    if caption.remark:
        strip.add_wrapped(caption.remark, REMARK)
    if caption.name:
        strip.add_cut("".join(each if each.isprintable() else "?" for each in caption.name), QUIET)
    return strip.drawn()


def legend_strip(legend: Legend, width: int, letters: int) -> Pixels:
    """Draw what colours and lines mean.

    Args:
        legend: Their meaning.
        width: Width of the picture in pixels.
        letters: Size of letters in pixels.
    """
    strips = [] if legend.scale is None else [_bar(legend.scale, legend.threshold, width, letters)]
    if legend.is_predicted or legend.is_true:
        strip = Strip(width, letters)
        predicted, true = Piece("predicted", line=(PREDICTED, PREDICTED)), Piece("ground truth", line=(TRUE, BETWEEN))
        strip.add(*([predicted] if legend.is_predicted else []), *([true] if legend.is_true else []))
        strips.append(strip.drawn())
    return np.concatenate(strips) if strips else np.empty((0, width, 3), np.uint8)


def _bar(scale: Scale, threshold: float | None, width: int, letters: int) -> Pixels:
    """Draw the colours with the numbers of their ends, and the threshold of pixels between them."""
    font, space, bar_height = _font(letters), letters // 2, letters
    lowest, highest = (shortened(each) for each in (scale.low, scale.high))
    left = round(space + font.getlength(lowest) + space)
    right = max(left + 1, round(width - space - font.getlength(highest) - space))
    picture = Image.new("RGB", (width, round(space + bar_height + 1.6 * letters)), GROUND)
    picture.paste(Image.fromarray(_colours(right - left, bar_height)), (left, space))
    draw, middle = ImageDraw.Draw(picture), space + bar_height / 2
    draw.text((space, middle), lowest, fill=TEXT, font=font, anchor="lm")
    draw.text((width - space, middle), highest, fill=TEXT, font=font, anchor="rm")
    if threshold is not None:
        share = (threshold - scale.low) / scale.span
        _mark(draw, share, (left, right, space), f"pixel threshold {shortened(threshold)}", letters)
    return np.asarray(picture)


def _mark(draw: ImageDraw.ImageDraw, share: float, box: tuple[int, int, int], words: str, letters: int) -> None:
    """Mark the threshold of pixels on the bar; if it is outside of the scale, only words say so.

    Args:
        draw: Draws.
        share: Where on the bar, from 0 to 1.
        box: Left, right and upper end of the bar.
        words: What is marked.
        letters: Size of letters.
    """
    (left, right, top), font = box, _font(letters)
    words += "" if 0 <= share <= 1 else " (above all)" if share > 1 else " (below all)"
    place = left + min(1.0, max(0.0, share)) * (right - left)
    if 0 <= share <= 1:
        thick = max(2, letters // 6)
        draw.rectangle((place - thick, top - thick, place + thick, top + 1.25 * letters), fill=BETWEEN)
        draw.rectangle((place - thick / 2, top - thick / 2, place + thick / 2 - 1, top + 1.25 * letters), fill=TRUE)
    words_width = font.getlength(words)
    place = min(max(place, letters / 2 + words_width / 2), right + letters * 2 - words_width / 2)
    draw.text((place, top + 1.95 * letters), words, fill=TEXT, font=font, anchor="mm")


def _colours(width: int, height: int) -> Pixels:
    """Draw all colours from left to right over chequers."""
    table = np.array(heat_colours(), np.float32)[np.arange(width) * 255 // max(1, width - 1)]
    chequers = np.array(CHEQUERS, np.float32)
    side = max(2, height // 2)
    places = (np.arange(height)[:, None] // side + np.arange(width) // side) % 2
    opacity = table[..., 3:] / 255
    drawn: Pixels = np.rint(table[..., :3] * opacity + chequers[places][..., None] * (1 - opacity)).astype(np.uint8)
    return drawn


def distinguishable(score: float, threshold: float | None) -> tuple[str, str]:
    """Write score and threshold with as many digits as it takes to tell them apart; the second is empty if unknown."""
    if threshold is None:
        return shortened(score), ""
    for digits in DIGITS:
        written = shortened(score, digits), shortened(threshold, digits)
        if written[0] != written[1]:
            break
    return written


def shortened(number: float, digits: int = DIGITS[0]) -> str:
    """Write a number with some digits."""
    return f"{number:.{digits}g}"


def _cut(words: str, kept: int) -> str:
    """Cut out the middle of words, so that some letters are kept."""
    if kept >= len(words):
        return words
    return f"{words[: kept // 2]}…{words[len(words) - (kept - kept // 2) :]}"


def _readable_on(ground: Colour) -> Colour:
    red, green, blue = ground
    return GROUND if 0.3 * red + 0.6 * green + 0.1 * blue > 160 else (255, 255, 255)  # noqa: PLR2004  # a middle grey


@cache
def _font(letters: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(letters)
