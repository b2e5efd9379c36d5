"""What the page shows, as plain data: `gather` reads it from a run, `page` turns it into HTML.

All text in it comes from files, and may hold anything: the page shows it as text, never as markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ShownRegion:
    """Anomalous pixels that touch each other, or a named region if it has a name; in pixels of the image file.

    Args:
        left: First column of its box.
        top: First row of its box.
        width: Width of its box.
        height: Height of its box.
        area: Number of its pixels.
        peak: Highest score in it.
    """

    left: int
    top: int
    width: int
    height: int
    area: int
    peak: float


@dataclass(frozen=True)
class ShownImage:
    """An image with its prediction.

    Args:
        name: Path below the folder that all images are in.
        path: Its whole path.
        link: ``file:`` address of the file; ``None`` if it is gone.
        folder: Folder below the common one, such as ``scratch``: the kind of defect.
        height: Of the file, in pixels.
        width: Of the file, in pixels.
        truth: Whether it is anomalous; ``None`` if unknown.
        score: Higher is more anomalous; ``None`` if the part is not found in it, which then is anomalous.
        unaligned: Why the part is not found; empty if it is.
        regions: Anomalous regions at the threshold of the run; the one with the highest score first.
        tiles: Score of each tile, by its name; empty if unknown.
        named_regions: Score of each named region, by its name.
        picture: The scaled image, as a ``data:`` address; ``None`` if there is none. The other pictures have its size.
        heat_map: Scores as grey values: 0 is ``Scale.low``, 255 ``Scale.high``; pixels that do not count are 0.
        mask: Predicted mask: white is anomalous.
        truth_mask: Ground truth: white is anomalous.
    """

    name: str
    path: str
    link: str | None
    folder: str
    height: int
    width: int
    truth: bool | None
    score: float | None
    unaligned: str = ""
    regions: Sequence[ShownRegion] = ()
    tiles: Mapping[str, float] = field(default_factory=dict)
    named_regions: Mapping[str, float] = field(default_factory=dict)
    picture: str | None = None
    heat_map: str | None = None
    mask: str | None = None
    truth_mask: str | None = None


@dataclass(frozen=True)
class Scale:
    """The scale of scores.

    Args:
        threshold: Images with a higher score are anomalous.
        uncertain: Images with scores above the first and up to the second number are uncertain; ``None`` if none are.
        low: Score that the heat maps show as 0.
        high: Score that the heat maps show as 255.
        pixel_threshold: Pixels with a higher score are anomalous; ``None`` if there are no maps.
        is_normalized: Whether scores are between 0 and 1.
        configured_by: Setting of ``config.yaml`` that makes a chosen threshold the run's own: ``sensitivity`` for
            ``thresholding.image_sensitivity``, which is 1 minus the threshold, or ``manual`` for `ManualThreshold`.
        quoted_run: The run folder, quoted for a shell.
    """

    threshold: float
    uncertain: tuple[float, float] | None
    low: float
    high: float
    pixel_threshold: float | None
    is_normalized: bool
    configured_by: str
    quoted_run: str


@dataclass(frozen=True)
class ShownTile:
    """A tile location.

    Args:
        name: Such as ``r00_c03``.
        top: First row, in pixels of the grid's image.
        left: First column.
        height: Number of rows.
        width: Number of columns.
        auroc: Image AUROC of the tile; ``None`` if undefined.
        false_alarms: Normal tiles called anomalous; ``None`` if unknown.
        missed: Anomalous tiles that were missed; ``None`` if unknown.
        anomalous: Anomalous tiles among the test images; ``None`` if unknown.
        normal_mean: Mean score of normal tiles; ``None`` if unknown.
        left_out: Whether the location has no model.
        drifted: Words on how its scores have moved; empty if they have not.
    """

    name: str
    top: int
    left: int
    height: int
    width: int
    auroc: float | None = None
    false_alarms: int | None = None
    missed: int | None = None
    anomalous: int | None = None
    normal_mean: float | None = None
    left_out: bool = False
    drifted: str = ""


@dataclass(frozen=True)
class Part:
    """The part with its grid.

    Args:
        height: Height of the grid's image in pixels.
        width: Its width.
        tiles: All tile locations, the weakest first.
        picture: Mean of normal images, scaled, as a ``data:`` address; ``None`` if there is none.
    """

    height: int
    width: int
    tiles: Sequence[ShownTile]
    picture: str | None = None


@dataclass(frozen=True)
class Facts:
    """A table with names and values.

    Args:
        heading: Its heading, such as ``Versions``.
        rows: Name and value.
    """

    heading: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Content:
    """Everything that the page shows.

    Args:
        title: Name of the run.
        subtitle: What the images are: test images of the run, or predictions in a folder.
        is_labelled: Whether it is known of some images that they are normal, and of some that they are anomalous.
        scale: The scale of scores.
        colours: Red, green, blue and opacity (0 to 255) of the 256 values of heat maps.
        images: The images.
        part: The part with its grid.
        metrics: Names and values, as in ``metrics.json``.
        facts: Versions, split, calibration, time, memory and device.
        configuration: The whole configuration, as YAML.
        notes: What a reader of the results should know, a sentence each.
        drift: Content of ``drift.json``; ``None`` if nothing was checked.
    """

    title: str
    subtitle: str
    is_labelled: bool
    scale: Scale
    colours: Sequence[tuple[int, int, int, int]]
    images: Sequence[ShownImage]
    part: Part
    metrics: Mapping[str, float | None]
    facts: Sequence[Facts]
    configuration: str
    notes: Sequence[str]
    drift: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain data, for the page."""
        return asdict(self)
