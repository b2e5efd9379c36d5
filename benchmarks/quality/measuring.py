"""Measure a method on a data set by a run of `anomalib tiled`, from the configuration to the files of the test."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class Measured:
    """What a run reached on its test images.

    Args:
        image_auroc: Area under the ROC curve of the images' scores.
        pixel_aupro: Area under the curve of overlap per region.
        kinds: Area under the ROC curve of the images, for the defects of each kind and all normal images.
        normal: Number of normal test images.
        false_alarms: How many of them were called anomalous.
        anomalous: Number of anomalous test images.
        missed: How many of them were called normal.
        seconds: Processor time of training and calibration.
        megabytes: Disk that the models take.
        models: Number of models.
    """

    image_auroc: float
    pixel_aupro: float
    kinds: Mapping[str, float]
    normal: int
    false_alarms: int
    anomalous: int
    missed: int
    seconds: float
    megabytes: float
    models: int


def measure(configuration: Mapping[str, Plain]) -> Measured:
    """Fit and test.

    Args:
        configuration: As a configuration file holds it.

    Raises:
        TiledError: The program refuses it.
    """
    parser = fit_parser("benchmarks.quality")
    run = prepare(settings_from(parser, parser.parse_object(dict(configuration))), tested=True)
    with closing(run):
        began = _processor_seconds()
        pipeline.fit(run, Observers([]))
        seconds = _processor_seconds() - began
        fitted = run.without_left_out()
        metrics = pipeline.test(fitted, Observers([]), data=None, output=None).metrics
    checkpoints = list(fitted.folder.tiles.rglob("*.ckpt"))
    print(metrics, len(checkpoints))
    kinds, scores, called = _read(fitted.folder.path / "scores.csv")
    normal = kinds == NORMAL
    return Measured(
        image_auroc=auroc(scores, ~normal),
        pixel_aupro=float(metrics["pixel_AUPRO"] or 0),
        kinds={each: auroc(scores[chosen], ~normal[chosen]) for each, chosen in _by_kind(kinds)},
        normal=int(normal.sum()),
        false_alarms=int(called[normal].sum()),
        anomalous=int((~normal).sum()),
        missed=int((~called[~normal]).sum()),
        seconds=seconds,
        megabytes=disk_of(fitted.folder.tiles) / 1e6,
        models=len(checkpoints),
    )
