"""Which mask belongs to which image: told from their names and folders, never from their order.

A mask has the name of its image, with the same text before and after it for all images, in a folder below the root of
the masks that is called as that of the image below its own root:

    bad/crack/000.png      bad/crack/001.png      bad/crack_big/000.png
    gt/crack/000_mask.png  gt/crack/001_mask.png  gt/crack_big/000_mask.png
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product, takewhile
from os.path import commonpath
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_tiled.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

HERE = "."
"""The folder of what lies in the root itself."""

RULE = "Each anomalous image must have one mask, and its name and folder must tell the image"

ADVICE = "Name masks as their images, in folders that are called as those of the images; add what is missing."

LOOKED_AT = 20
"""Number of images, about, that are looked at to say what is missing."""


@dataclass(frozen=True, order=True)
class Name:
    """What a file is called below its root.

    Args:
        folder: The folder that it is in, ``.`` for the root.
        stem: Its name, without the ending unless that is needed to tell images apart.
    """

    folder: str
    stem: str


@dataclass(frozen=True)
class Affix:
    """The same text before and after each name.

    Args:
        before: Text before.
        after: Text after.
    """

    before: str = ""
    after: str = ""

    def around(self, name: str) -> str:
        """Add it to a name; the root has no name of its own."""
        return name if name == HERE else f"{self.before}{name}{self.after}"


@dataclass(frozen=True)
class Scheme:
    """How masks are named after their images.

    Args:
        folder: What is added to the name of the folder; or one folder for all masks.
        stem: What is added to the name of the image.
    """

    folder: Affix | str
    stem: Affix

    def mask_of(self, image: Name) -> Name:
        """Name the mask of an image."""
        folder = self.folder if isinstance(self.folder, str) else self.folder.around(image.folder)
        return Name(folder, self.stem.around(image.stem))


Masks = dict[Name, list[Path]]
"""Masks by their names; two files that differ in the ending only have one name."""


@dataclass(frozen=True)
class Candidates:
    """Images, and the masks that may be theirs.

    Args:
        images: The images.
        masks: The masks; there may be some that no image has.
        image_root: Folder that all images are below.
        mask_root: Folder that all masks are below.
    """

    images: Sequence[Path]
    masks: Sequence[Path]
    image_root: Path
    mask_root: Path

    @classmethod
    def below_common_folders(cls, images: Sequence[Path], masks: Sequence[Path]) -> Candidates:
        """Take for roots the folders that all images, and all masks, have in common."""
        roots = [Path(commonpath([path.parent for path in paths])) for paths in (images, masks)]
        return cls(images, masks, *roots)

    def pairs(self) -> dict[Path, Path]:
        """Give each image its mask.

        Raises:
            DataError: It is not plain which one that is, or there is none.
        """
        found = self.plain_pairs()
        if found is None:
            raise DataError(self._why_not())
        return found

    def plain_pairs(self) -> dict[Path, Path] | None:
        """Give each image its mask; ``None`` if it is not plain for all of them."""
        for fold, told in product((_as_written, str.casefold), (_stem, _whole_name)):  # not all systems tell case apart
            masks = self._named_masks(fold)
            images = {image: _name(image, self.image_root, told, fold) for image in self.images}
            mappings = _mappings(list(images.values()), masks)
            if not mappings and len(self.masks) == len(self.images):
                mappings = _owned(list(images.values()), masks)
            if len(mappings) == 1 and all(len(masks[name]) == 1 for name in mappings[0]):
                return {image: masks[name][0] for image, name in zip(images, mappings[0], strict=True)}
            if mappings:
                return None
        return None

    def _named_masks(self, fold: Callable[[str], str]) -> Masks:
        masks: Masks = defaultdict(list)
        for mask in self.masks:
            masks[_name(mask, self.mask_root, _stem, fold)].append(mask)
        return dict(masks)

    def _why_not(self) -> str:
        """Say for one image why it is not plain which mask it has."""
        masks = self._named_masks(_as_written)
        images = {image: _name(image, self.image_root, _stem, _as_written) for image in self.images}
        if mappings := _mappings(list(images.values()), masks):
            for image, names in zip(images, zip(*mappings, strict=True), strict=True):
                candidates = [mask for name in dict.fromkeys(names) for mask in masks[name]]
                if len(candidates) > 1:
                    return f"{RULE}, but {image} may have {candidates[0]} or {candidates[1]}. Leave one of them out."
        return self._first_without(images, masks)

    def _first_without(self, images: Mapping[Path, Name], masks: Masks) -> str:
        """Say which image is the first without a mask of its own, and which mask that would have to be."""
        first = next(iter(images))
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
        return f"{RULE}, but of {first} and {masks[scheme.mask_of(images[first])][0]} they do not. {ADVICE}"


def _stem(path: Path) -> str:
    return path.stem


def _whole_name(path: Path) -> str:
    return path.name


def _as_written(text: str) -> str:
    return text


def _name(path: Path, root: Path, told: Callable[[Path], str], fold: Callable[[str], str]) -> Name:
    return Name(fold(path.parent.relative_to(root).as_posix()), fold(told(path)))


def _mappings(images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> list[tuple[Name, ...]]:
    """Give the masks of all images by each of the plainest schemes that have one of its own for every image."""
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
    """Yield schemes by which one of the masks is that of an image, those together that are equally plain.

    Args:
        image: The image.
        masks: The masks.
        alone: Whether there are no other images, which would show that ``imgA`` goes with ``imgAmask`` by intent.
    """
    for told_apart in (_ends_word,) if alone else (_ends_word, _ends_number):
        same: list[Scheme] = []
        called_after: list[Scheme] = []
        anywhere: list[Scheme] = []
        for mask in masks:
            for stem in _affixes(image.stem, mask.stem, told_apart):
                if mask.folder == image.folder:
                    same.append(Scheme(Affix(), stem))
                elif image.folder != HERE:
                    called_after += [Scheme(folder, stem) for folder in _affixes(image.folder, mask.folder, told_apart)]
                anywhere.append(Scheme(mask.folder, stem))
        yield from (same, called_after, anywhere)


def _affixes(name: str, longer: str, told_apart: Callable[[str, str], bool]) -> Iterator[Affix]:
    """Yield what stands around a name in a longer one, wherever the name is told apart from what stands around it."""
    start = longer.find(name)
    while start >= 0:
        before, after = longer[:start], longer[start + len(name) :]
        if told_apart(before[-1:], name[:1]) and told_apart(name[-1:], after[:1]):
            yield Affix(before, after)
        start = longer.find(name, start + 1)


def _ends_word(left: str, right: str) -> bool:
    """Whether a word or number ends between two characters: ``1`` is told from ``_mask``, but not from ``10_mask``."""
    return _ends_number(left, right) and not (left.isalpha() and right.isalpha())


def _ends_number(left: str, right: str) -> bool:
    return not (left.isdigit() and right.isdigit())


def differing_parts(names: Sequence[str]) -> list[str]:
    """Take away what all names begin or end with, in whole words and numbers: ``big`` is left of ``crack_big_mask``."""
    for _ in ("begin", "end"):  # each name is turned around twice
        names = [name[_common_start(names) :][::-1] for name in names]
    return [name.casefold().strip("_-. /\\") for name in names]


def _common_start(names: Sequence[str]) -> int:
    """Count the letters that all names begin with, up to the end of a word or number in each of them."""
    shared = list(takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False)))
    places = range(len(shared), 0, -1)
    ends = (place for place in places if all(_ends_word(name[place - 1], name[place : place + 1]) for name in names))
    return next(ends, 0)


def _owned(images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> list[tuple[Name, ...]]:
    """Give the masks of all images where each mask tells more of one image than of any other, each of another one."""
    by_stem: dict[str, list[Name]] = defaultdict(list)
    for image in images:
        by_stem[image.stem].append(image)
    owned: dict[Name, Name] = {}
    for mask in masks:
        claims = {image: _told(image, mask) for part in _parts(mask.stem) for image in by_stem.get(part, ())}
        best = [image for image, told in claims.items() if told == max(claims.values())]
        if len(best) != 1 or best[0] in owned:
            return []
        owned[best[0]] = mask
    return [tuple(owned[image] for image in images)] if len(owned) == len(images) else []


def _parts(stem: str) -> set[str]:
    """Give all runs of whole words and numbers in a name."""
    edges = [place for place in range(len(stem) + 1) if _ends_word(stem[:place][-1:], stem[place:][:1])]
    return {stem[start:end] for start in edges for end in edges if start < end}


def _told(image: Name, mask: Name) -> tuple[bool, int]:
    """Say how much of an image a mask tells: whether its folder, and how many letters of its name and folders."""
    whole = f"{mask.folder}/{mask.stem}"
    folders = [part for part in image.folder.split("/") if any(_affixes(part, whole, _ends_word))]
    return image.folder == mask.folder, len(image.stem) + sum(map(len, folders))


def _closest(images: Sequence[Name], masks: Mapping[Name, Sequence[Path]]) -> Scheme | None:
    """Give the scheme by which most images have a mask; ``None`` if those that are looked at have none by any."""
    looked_at = images[:: len(images) // LOOKED_AT + 1]
    schemes = dict.fromkeys(
        each for image in looked_at for equal in _schemes(image, masks, alone=len(images) == 1) for each in equal
    )

    def reached(scheme: Scheme) -> tuple[int, bool]:
        return len({scheme.mask_of(image) for image in looked_at} & masks.keys()), isinstance(scheme.folder, Affix)

    return max(schemes, key=reached, default=None)
