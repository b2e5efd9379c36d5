"""The prediction of an image: a line of JSON, a row of a table, COCO's format; and contradictions of label and mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from anomalib_tiled.data.appearance import Appearance
from anomalib_tiled.data.image_files import size_of
from anomalib_tiled.grid import MOST_PIXELS, Size
from anomalib_tiled.results.region import Region, rounded
from anomalib_tiled.results.region_decisions import RegionDecision
from anomalib_tiled.stages.uncertain import verdict_on
from anomalib_tiled.system.bounds import parse_json
from anomalib_tiled.system.files import json_line
from anomalib_tiled.system.validation import validated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch
    from anomalib.data import ImageBatch, ImageItem
    from typing_extensions import Self

    from anomalib_tiled.config.settings import Plain
    from anomalib_tiled.stages.uncertain import Band, Verdict

COLUMNS = (
    *("image_path", "pred_score", "pred_label", "regions", "area", "x", "y", "width", "height", "peak_score"),
    "contradiction",
)
"""Columns of the table."""

VERDICT = "verdict"
"""One more column, of runs with uncertain images: ``normal``, ``uncertain`` or ``anomalous``."""

UNALIGNED = "unaligned"
"""One more column, of runs that align images: why the part is not found in an image."""

CATEGORY = {"id": 1, "name": "anomaly", "supercategory": "anomaly"}
"""The category of all regions in COCO's format."""

NORMAL = "normal, but with anomalous pixels"
ANOMALOUS = "anomalous, but without anomalous pixels"


@dataclass(frozen=True)
class PredictedImage:
    """The prediction of an image.

    Args:
        image_path: The image.
        image_size: Its height and width in pixels.
        pred_score: Higher is more anomalous; in [0, 1] if the run normalizes.
        raw_score: The score before the normalization of images.
        pred_label: 1 for anomalous, 0 for normal.
        regions: Its anomalous regions; the one with the highest score first.
        any_pixel: Whether any pixel is anomalous, also in regions too small to list; ``None`` if the model gives
            no anomaly maps.
        unaligned: Why the part is not found in the image, which then counts as anomalous, and has no scores; empty if
            it is found; ``None`` if the run does not align images.
        named_regions: Decisions about named regions, by their names; empty if the run has none.
        is_uncertain: Whether it is uncertain, whatever its label is; ``None`` if no image of the run is.
        tiles: The score of each tile that its model gives, by its name; empty if earlier versions wrote the line.
        appearance: How the image looks; ``None`` if earlier versions wrote the line.
    """

    image_path: str
    image_size: Size
    pred_score: float | None
    raw_score: float | None
    pred_label: int
    regions: tuple[Region, ...]
    any_pixel: bool | None = None
    unaligned: str | None = None
    named_regions: Mapping[str, RegionDecision] = field(default_factory=dict)
    is_uncertain: bool | None = None
    tiles: Mapping[str, float] = field(default_factory=dict)
    appearance: Appearance | None = None

    @classmethod
    def without_part(cls, path: Path, reason: str) -> PredictedImage:
        """Give the prediction of an image in which the part is not found.

        Args:
            path: The image.
            reason: Why it is not found.

        Raises:
            DataError: The image is missing by now.
        """
        return cls(str(path), size_of(path), None, None, 1, (), unaligned=reason)

    @property
    def contradiction(self) -> str:
        """How label and pixels contradict each other, in words; empty if they do not."""
        return contradiction(bool(self.pred_label), self.any_pixel)

    @property
    def verdict(self) -> Verdict:
        """Whether it is normal, uncertain or anomalous."""
        return verdict_on(is_anomalous=bool(self.pred_label), is_uncertain=self.is_uncertain)

    def judged(self, uncertain: Band | None) -> Self:
        """Give the same prediction with a verdict.

        Args:
            uncertain: Scores of uncertain images; ``None`` if no image is. One in which the part is not found is not.
        """
        if uncertain is None:
            return replace(self, is_uncertain=None)
        return replace(self, is_uncertain=self.pred_score is not None and uncertain.holds(self.pred_score))

    @property
    def path(self) -> Path:
        """The image."""
        return Path(self.image_path)

    def to_line(self) -> str:
        """Give the line of ``predictions.jsonl``."""
        content = {
            **vars(self),
            "image_size": [*self.image_size],
            "pred_score": _rounded(self.pred_score),
            "raw_score": _rounded(self.raw_score),
            "regions": [region.to_json() for region in self.regions],
            "contradiction": self.contradiction,
            VERDICT: None if self.is_uncertain is None else self.verdict,
            "named_regions": {
                name: {"score": rounded(each.score), "label": int(each.label)}
                for name, each in self.named_regions.items()
            },
            "tiles": {name: rounded(score) for name, score in self.tiles.items()},
            "appearance": {} if self.appearance is None else self.appearance.to_json(),
        }
        empty = {name for name in ("named_regions", "tiles", "appearance") if not content[name]}
        empty |= {name for name in (UNALIGNED, VERDICT) if content[name] is None} | {"is_uncertain"}
        return json_line({name: value for name, value in content.items() if name not in empty})

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Read a line of ``predictions.jsonl``.

        Raises:
            ValueError: The line was cut off, or was changed.
        """
        content = parse_json(line)
        image = validated(cls, content)
        if not image.path.is_absolute() or not all(0 < side <= MOST_PIXELS for side in image.image_size):
            message = f"image_path is {image.image_path!r} and image_size {[*image.image_size]}, which no image has"
            raise ValueError(message)
        verdict = cast("Mapping[str, object]", content).get(VERDICT)
        return replace(image, is_uncertain=None if verdict is None else verdict == "uncertain")

    def to_row(self) -> list[Plain]:
        """Give the row of ``predictions.csv``: number and area of all regions, box and peak of the first."""
        first = [*self.regions[0].bbox, rounded(self.regions[0].peak_score)] if self.regions else [""] * 5
        area = sum(region.area for region in self.regions)
        label, score = self.pred_label, "" if self.pred_score is None else rounded(self.pred_score)
        own = [cell for each in self.named_regions.values() for cell in (rounded(each.score), int(each.label))]
        row = [self.image_path, score, label, len(self.regions), area, *first, self.contradiction]
        row += [] if self.is_uncertain is None else [self.verdict]
        return [*row, *([] if self.unaligned is None else [self.unaligned]), *own]

    def coco_image(self, number: int) -> dict[str, Plain]:
        """Give the entry of the image in COCO's format, with the reason if the part is not found in it.

        Args:
            number: Number of the image, counted from 1.
        """
        height, width = self.image_size
        entry: dict[str, Plain] = {"id": number, "file_name": self.image_path, "height": height, "width": width}
        return {**entry, UNALIGNED: self.unaligned} if self.unaligned else entry

    def coco_annotations(self, number: int, numbers: Iterator[int]) -> Iterator[dict[str, Plain]]:
        """Give the entries of the regions in COCO's format.

        Args:
            number: Number of the image.
            numbers: Gives the number of each region.
        """
        for region in self.regions:
            yield {
                "id": next(numbers),
                "image_id": number,
                "category_id": CATEGORY["id"],
                "bbox": [*region.bbox],
                "area": region.area,
                "segmentation": {"size": [*self.image_size], "counts": [*(region.segmentation or ())]},
                "iscrowd": 0,
                "score": rounded(region.peak_score),
            }


@dataclass(frozen=True)
class Details:
    """What the line of an image holds besides the decision on the whole image, which thresholds of images leave alone.

    Args:
        named_regions: As of a `PredictedImage`.
        tiles: As of a `PredictedImage`.
        appearance: As of a `PredictedImage`.
    """

    named_regions: Mapping[str, RegionDecision] = field(default_factory=dict)
    tiles: Mapping[str, float] = field(default_factory=dict)
    appearance: Appearance | None = None

    @classmethod
    def of(cls, image: PredictedImage) -> Details:
        """Take those of an image."""
        return cls(image.named_regions, image.tiles, image.appearance)

    def added_to(self, image: PredictedImage) -> PredictedImage:
        """Give the prediction of an image with these."""
        return replace(image, **vars(self))


def _rounded(score: float | None) -> float | None:
    return None if score is None else rounded(score)


def items_of(batch: ImageBatch) -> list[ImageItem]:
    """Give the images of a batch, whose tensors are views: to iterate over a batch of anomalib copies all of them.

    Args:
        batch: Images with their predictions.
    """
    known = {each.name: value for each in fields(batch) if (value := getattr(batch, each.name)) is not None}
    return [batch.item_class(**{name: value[at] for name, value in known.items()}) for at in range(len(batch))]


def contradiction(label: torch.Tensor | bool | None, mask: torch.Tensor | bool | None) -> str:  # noqa: FBT001
    """Say how the label of an image contradicts its mask; empty if it does not.

    Args:
        label: Whether the image is anomalous; ``None`` if unknown.
        mask: Which pixels are anomalous, or whether any is; ``None`` if the model gives no anomaly maps.
    """
    if label is None or mask is None:
        return ""
    found = mask if isinstance(mask, bool) else bool(mask.any())
    if bool(label) == found:
        return ""
    return NORMAL if found else ANOMALOUS


def decision_on(item: ImageItem) -> str:
    """Say in a sentence how an image was decided, for logs."""
    decision = "anomalous" if item.pred_label is not None and bool(item.pred_label) else "normal"
    score = float("nan") if item.pred_score is None else float(item.pred_score)
    return f"{item.image_path}: {decision}, score {score:.6g}."


def count_of(contradictions: Iterable[str]) -> str:
    """Say in a sentence for how many images label and mask contradict each other; empty if for none."""
    each = Counter(contradictions)
    parts = [
        f"{number} {'is' if number == 1 else 'are'} {words}" for words in (NORMAL, ANOMALOUS) if (number := each[words])
    ]
    if not parts:
        return ""
    return f"Of {each.total()} images, {'; '.join(parts)}: images and pixels have separate thresholds."
