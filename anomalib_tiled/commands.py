"""What each command does with its arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data import AnomalibDataModule
from rich.console import Console
from rich.table import Table

from anomalib_tiled import pipeline
from anomalib_tiled.arguments import fit_parser, plain_parser, run_parser, settings_from, test_parser
from anomalib_tiled.config import ClassSpec
from anomalib_tiled.errors import ConfigurationError, StorageError
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.results.report import metrics_table, plugins_table
from anomalib_tiled.run import grid_of
from anomalib_tiled.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anomalib_tiled.config import Settings

DECIDE_RESULTS = (
    "tiling",
    "model",
    "data",
    "trainer",
    "merging",
    "scoring",
    "seam_smoothing",
    "normalization",
    "thresholding",
)
"""Settings that must not change between the beginning and the end of a run."""


def fit(arguments: Sequence[str], prog: str) -> None:
    """Train all tiles and calibrate, or go on with a run; print the run folder."""
    folder = _fitted(arguments, prog)
    Console().print(f"Run folder: {folder.path}", soft_wrap=True, highlight=False)


def train(arguments: Sequence[str], prog: str) -> None:
    """Fit, then test."""
    folder = _fitted(arguments, prog)
    _report(folder, None, None)


def test(arguments: Sequence[str], prog: str) -> None:
    """Measure a run on test images."""
    parsed = test_parser(prog).parse_args(list(arguments))
    data = None
    if parsed.data is not None:
        spec = ClassSpec(parsed.data.class_path, parsed.data.init_args.as_dict() if parsed.data.init_args else {})
        data = spec.build(AnomalibDataModule)
    _report(RunFolder.open(Path(parsed.ckpt_dir)), data, None if parsed.output is None else Path(parsed.output))


def status(arguments: Sequence[str], prog: str) -> None:
    """Show how far each tile of a run is."""
    parsed = run_parser(prog, "Show which tiles are done, missing or failed.").parse_args(list(arguments))
    folder = RunFolder.open(Path(parsed.ckpt_dir))
    tiles = pipeline.status(folder)
    table = Table("tile", "state", "detail")
    for each in tiles:
        table.add_row(each.tile.name, each.state, each.detail)
    console = Console()
    console.print(table)
    done = sum(each.state == "done" for each in tiles)
    calibrated = "calibrated" if folder.calibration_file.is_file() else "not calibrated yet"
    console.print(f"{done} of {len(tiles)} tiles done, {calibrated}.", highlight=False)


def plugins(arguments: Sequence[str], prog: str) -> None:
    """List the installed stages."""
    plain_parser(prog, "List the stages that are installed.").parse_args(list(arguments))
    Console().print(plugins_table(find_plugins()))


def _fitted(arguments: Sequence[str], prog: str) -> RunFolder:
    folder = _folder_for(list(arguments), prog)
    console = Console()
    console.print(str(grid_of(folder.settings().tiling)), soft_wrap=True, highlight=False)
    try:
        calibration = pipeline.fit(folder)
    except (KeyboardInterrupt, StorageError):
        Console(stderr=True).print(f"\nGo on with: {prog} --ckpt_dir {folder.path}", soft_wrap=True, highlight=False)
        raise
    for note in calibration.notes:
        console.print(f"Note: {note}", soft_wrap=True, highlight=False)
    return folder


def _folder_for(arguments: list[str], prog: str) -> RunFolder:
    """Give the run folder to go on with, or make a new one."""
    parser = fit_parser(prog)
    ckpt_dir, others = _without_ckpt_dir(arguments)
    if ckpt_dir is None:
        return pipeline.prepare(settings_from(parser, parser.parse_args(arguments)))
    folder = RunFolder.open(Path(ckpt_dir))
    if others:
        _check_same(folder, settings_from(parser, parser.parse_args(others)))
    return folder


def _without_ckpt_dir(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Part ``--ckpt_dir`` from the other arguments: the settings that fit requires are in the run folder then."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--ckpt_dir":
            used = 1 if equals else 2
            value = value if equals else "".join(arguments[index + 1 : index + 2])
            return value, arguments[:index] + arguments[index + used :]
    return None, arguments


def _check_same(folder: RunFolder, given: Settings) -> None:
    """Refuse to go on with other settings than those of the run."""
    own = folder.settings()
    if given.tiling.image_size is None:  # asks for the images' own size, which the run has looked up
        given = replace(given, tiling=replace(given.tiling, image_size=own.tiling.image_size))
    for name in DECIDE_RESULTS:
        value, asked = getattr(own, name), getattr(given, name)
        if asked != value:
            message = (
                f"{folder.path} was made with another configuration: {name} is {value} there, not {asked}. "
                "Leave the other arguments out to go on with the run, or leave --ckpt_dir out to fit a new one."
            )
            raise ConfigurationError(message)


def _report(folder: RunFolder, data: AnomalibDataModule | None, output: Path | None) -> None:
    metrics = pipeline.test(folder, data, output)
    console = Console()
    console.print(metrics_table(metrics))
    console.print(f"Run folder: {folder.path}", soft_wrap=True, highlight=False)
    console.print(f"Pictures:   {(output or folder.path) / 'images'}", soft_wrap=True, highlight=False)
