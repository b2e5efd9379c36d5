"""Sends what a run has learned and measured to Lightning's loggers: TensorBoard, MLflow, W&B, and any other."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import asdict, dataclass
from hashlib import blake2b
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.results.pictures import Pictures
from anomalib_tiled.system.files import absolute, open_table, read_json_if_any, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anomalib_tiled.config.settings import Plain, Settings
    from anomalib_tiled.ensemble.calibration import Calibration
    from anomalib_tiled.ensemble.run import Run

LIGHTNING = "lightning.pytorch.loggers"
"""Module of the loggers that a short name means."""

KNOWN = "trackers.json"
"""File in the run folder with the identifiers that trackers gave the run, so that a later test goes to the same."""

FOLDER = "tracked"
"""Folder in the run folder for loggers that write files, unless the configuration names another one."""

RESUMED_BY = {"MLFlowLogger": "run_id", "WandbLogger": "id"}
"""Argument of a logger that resumes a run, by the end of the name of its class."""

MOST_PICTURES, LONGEST_SIDE = 16, 1024
"""Number of pictures of a test, and their longest side in pixels: trackers are no archives."""


class Shown(NamedTuple):
    """A picture of a test.

    Args:
        name: What it shows, such as ``missed/01_scratch_000``.
        picture: The scaled picture.
    """

    name: str
    picture: Image.Image


@dataclass(frozen=True)
class Tracker:
    """A logger of Lightning for the run as a whole.

    Args:
        run: The run.
        logger: The logger.
        key: Identifies class and arguments, so that other arguments begin another run of the tracker.
    """

    run: Run
    logger: Logger
    key: str

    @classmethod
    def of(cls, run: Run, spec: ClassSpec) -> Tracker:
        """Make a tracker, which resumes its own run if there is one.

        Args:
            run: The run.
            spec: Class and arguments of the logger.

        Raises:
            ConfigurationError: It is no logger, or refuses its arguments.
        """
        content = json.dumps(asdict(spec), sort_keys=True, default=str)
        key = f"{spec.name} {blake2b(content.encode(), digest_size=8).hexdigest()}"
        return cls(run, make_logger(spec, run.folder.path, _known(run.folder.path).get(key)), key)

    def log_calibration(self, calibration: Calibration) -> None:
        """Send the configuration, the thresholds, and how long tiles have trained.

        Args:
            calibration: What the stages learned.
        """
        run, logger = self.run, self.logger
        if self.key not in _known(run.folder.path) or not isinstance(logger, MLFlowLogger):
            logger.log_hyperparams(run.settings.to_mapping())  # MLflow refuses to change what it has
        records = [run.folder.record(tile) for tile in run.without_left_out().grid.models]
        numbers: dict[str, Plain] = {"tiles": len(records), "training_seconds": sum(each.seconds for each in records)}
        if (level := calibration.image) is not None:
            numbers |= {"threshold": level.scores.threshold, "pixel_threshold": level.maps.threshold}
        if (alarms := calibration.false_alarms) is not None:
            numbers |= {"expected_false_alarms": alarms.rate}
        if isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(run.folder.config_file))
        self._finish({f"fit/{name}": value for name, value in numbers.items()})

    def log_test(self, output: Path, metrics: Mapping[str, object]) -> None:
        """Send metrics, the table of tiles, pictures of the worst misses and false alarms, and the report.

        Args:
            output: Folder with the results. What comes from another folder than that of the run bears its name.
            metrics: Metrics by name.
        """
        group = "" if output == self.run.folder.path else f"{output.name}/"
        files = [path for name in ("tiles.csv", "report.html") if (path := output / name).is_file()]
        shown = list(_worst(output))
        if isinstance(self.logger, TensorBoardLogger):
            _to_tensorboard(self.logger, group, files, shown)
        elif isinstance(self.logger, MLFlowLogger):
            _to_mlflow(self.logger, group, files, shown)
        elif isinstance(self.logger, WandbLogger):
            _to_wandb(self.logger, group, files, shown)
        self._finish({f"{group}{name}": value for name, value in metrics.items() if isinstance(value, Real)})

    def _finish(self, numbers: Mapping[str, Plain]) -> None:
        """Send numbers, and keep the identifier that the tracker gave the run."""
        self.logger.log_metrics({name: float(value) for name, value in numbers.items()}, step=0)
        self.logger.save()
        if isinstance(self.logger, (MLFlowLogger, WandbLogger)):
            folder = self.run.folder.path
            write_json(folder / KNOWN, {**_known(folder), self.key: str(self.logger.version)})
        self.logger.finalize("success")


def check_loggers(settings: Settings) -> None:
    """Make all loggers once, so that they refuse wrong arguments before the training.

    Args:
        settings: The configuration.

    Raises:
        ConfigurationError: One is no logger, or refuses its arguments.
    """
    for spec in settings.loggers:
        with TemporaryDirectory() as folder:
            make_logger(spec, Path(folder))


def make_logger(spec: ClassSpec, folder: Path, known: str | None = None) -> Logger:
    """Make a logger for a run.

    Args:
        spec: Class and arguments; a name without a module is one of Lightning's.
        folder: The run folder, which files go to unless the arguments name another one.
        known: Identifier that the tracker gave the run before; ``None`` to begin one.

    Raises:
        ConfigurationError: It is no logger, or refuses its arguments.
    """
    path = spec.class_path if "." in spec.class_path else f"{LIGHTNING}.{spec.class_path}"
    given, name = dict(spec.init_args), "/".join(folder.parts[-3:])
    own: dict[str, Plain] = {}
    if spec.name.endswith(("TensorBoardLogger", "CSVLogger")):
        own = {"save_dir": str(folder / FOLDER), "name": name if "save_dir" in given else ""}
    if spec.name.endswith("TensorBoardLogger"):
        own |= {"version": ""}  # else each command would begin another one
    elif spec.name.endswith("MLFlowLogger"):
        own = {"run_name": name, **({} if "tracking_uri" in given else {"save_dir": str(folder / FOLDER)})}
    elif spec.name.endswith("WandbLogger"):
        own = {"name": name, "save_dir": str(folder)}
    if known is not None:
        own |= {argument: known for kind, argument in RESUMED_BY.items() if spec.name.endswith(kind)}
    return ClassSpec(path, {**own, **given}).build(Logger)


def _to_tensorboard(logger: TensorBoardLogger, group: str, files: list[Path], shown: list[Shown]) -> None:
    writer = logger.experiment
    for path in files:  # it shows text, but keeps no files
        written = _markdown(path) if path.suffix == ".csv" else f"`{path}`"
        writer.add_text(f"{group}{path.name}", written, 0)
    for each in shown:
        writer.add_image(f"{group}{each.name}", np.asarray(each.picture), 0, dataformats="HWC")


def _to_mlflow(logger: MLFlowLogger, group: str, files: list[Path], shown: list[Shown]) -> None:
    client, run_id = logger.experiment, logger.run_id
    for path in files:
        client.log_artifact(run_id, str(path), group.rstrip("/") or None)
    for each in shown:
        client.log_image(run_id, each.picture, f"{group}{each.name}.png")


def _to_wandb(logger: WandbLogger, group: str, files: list[Path], shown: list[Shown]) -> None:
    for path in files:
        if path.suffix == ".csv":
            columns, *rows = _rows(path)
            logger.log_table(f"{group}{path.stem}", columns=columns, data=cast("list[list[Any]]", rows))
        else:
            logger.experiment.log_artifact(str(path), name=path.stem, type="report")
    for kind in dict.fromkeys(each.name.partition("/")[0] for each in shown):
        some = [each for each in shown if each.name.startswith(f"{kind}/")]
        logger.log_image(f"{group}{kind}", [each.picture for each in some], caption=[each.name for each in some])


def _worst(output: Path) -> Iterator[Shown]:
    """Read the pictures of the worst misses and false alarms, those first that are farthest from right."""
    columns, *rows = _rows(output / "scores.csv")
    lines = [dict(zip(columns, row, strict=True)) for row in rows]
    pictures = Pictures.into(output / "images", [absolute(line["image_path"]) for line in lines])
    wrong = [line for line in lines if line["gt_label"] not in {"", line["pred_label"]} and line["pred_score"]]
    missed = sorted((line for line in wrong if line["gt_label"] == "1"), key=lambda line: float(line["pred_score"]))
    alarms = sorted((line for line in wrong if line["gt_label"] == "0"), key=lambda line: -float(line["pred_score"]))
    most = max(MOST_PICTURES // 2, MOST_PICTURES - len(alarms))
    chosen = [("missed", number, each) for number, each in enumerate(missed[:most], 1)]
    chosen += [("false_alarm", number, each) for number, each in enumerate(alarms[: MOST_PICTURES - len(chosen)], 1)]
    for kind, number, line in chosen:
        path = pictures.path_of(absolute(line["image_path"]))
        if path.is_file():
            with Image.open(path) as picture:
                picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                name = re.sub(r"[^\w.-]+", "_", str(path.relative_to(pictures.folder).with_suffix("")))
                yield Shown(f"{kind}/{number:02d}_{name}", picture.convert("RGB"))


def _rows(path: Path) -> list[list[str]]:
    with open_table(path, "r") as file:
        return list(csv.reader(file))


def _markdown(path: Path) -> str:
    heading, *rows = _rows(path)
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


def _known(folder: Path) -> dict[str, str]:
    return {key: str(each) for key, each in read_json_if_any(folder / KNOWN).items()}
