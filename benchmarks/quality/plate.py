"""A drawn plate with a hundred components on a dark belt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anomalib_tiled.grid import Size
from benchmarks.quality.defects import Pixels, paint
from benchmarks.quality.motifs import Motif

SUPERSAMPLING = 4
ROWS = 10
BELT = (38, 38, 42)
METAL = (142, 146, 150)
COLOURS = ((196, 62, 54), (58, 96, 178), (222, 186, 66), (62, 148, 86), (236, 236, 232), (44, 40, 38))
SHAPES = ("disc", "square", "bar")
WITHOUT = "missing"
OTHER_COLOUR = "recoloured"


@dataclass(frozen=True)
class Component:
    """A component of the plate.

    Args:
        x: Column of its middle, in pixels of the canvas.
        y: Row of its middle.
        shape: One of ``SHAPES``.
        width: In pixels.
        height: In pixels.
        colour: Number in ``COLOURS``.
    """

    x: float
    y: float
    shape: str
    width: float
    height: float
    colour: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels of the canvas."""
        return self.x - self.width / 2, self.y - self.height / 2, self.x + self.width / 2, self.y + self.height / 2


class Plate(Motif):
    """A plate on a belt; each picture has a grain of the belt of its own.

    Args:
        size: As for `Motif`.
        margin: As for `Motif`.
        frame: Pixels of belt around the plate that every image shows of a plate at its place.
        seed: Decides the components.
    """

    kinds = (WITHOUT, OTHER_COLOUR, "scratch")

    def __init__(self, size: Size, margin: int, *, frame: int, seed: int) -> None:
        super().__init__(size, margin)
        self.border = margin + frame
        random = np.random.default_rng(seed)
        self.components = [self._component(row, column, random) for row in range(ROWS) for column in range(ROWS)]
        self._grain = random.normal(scale=4, size=(*self.canvas, 1)).astype(np.float32)

    def normal(self, random: Generator) -> Pixels:
        """Put the complete plate on the belt."""
        grain = random.normal(scale=4, size=(*self.canvas, 1))
        belt = np.clip(np.array(BELT) + grain, 0, 255).astype(np.uint8)
        return np.where(self._is_plate, self._complete, belt)

    def spoilt(self, picture: Pixels, kind: str, random: Generator) -> Pixels:
        """Take a component away, give it another's colour, or scratch the plate."""
        if kind == "scratch":
            return paint(picture, kind, random, margin=self.border)
        chosen = self.components[random.integers(len(self.components))]
        left, top, right, bottom = (round(each) for each in chosen.box)
        around = np.s_[top - 3 : bottom + 4, left - 3 : right + 4]
        changed = picture.copy()
        changed[around] = self._with([] if kind == WITHOUT else [_recoloured(chosen, random)])[around]
        return changed

    @cached_property
    def _complete(self) -> Pixels:
        return self._with(self.components)

    @cached_property
    def _is_plate(self) -> NDArray[np.bool_]:
        inside = np.zeros((*self.canvas, 1), dtype=np.bool_)
        inside[self.border : -self.border, self.border : -self.border] = True
        return inside

    def _component(self, row: int, column: int, random: Generator) -> Component:
        pitch = [(each - 2 * self.border) / ROWS for each in self.canvas]
        y, x = (self.border + (place + 0.5) * step for place, step in zip((row, column), pitch, strict=True))
        most = min(pitch)
        across, shape = random.uniform(0.4, 0.65) * most, str(random.choice(SHAPES))
        along = random.uniform(0.3, 0.5) * across if shape == "bar" else across
        width, height = random.permutation((across, along))
        dx, dy = random.uniform(-0.1, 0.1, size=2) * most
        return Component(x + dx, y + dy, shape, width, height, int(random.integers(len(COLOURS))))

    def _with(self, components: list[Component]) -> Pixels:
        """Draw the plate with some of the components; its grain is always the same."""
        canvas = Image.new("RGB", (self.canvas.width * SUPERSAMPLING, self.canvas.height * SUPERSAMPLING), METAL)
        draw = ImageDraw.Draw(canvas)
        for each in components:
            box = [SUPERSAMPLING * value for value in each.box]
            shape = draw.ellipse if each.shape == "disc" else draw.rectangle
            shape(box, fill=COLOURS[each.colour], outline=(90, 92, 94), width=SUPERSAMPLING)
        drawn = np.asarray(canvas.reduce(SUPERSAMPLING)) + self._grain
        return np.clip(np.rint(drawn), 0, 255).astype(np.uint8)


def _recoloured(component: Component, random: Generator) -> Component:
    others = [number for number in range(len(COLOURS)) if number != component.colour]
    return replace(component, colour=int(random.choice(others)))
