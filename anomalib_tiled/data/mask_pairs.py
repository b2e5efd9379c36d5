"""Pairs images and masks by their names and folders, never by their order.

A mask has the name of its image, with the same text before and after it for all images. Its folder below the root of
the masks has the name of the folder of the image below the root of the images:

    bad/crack/000.png      bad/crack/001.png      bad/crack_big/000.png
    gt/crack/000_mask.png  gt/crack/001_mask.png  gt/crack_big/000_mask.png
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from os.path import commonprefix
from pathlib import Path
from typing import NamedTuple

from anomalib_tiled.errors import DataError

HERE = "."
"""Folder of files in the root itself."""

RULE = "Each anomalous image must have one mask, whose name and folder show which image it belongs to"

ADVICE = "Give masks the names of their images, in folders with the names of the images' folders; add missing masks."

LOOKED_AT = 20
"""Rough number of images to check for an error message."""


class Name(NamedTuple):
    """Name of a file: its folder below its root, and its stem, with the ending only if that distinguishes images."""

    folder: str
    stem: str

    @classmethod
    def of(cls, path: Path, root: Path, *, part: str = "stem", fold: Callable[[str], str] = str) -> Name:
        """Take the name of a file; ``part`` is ``stem`` or ``name``, ``fold`` may ignore case."""
        return cls(fold(path.parent.relative_to(root).as_posix()), fold(getattr(path, part)))


class Affix(NamedTuple):
    """The same text before and after each name."""

    before: str = ""
    after: str = ""

    def around(self, name: str) -> str:
        """Add it to a name; the root has no name of its own."""
        return name if name == HERE else f"{self.before}{name}{self.after}"


class Scheme(NamedTuple):
    """Rule by which masks are named after their images.

    Args:
        folder: Text added to the name of the folder; or one folder for all masks.
        stem: Text added to the name of the image.
    """

    folder: Affix | str
    stem: Affix

    def mask_of(self, image: Name) -> Name:
        """Name the mask of an image."""
        folder = self.folder if isinstance(self.folder, str) else self.folder.around(image.folder)
        return Name(folder, self.stem.around(image.stem))


Masks = dict[Name, list[Path]]
"""Masks by their names; files that differ only in the ending share a name."""


@dataclass(frozen=True)
class Candidates:
    """Images and possible masks.

    Args:
        images: The images.
        masks: The masks; some may belong to no image.
        image_root: Folder that all images are below.
        mask_root: Folder that all masks are below.
    """

    images: Sequence[Path]
    masks: Sequence[Path]
    image_root: Path
    mask_root: Path

    def pairs(self) -> dict[Path, Path]:
        """Give each image its mask.

        Raises:
            DataError: The mask of an image is ambiguous or missing.
        """
        found = self.plain_pairs()
        if found is None:
            raise DataError(self._why_not())
        return found

    def plain_pairs(self) -> dict[Path, Path] | None:
        """Give each image its mask; ``None`` if any is ambiguous or missing."""
        folds: tuple[Callable[[str], str], ...] = (str, str.casefold)  # not all systems tell case apart
        for fold, part in product(folds, ("stem", "name")):
            masks = self._named_masks(fold)
            images = [Name.of(image, self.image_root, part=part, fold=fold) for image in self.images]
            mappings = _mappings(images, masks)
            if not mappings and len(self.masks) == len(self.images):
                mappings = _mapping_by_overlap(images, masks)
            if len(mappings) == 1 and all(len(masks[name]) == 1 for name in mappings[0]):
                return {image: masks[name][0] for image, name in zip(self.images, mappings[0], strict=True)}
            if mappings:
                return None
        return None

    def _named_masks(self, fold: Callable[[str], str] = str) -> Masks:
        masks: Masks = defaultdict(list)
        for mask in self.masks:
            masks[Name.of(mask, self.mask_root, fold=fold)].append(mask)
        return dict(masks)

    def _why_not(self) -> str:
        """Say for one image why its mask is ambiguous or missing."""
        masks = self._named_masks()
        images = {image: Name.of(image, self.image_root) for image in self.images}
        if mappings := _mappings(list(images.values()), masks):
            for image, names in zip(images, zip(*mappings, strict=True), strict=True):
                candidates = [mask for name in dict.fromkeys(names) for mask in masks[name]]
                if len(candidates) > 1:
                    return f"{RULE}, but {image} may have {candidates[0]} or {candidates[1]}. Leave one of them out."
        first = self.images[0]
        scheme = _closest(list(images.values()), masks)
        if scheme is None:
            return f"{RULE}, but {first} has none: no file in {self.mask_root} has its name. {ADVICE}"
        taken: dict[Name, Path] = {}
        for image, name in images.items():
            if (mask := scheme.mask_of(name)) not in masks:
                sought = self.mask_root / mask.folder / f"{mask.stem}.*"
                return f"{RULE}, but {image} has none: there is no {sought}. {ADVICE}"
            if mask in taken:
                return f"{RULE}, but {masks[mask][0]} may be that of {taken[mask]} or of {image}. {ADVICE}"
            taken[mask] = image
        return f"{RULE}, but {first} and {masks[scheme.mask_of(images[first])][0]} do not match. {ADVICE}"


def _mappings(images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> list[tuple[Name, ...]]:
    """Give the masks of all images by each of the simplest schemes that give every image its own mask."""
    longest = max(images, key=lambda name: len(name.folder) + len(name.stem))
    for schemes in _schemes(longest, masks, alone=len(images) == 1):
        found = {mapping for scheme in schemes if (mapping := _mapping(scheme, images, masks)) is not None}
        if found:
            return sorted(found)
    return []


def _mapping(scheme: Scheme, images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> tuple[Name, ...] | None:
    found: dict[Name, None] = {}
    for image in images:
        if (mask := scheme.mask_of(image)) not in masks or mask in found:
            return None
        found[mask] = None
    return tuple(found)


def _schemes(image: Name, masks: Iterable[Name], *, alone: bool) -> Iterator[list[Scheme]]:
    """Yield schemes by which a mask belongs to an image, in groups of equal simplicity.

    Args:
        image: The image.
        masks: The masks.
        alone: Whether there are no other images, which could confirm that ``imgA`` goes with ``imgAmask``.
    """
    for is_edge in (_ends_word,) if alone else (_ends_word, _ends_number):
        same: list[Scheme] = []
        called_after: list[Scheme] = []
        anywhere: list[Scheme] = []
        for mask in masks:
            for stem in _affixes(image.stem, mask.stem, is_edge):
                if mask.folder == image.folder:
                    same.append(Scheme(Affix(), stem))
                elif image.folder != HERE:
                    called_after += [Scheme(folder, stem) for folder in _affixes(image.folder, mask.folder, is_edge)]
                anywhere.append(Scheme(mask.folder, stem))
        yield from (same, called_after, anywhere)


def _affixes(name: str, longer: str, is_edge: Callable[[str, str], bool]) -> Iterator[Affix]:
    """Yield the text around each occurrence of a name in a longer one where both ends of the name are edges."""
    start = longer.find(name)
    while start >= 0:
        before, after = longer[:start], longer[start + len(name) :]
        if is_edge(before[-1:], name[:1]) and is_edge(name[-1:], after[:1]):
            yield Affix(before, after)
        start = longer.find(name, start + 1)


def _ends_word(left: str, right: str) -> bool:
    """Whether a word or number ends between two characters: ``1`` ends in ``1_mask``, but not in ``10_mask``."""
    return _ends_number(left, right) and not (left.isalpha() and right.isalpha())


def _ends_number(left: str, right: str) -> bool:
    return not (left.isdigit() and right.isdigit())


def differing_parts(names: Sequence[str]) -> list[str]:
    """Take away what all names begin or end with, in whole words and numbers: ``big`` is left of ``crack_big_mask``."""
    for _ in ("begin", "end"):  # each name is turned around twice
        names = [name[_common_start(list(names)) :][::-1] for name in names]
    return [name.casefold().strip("_-. /\\") for name in names]


def _common_start(names: list[str]) -> int:
    """Count the letters that all names begin with, up to the end of a word or number in each of them."""
    places = range(len(commonprefix(names)), 0, -1)  # noqa: RUF071  # letters are meant, not folders
    ends = (place for place in places if all(_ends_word(name[place - 1], name[place : place + 1]) for name in names))
    return next(ends, 0)


def _mapping_by_overlap(images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> list[tuple[Name, ...]]:
    """Give the masks of all images if the name of each mask overlaps most with a different image."""
    by_stem: dict[str, list[Name]] = defaultdict(list)
    for image in images:
        by_stem[image.stem].append(image)
    owned: dict[Name, Name] = {}
    for mask in masks:
        overlaps = {image: _overlap(image, mask) for part in _parts(mask.stem) for image in by_stem.get(part, ())}
        best = [image for image, overlap in overlaps.items() if overlap == max(overlaps.values())]
        if len(best) != 1 or best[0] in owned:
            return []
        owned[best[0]] = mask
    return [tuple(owned[image] for image in images)] if len(owned) == len(images) else []


def _parts(stem: str) -> set[str]:
    """Give all runs of whole words and numbers in a name."""
    edges = [place for place in range(len(stem) + 1) if _ends_word(stem[:place][-1:], stem[place:][:1])]
    return {stem[start:end] for start in edges for end in edges if start < end}


def _overlap(image: Name, mask: Name) -> tuple[bool, int]:
    """Compare the names of image and mask: whether their folders are equal, and how many letters occur in both."""
    whole = f"{mask.folder}/{mask.stem}"
    folders = [part for part in image.folder.split("/") if any(_affixes(part, whole, _ends_word))]
    return image.folder == mask.folder, len(image.stem) + sum(map(len, folders))


def _closest(images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> Scheme | None:
    """Give the scheme by which most of some images have a mask; ``None`` if none has by any scheme."""
    looked_at = images[:: len(images) // LOOKED_AT + 1]
    schemes = dict.fromkeys(
        each for image in looked_at for equal in _schemes(image, masks, alone=len(images) == 1) for each in equal
    )

    def reached(scheme: Scheme) -> tuple[int, bool]:
        return len({scheme.mask_of(image) for image in looked_at} & masks.keys()), isinstance(scheme.folder, Affix)

    return max(schemes, key=reached, default=None)
