"""What a check has found, in sentences with numbers and places."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING

from anomalib_tiled.drift.predicted import APPEARANCE, REGION, SCORE, TILE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.drift.change import Change, Period, Quartiles

CALIBRATED = "than those that the run was calibrated with"

LOOKS = {
    "brightness": (f"Images are darker {CALIBRATED}", f"Images are brighter {CALIBRATED}"),
    "contrast": (f"Images have less contrast {CALIBRATED}", f"Images have more contrast {CALIBRATED}"),
    "sharpness": (f"Images are less sharp {CALIBRATED}", f"Images are sharper {CALIBRATED}"),
    "shift_x": ("Parts lie farther to the left", "Parts lie farther to the right"),
    "shift_y": ("Parts lie higher in the image", "Parts lie lower in the image"),
    "rotation": ("Parts are turned counter-clockwise", "Parts are turned clockwise"),
}
"""What it means that a number of `Appearance` has fallen or risen."""

NAMES = {
    "shift_x": "shift to the right",
    "shift_y": "shift downwards",
    SCORE: "score",
    TILE: "score of the tile",
    REGION: "score of the region",
}
"""Names of quantities in sentences, where they differ from those of `Appearance`."""

UNITS = {"shift_x": " pixels", "shift_y": " pixels", "rotation": " degrees"}

FEW = 20
"""Images, from which nothing is said of their small number."""

CHANGED = {-1: "fell", 0: "vary in another way", 1: "rose"}


def sentences(changes: Sequence[Change], paths: Sequence[str]) -> list[str]:
    """Say what has moved, and where: how images look, then scores.

    Args:
        changes: Of each quantity.
        paths: The new images.
    """
    moved = sorted((each for each in changes if each.period), key=lambda each: -each.strength)
    looks = [in_words(each, paths) for each in moved if each.quantity.kind == APPEARANCE]
    scores = [in_words(each, paths) for each in moved if each.quantity.kind == SCORE]
    numbers = Counter(each.quantity.kind for each in changes)
    places = [
        _of_places([each for each in moved if (each.quantity.kind, each.direction) == alike], numbers[alike[0]], paths)
        for alike in product((TILE, REGION), (1, -1, 0))
    ]
    return [*looks, *scores, *filter(None, places)]


def in_words(change: Change, paths: Sequence[str]) -> str:
    """Say how a quantity has moved, or that it has not.

    Args:
        change: The quantity.
        paths: The new images.
    """
    name = _name(change)
    if change.period is None:
        return f"The {name} has not moved: {_medians(change)}."
    return f"{_heading(change)}: {_medians(change)}.{_when(change.period, paths)}"


def notes(subset: str, images: int, new_images: int, unaligned: int) -> list[str]:
    """Say what a reader of the check should know of the images.

    Args:
        subset: ``val`` or ``train``: where the normal images come from.
        images: How many the reference has.
        new_images: How many new ones are compared.
        unaligned: In how many more the part is not found.
    """
    found = []
    if subset == "train":
        found.append(
            "There were no validation images, so new images are compared with training images. The models know these, "
            "and give them lower scores than any others: scores are shown, but do not count as drift."
        )
    if images < FEW:
        found.append(f"The run was calibrated with only {images} normal images: only large changes can be seen.")
    if new_images < FEW:
        found.append(f"There are only {new_images} new images: only large changes can be seen.")
    if unaligned:
        found.append(f"{unaligned} more images are left out, because the part is not found in them.")
    return found


def nothing_moved(images: int, new_images: int, *, scores: bool) -> str:
    """Say that nothing has moved.

    Args:
        images: How many the reference has.
        new_images: How many new ones there are.
        scores: Whether scores are compared.
    """
    what = "look and score" if scores else "look"
    return f"Nothing has moved: {new_images} new images {what} like {images} normal images of the calibration."


def _heading(change: Change) -> str:
    quantity, direction = change.quantity, change.direction
    if quantity.kind == APPEARANCE:
        if direction == 0:
            return f"The {_name(change)} of images varies in another way than in the calibration"
        fallen, risen = LOOKS[quantity.name]
        return risen if direction > 0 else fallen
    where = f" at {quantity.name}" if quantity.name else ""
    return f"Scores{where} {CHANGED[direction]}"


def _of_places(changes: Sequence[Change], number: int, paths: Sequence[str]) -> str:
    """Say in one sentence how scores of tiles, or of regions, have moved that moved alike; empty if none did."""
    if not changes:
        return ""
    first = changes[0]
    if len(changes) == 1 or first.period is None:
        return in_words(first, paths)
    words = f"Scores {CHANGED[first.direction]} at {len(changes)} of {number} {first.quantity.kind}s"
    return f"{words}, most at {first.quantity.name}: {_medians(first)}.{_when(first.period, paths)}"


def _medians(change: Change) -> str:
    before, after, unit = change.reference, change.new, UNITS.get(change.quantity.name, "")
    if change.period is not None and change.direction == 0:
        return f"the middle half lies {_between(after)}{unit}, and lay {_between(before)}"
    name = "" if change.quantity.kind in {TILE, REGION} else f" {_name(change)}"
    return f"median{name} {after.median:.3g}{unit}, was {before.median:.3g}"


def _between(numbers: Quartiles) -> str:
    return f"between {numbers.low:.3g} and {numbers.high:.3g}"


def _name(change: Change) -> str:
    quantity = change.quantity
    if quantity.kind == APPEARANCE:
        return NAMES.get(quantity.name, quantity.name)
    return f"{NAMES[quantity.kind]} {quantity.name}".strip()


def _when(period: Period, paths: Sequence[str]) -> str:
    """Say when it began, and when it ended if it did; images are counted from 1."""
    if not period.is_clear:
        return " It is seen in all images together."
    began = f"image {period.first + 1} ({paths[period.first]})"
    if period.end < len(paths):
        return f" It began at {began} and ended at image {period.end} ({paths[period.end - 1]})."
    return f" It began at {began}." if period.first else " It is so from the first image on."
