"""The programs that are compared: how each is configured and started, and where it writes its metrics."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image

from benchmarks.auroc import auroc
from benchmarks.case import LEARN_BY_EPOCHS, SMOOTHING, Case

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain

METRICS = ("image_AUROC", "pixel_AUROC")
CONFIG = "config.yaml"

BUDGET = "500MB"
"""A `memory_budget`: room for the images and models of the benchmark, and a request to give back what is freed."""


PRECISION = "float32"
"""The usual `precision`."""


@dataclass(frozen=True)
class Phase:
    """A part of a program that is measured by itself, in a process of its own.

    Args:
        name: Its name in tables.
        arguments: Arguments of Python.
        trains: Whether training images are among those that it works on.
    """

    name: str
    arguments: tuple[str, ...]
    trains: bool


@dataclass(frozen=True)
class Program(ABC):
    """A program to measure.

    Args:
        case: Images and model.
        boards: Folder of the images.
        folder: Where it runs and writes everything.
        processes: Number of processes that share the tiles.
        device: ``cpu``, or ``cuda`` for one GPU that they share.
    """

    case: Case
    boards: Path
    folder: Path
    processes: int = 1
    device: str = field(default="cpu", kw_only=True)

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in tables."""

    @property
    @abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        """Its parts, in their order."""

    @abstractmethod
    def configure(self) -> None:
        """Write its configuration; not measured."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Give the metrics of the test images; not measured."""

    def _named(self, name: str) -> str:
        return name if self.processes == 1 else f"{name}, {self.processes} processes"

    def _write(self, configuration: dict[str, Plain]) -> None:
        (self.folder / CONFIG).write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")


@dataclass(frozen=True)
class Reference(Program):
    """anomalib's own tiled ensemble, which trains one tile after the other."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        return "anomalib's own"

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Its two pipelines."""
        return tuple(
            Phase(name, ("-m", "benchmarks.reference", name, CONFIG), trains=name == "fit") for name in ("fit", "test")
        )

    def configure(self) -> None:
        """Write its configuration."""
        case = self.case
        model = {"class_path": case.model, "init_args": case.init_args}
        self._write(
            {
                "seed": case.seed,
                "accelerator": self.device,
                "default_root_dir": "results",
                "tiling": {
                    "tile_size": [case.tile_size] * 2,
                    "stride": case.tile_size,
                    "image_size": [case.image_size] * 2,
                },
                "normalization_stage": "image",
                "thresholding_stage": "image",
                "data": case.data(self.boards),
                "SeamSmoothing": {"apply": True, **SMOOTHING},
                "TrainModels": {"model": model, "trainer": case.trainer},
            }
        )

    def metrics(self) -> dict[str, float]:
        """Read the metrics of its last stage."""
        [path] = self.folder.glob("results/*/*/v0/metric_results.csv")
        with path.open(encoding="utf-8", newline="") as file:
            [row] = csv.DictReader(file)
        return {name: float(row[name]) for name in METRICS}


@dataclass(frozen=True)
class Tiled(Program):
    """This package, fit and test apart.

    Args:
        memory_budget: The setting of that name; the other arguments are those of `Program`.
        precision: The setting of that name.
    """

    memory_budget: str | None = None
    precision: str = field(default=PRECISION, kw_only=True)

    @property
    def name(self) -> str:
        """Its name in tables."""
        within = "" if self.memory_budget is None else f" within {self.memory_budget}"
        return self._named("anomalib-tiled" + within + ("" if self.precision == PRECISION else f", {self.precision}"))

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Its two commands."""
        run = f"results/{self.case.model}/boards/latest"
        return (
            Phase("fit", ("-m", "anomalib_tiled", "fit", "--config", CONFIG), trains=True),
            Phase("test", ("-m", "anomalib_tiled", "test", "--ckpt_dir", run), trains=False),
        )

    def configure(self) -> None:
        """Write its configuration: the defaults, and the settings that all programs share."""
        case = self.case
        self._write(
            {
                "seed_everything": case.seed,
                "default_root_dir": "results",
                "tiling": {"image_size": case.image_size, "tile_size": case.tile_size},
                "model": {"class_path": f"anomalib.models.{case.model}", "init_args": case.init_args},
                "data": case.data(self.boards),
                "trainer": {"accelerator": self.device, **case.trainer},
                "seam_smoothing": {"class_path": "GaussianSeams", "init_args": SMOOTHING},
                "metrics": {"image": ["AUROC", "F1Score"], "pixel": ["AUROC", "F1Score"]},
                "workers": {"class_path": "LocalWorkers", "init_args": {"processes": self.processes}},
                "cache": {"directory": "cache"},
                "memory_budget": self.memory_budget,
                **({} if self.precision == PRECISION else {"precision": self.precision}),
            }
        )

    def metrics(self) -> dict[str, float]:
        """Read the metrics of the test."""
        [path] = self.folder.glob("results/*/*/v0/metrics.json")
        metrics = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(metrics[name]) for name in METRICS}


@dataclass(frozen=True)
class TiledAtOnce(Tiled):
    """This package, fit and test in one process."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The command that does both."""
        return (Phase("train", ("-m", "anomalib_tiled", "train", "--config", CONFIG), trains=True),)


@dataclass(frozen=True)
class Loop(Program):
    """The bare loop: it trains and predicts once, then predicts once more."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self._named("bare loop")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Its two halves."""
        return tuple(
            Phase(name, ("-m", "benchmarks.loop", name, "job.json"), trains=name == "fit") for name in ("fit", "test")
        )

    def configure(self) -> None:
        """Write its job."""
        job = {"case": asdict(self.case), "boards": str(self.boards), "processes": self.processes}
        (self.folder / "job.json").write_text(json.dumps({**job, "device": self.device}), encoding="utf-8")

    def metrics(self) -> dict[str, float]:
        """Measure the maps that it has written; the score of an image is its highest pixel."""
        maps = np.load(self.folder / "maps.npy")
        masks = np.stack([mask_of(self.boards, path) for path in sorted((self.boards / "test").rglob("*.png"))])
        anomalous = np.array([mask.any() for mask in masks])
        images = auroc(maps.max(axis=(1, 2)), anomalous)
        return dict(zip(METRICS, (images, auroc(maps, masks)), strict=True))


def programs(names: list[str], case: Case, boards: Path, folder: Path, processes: list[int]) -> list[Program]:
    """Give the programs to measure.

    Args:
        names: Some of ``reference``, ``tiled``, ``budget``, ``train`` and ``loop``.
        case: Images and model.
        boards: Folder of the images.
        folder: Each program gets a folder in here.
        processes: Numbers of processes; all but the reference are measured with each of them.

    Raises:
        ValueError: There is no such program, or it cannot train the model.
    """
    chosen: list[Program] = []
    for name in names:
        if name == "reference":
            chosen.append(Reference(case, boards, folder / name))
        elif name == "tiled":
            chosen += [Tiled(case, boards, folder / f"tiled-{number}", number) for number in processes]
        elif name == "budget":
            chosen += [Tiled(case, boards, folder / f"budget-{number}", number, BUDGET) for number in processes]
        elif name == "train":
            chosen += [TiledAtOnce(case, boards, folder / f"train-{number}", number) for number in processes]
        elif name == "loop":
            _check_loop(case)
            chosen += [Loop(case, boards, folder / f"loop-{number}", number) for number in processes]
        else:
            message = f"Programs are reference, tiled, budget, train and loop, found {name!r}."
            raise ValueError(message)
    return chosen


def _check_loop(case: Case) -> None:
    if case.model in LEARN_BY_EPOCHS:
        message = f"The loop trains no model by gradients, found {case.model}. Take --programs reference,tiled."
        raise ValueError(message)


def mask_of(boards: Path, image: Path) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Read the mask of a test image, shape (height, width); normal ones have none.

    Args:
        boards: Folder of the images.
        image: File of the image.
    """
    path = boards / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    if not path.is_file():
        with Image.open(image) as opened:
            return np.zeros((opened.height, opened.width), dtype=np.bool_)
    with Image.open(path) as opened:
        return np.asarray(opened.convert("L")) > 0
