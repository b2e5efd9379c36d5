"""Bins of scores: ranges of floats, fine enough for the range of the scores and for those near zero.

A float32 has an exponent and 23 bits of mantissa; read as an integer of 32 bits, negative ones inverted, higher floats
are higher integers. Floats of one exponent, an octave, are cut into 2^23, 2^22, 2^21, ... bins by ignoring trailing
bits of the mantissa. How many are ignored is different from octave to octave:

    ──┬────┬────┬────┬──┬──┬──┬─┬─┬┬┬┬┬|┬┬┬┬┬─┬─┬──┬──┬──┬────┬────┬────┬──
      one width, a fraction of the range  0     narrower near zero: the score / 2^11

So no bin is wider than a given fraction of the range of the scores, and none wider than a 2^11th of its scores. When
the range grows, bins become twice as wide: each is the union of old ones then, and nothing has to be counted again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Singles = NDArray[np.float32]

MOST_IGNORED_BITS = 12
"""Bits of the mantissa's 23 that a bin ignores at most: its width is then a 2^11th of its scores."""

MANTISSA_BITS = np.uint32(23)
MANTISSA = np.uint32(0x007F_FFFF)
SIGN_BIT = np.uint32(0x8000_0000)

OCTAVES = 512
"""Exponents of negative floats, highest first, then those of positive ones."""

LOWEST_EXPONENT = -126
"""Exponent of the smallest normal floats; subnormal floats share it."""


@dataclass(frozen=True)
class Bins:
    """How floats are cut into bins, numbered so that a higher float never has a lower bin.

    Args:
        width_exponent: Bins are 2 to the power of this wide, where that is neither too wide near zero, nor narrower
            than floats can tell apart.
    """

    width_exponent: int

    @classmethod
    def for_range(cls, minimum: float, maximum: float, bits: int) -> Bins:
        """Give the bins for scores between two numbers.

        Args:
            minimum: Lowest score.
            maximum: Highest score.
            bits: The range is cut into at least 2 to the power of ``bits`` - 1, and at most 2 to the power of ``bits``
                bins of one width.
        """
        return cls(math.frexp(maximum - minimum)[1] - bits if maximum > minimum else LOWEST_EXPONENT * 2)

    def of(self, scores: Singles) -> Integers:
        """Give the bin of each score."""
        bits = (scores + np.float32(0)).view(np.uint32)  # adding zero turns -0.0 into 0.0
        ordered = np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)
        octaves = ordered >> MANTISSA_BITS
        ordered &= MANTISSA
        ordered >>= self._ignored[octaves]
        first: Integers = self._first[octaves]
        return first + ordered

    def lowest(self, bins: Integers) -> Singles:
        """Give the lowest float of each bin."""
        octaves = np.searchsorted(self._first, bins, side="right") - 1
        mantissas = (bins - self._first[octaves]) << self._ignored[octaves]
        ordered = (octaves << np.int64(MANTISSA_BITS)) + mantissas
        bits = ordered.astype(np.uint32)
        return np.where(bits & SIGN_BIT, bits & ~SIGN_BIT, ~bits).view(np.float32)

    @cached_property
    def _ignored(self) -> NDArray[np.uint32]:
        """Trailing bits of the mantissa that the bins of each octave ignore."""
        half = OCTAVES // 2
        exponents = np.maximum(np.arange(half) - 1, 0) + LOWEST_EXPONENT
        ignored = np.clip(self.width_exponent - exponents + int(MANTISSA_BITS), 0, MOST_IGNORED_BITS)
        return np.concatenate([ignored[::-1], ignored]).astype(np.uint32)

    @cached_property
    def _first(self) -> Integers:
        """First bin of each octave."""
        numbers = np.int64(1) << (np.int64(MANTISSA_BITS) - self._ignored.astype(np.int64))
        first: Integers = np.cumsum(numbers) - numbers
        return first
