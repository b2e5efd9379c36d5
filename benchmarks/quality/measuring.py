"""Measure a method on a data set by a run of `anomalib tiled`, from the configuration to the files of the test."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from anomalib_tiled import pipeline
from anomalib_tiled.cli.options import fit_parser, settings_from
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.training.preparation import prepare
from benchmarks.auroc import auroc
from benchmarks.measure import disk_of

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain

NORMAL = "good"
"""Folder of the normal test images."""

MEGABYTE = 1e6


@dataclass(frozen=True)
class Decided:
    """Score and decision of a test image.

    Args:
        kind: Kind of the defect, or ``NORMAL``.
        score: Higher is more anomalous; infinite if the part is not found in the image.
        called: Whether it was called anomalous by the calibrated threshold.
    """

    kind: str
    score: float
    called: bool


@dataclass(frozen=True)
class Quality:
    """What a run reached on its test images.

    Args:
        image_auroc: Area under the ROC curve of the images' scores.
        pixel_aupro: Area under the curve of overlap per region, up to a false-positive rate of 0.3.
        kinds: Area under the ROC curve of the images with defects of a kind, and all normal images.
        normal: Number of normal test images.
        false_alarms: How many of them were called anomalous.
        anomalous: Number of anomalous test images.
        missed: How many of them were called normal.
    """

    image_auroc: float
    pixel_aupro: float
    kinds: Mapping[str, float]
    normal: int
    false_alarms: int
    anomalous: int
    missed: int

    @classmethod
    def of(cls, images: list[Decided], pixel_aupro: float) -> Quality:
        """Measure scores and decisions."""
        normal = [each for each in images if each.kind == NORMAL]
        anomalous = [each for each in images if each.kind != NORMAL]
        kinds = sorted({each.kind for each in anomalous})
        return cls(
            image_auroc=_auroc(normal, anomalous),
            pixel_aupro=pixel_aupro,
            kinds={kind: _auroc(normal, [each for each in anomalous if each.kind == kind]) for kind in kinds},
            normal=len(normal),
            false_alarms=sum(each.called for each in normal),
            anomalous=len(anomalous),
            missed=sum(not each.called for each in anomalous),
        )


@dataclass(frozen=True)
class Measured:
    """A run of a method.

    Args:
        quality: What it reached on its test images.
        models: Number of models.
        seconds: Processor time from the settings to the calibrated run.
        megabytes: Disk that the models take.
    """

    quality: Quality
    models: int
    seconds: float
    megabytes: float


def measure(configuration: Mapping[str, Plain]) -> Measured:
    """Fit and test.

    Args:
        configuration: As a configuration file holds it.

    Raises:
        TiledError: The program refuses it, or fails.
    """
    parser = fit_parser("benchmarks.quality")
    settings = settings_from(parser, parser.parse_object(dict(configuration)))
    began = _processor_seconds()
    run = prepare(settings, tested=True)
    with closing(run):
        pipeline.fit(run, Observers([]))
        seconds = _processor_seconds() - began
        run = run.without_left_out()
        metrics = pipeline.test(run, Observers([]), data=None, output=None, report=False).metrics
    tiles, pixel_aupro = run.folder.tiles, cast("float", metrics["pixel_AUPRO"])
    return Measured(
        quality=Quality.of(read_scores(run.folder.path / "scores.csv"), pixel_aupro),
        models=len({*tiles.glob("*.ckpt")} - {*run.folder.shared_files}),
        seconds=seconds,
        megabytes=disk_of(tiles) / MEGABYTE,
    )


def read_scores(path: Path) -> list[Decided]:
    """Read the ``scores.csv`` of a test on images in a folder for each kind of defect."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Decided(
                Path(row["image_path"]).parent.name, float(row["pred_score"] or "inf"), called=row["pred_label"] == "1"
            )
            for row in csv.DictReader(file)
        ]


def _auroc(normal: list[Decided], anomalous: list[Decided]) -> float:
    scores = np.array([each.score for each in normal + anomalous], np.float32)
    return auroc(scores, np.arange(len(scores)) >= len(normal))


def _processor_seconds() -> float:
    """Give the time that this process and those that it has waited for have spent on processors."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
