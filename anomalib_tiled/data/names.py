"""Many names in a few arrays: a name is read, or found, without a Python object for each of the others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import overload

import numpy as np
from numpy.typing import NDArray

HASH = 8
"""Bytes of the hash of a name."""


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """Different file names, in order.

    Args:
        offsets: Where each name begins in ``text``, and where the last one ends, shape (names + 1,).
        hashes: Hashes of all names, ascending, shape (names,).
        places: The position of the name that each hash is of, shape (names,).
        text: All names, as bytes of the file system, shape (bytes,).
    """

    offsets: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    places: NDArray[np.uint64]
    text: NDArray[np.uint8]

    @classmethod
    def of(cls, names: Sequence[str]) -> Names:
        """Store names, all of which differ."""
        encoded = [os.fsencode(name) for name in names]
        offsets = np.zeros(len(encoded) + 1, np.uint64)
        np.cumsum([len(name) for name in encoded], out=offsets[1:], dtype=np.uint64)
        hashes = np.array([_hash(name) for name in encoded], np.uint64)
        places = np.argsort(hashes, kind="stable").astype(np.uint64)
        return cls(offsets, hashes[places], places, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        """Number of names."""
        return len(self.hashes)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        """Give the name at a position."""
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        return os.fsdecode(self._bytes(range(len(self))[place]))

    def __iter__(self) -> Iterator[str]:
        """Give all names, in order."""
        text = self.text.tobytes()
        return (os.fsdecode(text[first:end]) for first, end in pairwise(self.offsets.tolist()))

    def place_of(self, name: str) -> int:
        """Give the position of a name.

        Raises:
            KeyError: It is none of these.
        """
        encoded = os.fsencode(name)
        key = np.uint64(_hash(encoded))
        for found in range(int(np.searchsorted(self.hashes, key)), len(self)):
            if self.hashes[found] != key:
                break
            if self._bytes(place := int(self.places[found])) == encoded:  # two names may have the same hash
                return place
        raise KeyError(name)

    def _bytes(self, place: int) -> bytes:
        return self.text[int(self.offsets[place]) : int(self.offsets[place + 1])].tobytes()


def _hash(name: bytes) -> int:
    return int.from_bytes(blake2b(name, digest_size=HASH).digest(), "little")
