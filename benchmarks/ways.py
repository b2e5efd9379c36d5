"""The ways to predict that are compared: needs, preparation and measurement of each."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.case import Case
from benchmarks.map_quality import Quality, quality_of
from benchmarks.measure import CommandError, Usage, disk_of, measured
from benchmarks.memory_limit import lacked_memory, limited_memory
from benchmarks.prediction_report import Measured, Prepared, Row
from benchmarks.predictors import Job
from benchmarks.programs import Tiled, mask_of
from benchmarks.timing import JOB, Timing, read_predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

COMMAND = "command"
TILED = "tiled"
REFUSED = "exit status 2:"
"""How a command ends that has said what is in its way."""

DIFFERENCE_OF_STARTS = 0.2
"""Share of the time of a command by which two of the same differ."""

EXPORTS = ("checkpoints", "torch", "onnx", "openvino")


@dataclass(frozen=True)
class Way:
    """A way to predict.

    Args:
        title: Its name in tables.
        source: What predicts: the run (``tiled``), an export of it (its format), or one model (``whole``, ``shrunk``).
        packages: What has to be installed besides this package.
    """

    title: str
    source: str
    packages: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]


WAYS = {
    "python": Way("`TiledEnsemble.predict`", TILED),
    COMMAND: Way("`anomalib tiled predict`", TILED),
    "engine": Way("tile after tile, `Engine.predict`", "checkpoints"),
    "torch": Way("export, PyTorch", "torch"),
    "onnx": Way("export, onnxruntime", "onnx", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Way("export, OpenVINO", "openvino", ("onnx", "onnxscript", "openvino")),
    "whole": Way("one model, whole image", "whole"),
    "shrunk": Way("one model, shrunk image", "shrunk"),
}


class LeftOutError(RuntimeError):
    """A way cannot be measured here; the message is the reason."""


@dataclass
class Bench:
    """Where ways are measured, one after the other, each in processes of its own.

    Args:
        case: Images and model.
        boards: Folder of the images.
        folder: Empty folder for everything that is made.
        repeats: How often the time of a single image is taken.
        rate: Share of the pixels of normal images that may be called anomalous when defects are counted.
        prepared: What was made, by source.
        failures: What could not be made and why, by source.
    """

    case: Case
    boards: Path
    folder: Path
    repeats: int
    rate: float
    prepared: dict[str, Prepared] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> list[Path]:
        """The test images."""
        return sorted((self.boards / "test").rglob("*.png"))

    @property
    def run(self) -> Path:
        """The run folder of the tiled ensemble."""
        return self.folder / TILED / "results" / self.case.model / "boards" / "v0"

    def row(self, name: str) -> Row:
        """Make what a way needs, unless it is there, and measure it; or say why it is left out.

        Args:
            name: Name of the way.

        Raises:
            CommandError: Something failed that should not.
        """
        way = WAYS[name]
        try:
            if way.missing:
                message = f"not installed: {', '.join(way.missing)}"
                raise LeftOutError(message)  # noqa: TRY301  # one place that handles reasons
            for source in dict.fromkeys((TILED, way.source) if way.source in EXPORTS else (way.source,)):
                self._prepare(source)
            return Row(way.title, self._measured(name, way.source))
        except LeftOutError as error:
            return Row(way.title, None, str(error))

    def _prepare(self, source: str) -> None:
        """Train or export once; a failure is not tried again."""
        if source in self.failures:
            raise LeftOutError(self.failures[source])
        if source in self.prepared:
            return
        folder = self.folder / source
        folder.mkdir()
        title, arguments = self._making(source)
        try:
            usage = self._run(arguments, folder, "make")
        except LeftOutError as error:
            self.failures[source] = str(error)
            raise
        self.prepared[source] = Prepared(title, usage.seconds, usage.peak_memory, disk_of(folder))

    def _making(self, source: str) -> tuple[str, Sequence[str]]:
        """Write what a command reads that makes a source; give its title and its arguments."""
        folder = self.folder / source
        if source == TILED:
            tiled = Tiled(self.case, self.boards, folder)
            tiled.configure()
            return "tiled ensemble: fit", tiled.phases[0].arguments
        if source in EXPORTS:
            arguments = ("-m", "anomalib_tiled", "export", "--ckpt_dir", str(self.run), "--format", source)
            return f"export: {source}", (*arguments, "--output", str(folder / "files"))
        job = {"case": asdict(self.case), "boards": str(self.boards), "side": self._side(source)}
        (folder / "single.json").write_text(json.dumps(job), encoding="utf-8")
        return f"one model, {source} image: fit", ("-m", "benchmarks.single", "single.json")

    def _side(self, source: str) -> int:
        return self.case.image_size if source == "whole" else self.case.tile_size

    def _measured(self, name: str, source: str) -> Measured:
        work = self.folder / f"way-{name}"
        work.mkdir()
        if name == COMMAND:
            return self._measured_command(work)
        places = {TILED: self.run, **{each: self.folder / each / "files" for each in EXPORTS}}
        job = Job(
            kind=name,
            source=str(places.get(source, self.folder / source)),
            images=[str(path) for path in self.images],
            image_size=self.case.image_size,
            side=self._side(source),
            model=self.case.model,
            batch=self.case.eval_batch,
            repeats=self.repeats,
        )
        job.write(work / JOB)
        usage = self._run(("-m", "benchmarks.timing", JOB), work, "predict")
        quality = self._quality(*read_predictions(work, len(job.images)))
        return Measured(Timing.read(work), usage.peak_memory, quality)

    def _measured_command(self, work: Path) -> Measured:
        """Predict one image, then all; the difference is the time of the others."""
        test, images = self.boards / "test", self.images
        command = ("-m", "anomalib_tiled", "predict", "--ckpt_dir", str(self.run), "--device", "cpu", "--maps", "npy")
        one = self._run((*command, "--data", str(images[0]), "--output", "one"), work, "one")
        every = self._run((*command, "--data", str(test), "--output", "all"), work, "all")
        lines = (work / "all" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        said = {Path(line["image_path"]): line["pred_score"] for line in map(json.loads, lines)}
        maps = [np.load((work / "all" / "maps" / path.relative_to(test)).with_suffix(".npy")) for path in images]
        quality = self._quality(np.array([said[path] for path in images], dtype=np.float32), np.stack(maps))
        timing = Timing(one.seconds, [], rate_of_others(len(images) - 1, one.seconds, every.seconds))
        return Measured(timing, every.peak_memory, quality)

    def _quality(self, scores: NDArray[np.float32], maps: NDArray[np.float32]) -> Quality:
        masks = np.stack([mask_of(self.boards, path) for path in self.images])
        return quality_of(scores, maps, masks, rate=self.rate)

    def _run(self, arguments: Sequence[str], folder: Path, name: str) -> Usage:
        """Measure a command.

        Raises:
            LeftOutError: It got too little memory, or refused.
            CommandError: It failed otherwise.
        """
        try:
            with limited_memory():
                return measured(
                    arguments, folder=folder, log=folder / f"{name}.log", decodes=folder / f"{name}.decodes"
                )
        except CommandError as error:
            reason = reason_in(str(error))
            if reason is None:
                raise
            raise LeftOutError(reason) from error

    def clear(self, name: str) -> None:
        """Remove files that only one way needs: maps, and its model or export unless it is the run.

        Args:
            name: Name of the way.
        """
        shutil.rmtree(self.folder / f"way-{name}", ignore_errors=True)
        if WAYS[name].source != TILED:
            shutil.rmtree(self.folder / WAYS[name].source, ignore_errors=True)


def rate_of_others(others: int, one: float, every: float) -> float | None:
    """Give images per second of the images after the first, from the times of two commands.

    Args:
        others: Number of images after the first.
        one: Seconds of a command with one image, most of which is its start.
        every: Seconds of the same command with all images.

    Returns:
        ``None`` if the times differ by less than starts do by themselves.
    """
    return others / (every - one) if every > one * (1 + DIFFERENCE_OF_STARTS) else None


def reason_in(message: str) -> str | None:
    """Find the reason why a command could not run; ``None`` for a mistake in a program.

    Args:
        message: The failure: the command with its exit status, its last output, and the file of all of it.
    """
    if lacked_memory(message):
        return "it needs more memory than there is"
    first, *said, _ = message.splitlines()
    return said[-1] if said and REFUSED in first else None
