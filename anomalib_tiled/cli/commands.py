"""What each command does with its arguments."""

from __future__ import annotations

import io
import shlex
import sys
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from anomalib.data import AnomalibDataModule
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anomalib_tiled import pipeline
from anomalib_tiled.cli.options import (
    export_parser,
    fit_parser,
    plain_parser,
    predict_parser,
    run_parser,
    settings_from,
    test_parser,
    without_ckpt_dir,
)
from anomalib_tiled.cli.tables import metrics_table, plugins_table, tiles_table
from anomalib_tiled.config.differences import differences
from anomalib_tiled.config.settings import NEED_NO_TRAINING, ClassSpec, changeable
from anomalib_tiled.config.tiling import grid_of
from anomalib_tiled.data.appeared import appeared
from anomalib_tiled.data.find_images import LONGEST_LINE
from anomalib_tiled.data.split import Split
from anomalib_tiled.ensemble.devices import device_named
from anomalib_tiled.ensemble.run import AUTO
from anomalib_tiled.errors import ConfigurationError, OutOfMemoryError, StorageError
from anomalib_tiled.export.checkpoints import FORMAT as CHECKPOINTS
from anomalib_tiled.export.checkpoints import export_checkpoints
from anomalib_tiled.export.export import Exporting
from anomalib_tiled.export.export import export as write_export
from anomalib_tiled.export.formats import format_named
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.results.request import PredictionRequest, PredictionSettings
from anomalib_tiled.results.thresholds import ThresholdRules
from anomalib_tiled.results.tile_metrics import weakest
from anomalib_tiled.runs.changed_files import altered
from anomalib_tiled.runs.package_versions import changed_origins
from anomalib_tiled.runs.run_folder import RunFolder, check_output
from anomalib_tiled.system.memory import too_large
from anomalib_tiled.system.paths import absolute
from anomalib_tiled.training.preparation import change_settings, check_test_images, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from anomalib_tiled.config.settings import Settings

UNREADABLE = 3
"""Exit status where images could not be read or predicted."""

ANOMALOUS = 4
"""Exit status where an image is anomalous, if that is asked for."""

WIDE = 200
"""Columns of a table that goes into a file or another program."""

WEAKEST = 5
"""Tile locations that are shown after a test."""


def fit(arguments: Sequence[str], prog: str) -> None:
    """Train all tiles and calibrate, or go on with a run; print the run folder."""
    with _observers() as observers:
        folder = _fitted(arguments, prog, observers)
    _say(f"Run folder: {folder.path}")


def train(arguments: Sequence[str], prog: str) -> None:
    """Fit, then test."""
    with _observers() as observers:
        _report(_fitted(arguments, prog, observers, tested=True), observers)


def test(arguments: Sequence[str], prog: str) -> None:
    """Measure a run on test images."""
    parsed = test_parser(prog).parse_args(list(arguments))
    output = _output(parsed.output)
    folder, data = _opened(parsed.ckpt_dir, allow_altered=parsed.allow_altered), None
    _warn_of_large_images(folder)
    if parsed.data is not None:
        spec = ClassSpec(parsed.data.class_path, parsed.data.init_args.as_dict() if parsed.data.init_args else {})
        data = spec.build(AnomalibDataModule)
    with _observers() as observers:
        _report(folder, observers, data=data, output=output)


def predict(arguments: Sequence[str], prog: str) -> int:
    """Predict new images, or decide about predicted ones again.

    Returns:
        Exit status: 0, 3 if images could not be read, 4 if one is anomalous and that was asked for.
    """
    parser = predict_parser(prog)
    parsed = parser.parse_args(list(arguments))
    settings = PredictionSettings(**{each.name: parsed[each.name] for each in fields(PredictionSettings)})
    ThresholdRules.read(settings.threshold, settings.pixel_threshold)
    if parsed.device != AUTO:
        device_named(parsed.device)  # before anything is written
    folder = _opened(parsed.ckpt_dir, allow_altered=parsed.allow_altered)
    output = _output(parsed.output) or folder.path / "predictions"
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names of files may be of any bytes
    report = partial(_say, console=Console(file=sys.stderr))  # which is redirected into the log later
    command = f"{prog} {shlex.join(arguments)}"
    if parsed.data is None:
        _check_thresholds_only(settings, predicts=parsed.skip_existing or parsed.device != AUTO)
        with _told_how_to_go_on(command, report):
            predicted = pipeline.decide_again(folder, output, settings, report)
    else:
        request = PredictionRequest(
            tuple(parsed.data),
            _listed(),
            output,
            settings,
            skip_existing=parsed.skip_existing,
            device=parsed.device,
        )
        again = command if parsed.skip_existing else f"{command} --skip_existing"
        with _told_how_to_go_on(again, report), _observers() as observers:
            predicted = pipeline.predict(folder, observers, request, report)
    _say(str(predicted))
    _say(f"Predictions: {output}")
    if predicted.failed:
        _say(f"{predicted.failed} images failed: {output / 'failures.csv'}", Console(stderr=True))
        return UNREADABLE
    return ANOMALOUS if parsed.fail_on_anomaly and predicted.anomalous else 0


def status(arguments: Sequence[str], prog: str) -> None:
    """Show how far each tile of a run is."""
    parsed = run_parser(prog, "Show which tiles are done, left out, missing or failed.").parse_args(list(arguments))
    folder = _opened(parsed.ckpt_dir)
    tiles = pipeline.status(folder)
    table = Table("tile", "state", "detail")
    for each in tiles:
        table.add_row(each.tile.name, each.state, escape(each.detail))
    Console(emoji=False).print(table)
    done, left_out = (sum(each.state == state for each in tiles) for state in ("done", "left out"))
    calibrated = "calibrated" if folder.calibration_file.is_file() else "not calibrated yet"
    others = f", {left_out} left out" if left_out else ""
    _say(f"{done} of {len(tiles)} tiles done{others}, {calibrated}.")


def export(arguments: Sequence[str], prog: str) -> None:
    """Write a run as files that predict by themselves."""
    parsed = export_parser(prog).parse_args(list(arguments))
    if parsed.format == CHECKPOINTS:
        if parsed.per_tile or parsed.input != "float32":
            message = f"--per_tile and --input have no meaning with --format {CHECKPOINTS}. Leave them out."
            raise ConfigurationError(message)
        folder = _opened(parsed.ckpt_dir, allow_altered=parsed.allow_altered)
        output = _output(parsed.output) or folder.path / "export" / CHECKPOINTS
        export_checkpoints(folder, output, overwrite=parsed.overwrite)
        _say(f"Export: {output}")
        return
    form = format_named(parsed.format)
    folder = _opened(parsed.ckpt_dir, allow_altered=parsed.allow_altered)
    kind = f"{form.name}_tiles" if parsed.per_tile else form.name
    output = _output(parsed.output) or folder.path / "export" / kind
    dtype = getattr(torch, parsed.input)
    asked = Exporting(form, output, dtype, overwrite=parsed.overwrite, per_tile=parsed.per_tile)
    exported = write_export(folder, asked)
    for line in exported.lines(folder.settings().model.name):
        _say(line)
    _say(f"Export: {output}")


def plugins(arguments: Sequence[str], prog: str) -> None:
    """List the installed stages."""
    plain_parser(prog, "List the stages that are installed.").parse_args(list(arguments))
    found, terminal = find_plugins(), Console(emoji=False)
    wide = terminal if terminal.is_terminal else Console(width=WIDE, emoji=False)
    wide.print(plugins_table(found))
    for clash in found.clashes:
        _say(f"Name clash: {clash}. Name one by its dotted path.")


def _fitted(arguments: Sequence[str], prog: str, observers: Observers, *, tested: bool = False) -> RunFolder:
    folder, again, keep_going = _folder_for(list(arguments), prog, tested=tested)
    _say(str(grid_of(folder.settings().tiling)))
    _warn_of_large_images(folder)
    command = f"{prog} {shlex.join(['--ckpt_dir', str(folder.path), *(['--tiles', ','.join(again)] if again else [])])}"
    with _told_how_to_go_on(command, partial(_say, console=Console(stderr=True))):
        calibration = pipeline.fit(folder, observers, again, keep_going=keep_going)
    for note in calibration.notes:
        _say(f"Note: {note}")
    return folder


@contextmanager
def _told_how_to_go_on(command: str, report: Callable[[str], None]) -> Iterator[None]:
    """Say how to go on with what is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, StorageError, OutOfMemoryError):
        report(f"\nGo on with: {command}")
        raise


def _check_thresholds_only(settings: PredictionSettings, *, predicts: bool) -> None:
    """Refuse what needs images where there are none."""
    if settings.threshold is None and settings.pixel_threshold is None:
        message = (
            "--data must name the images to predict: files, folders, patterns, or - for a list on standard input. "
            "Without it, --threshold or --pixel_threshold decide again about the images in --output."
        )
        raise ConfigurationError(message)
    if predicts or settings != PredictionSettings(settings.threshold, settings.pixel_threshold):
        message = "Without --data, only thresholds can be changed. Leave the other options out, or give --data."
        raise ConfigurationError(message)


def _folder_for(arguments: list[str], prog: str, *, tested: bool) -> tuple[RunFolder, list[str], bool]:
    """Give the run folder to resume or a new one, the tiles to train again, and whether all are tried.

    Args:
        arguments: Those of the command.
        prog: How the command is called.
        tested: Whether a test follows, which needs test images.
    """
    parser, report = fit_parser(prog), partial(_say, console=Console(file=sys.stderr))
    ckpt_dir, others = without_ckpt_dir(arguments)
    if ckpt_dir is None:
        parsed = parser.parse_args(others)
        if parsed.ckpt_dir is None:
            if parsed.tiles is not None:
                message = "--tiles trains tiles of a run again. Say of which run: --ckpt_dir RUN."
                raise ConfigurationError(message)
            return prepare(settings_from(parser, parsed), report, tested=tested), [], parsed.keep_going
        ckpt_dir = parsed.ckpt_dir
    folder = _opened(ckpt_dir)
    if tested:
        check_test_images(Split.read(folder.split_file))
    _note_new_images(folder)
    if others:
        # The run's own configuration comes first, so that only what is asked for besides can differ from it.
        parsed = parser.parse_args(["--config", str(folder.config_file), *others])
        seeded = not isinstance(parsed.seed_everything, bool)
        _change(folder, settings_from(parser, parsed), seeded=seeded, report=report)
        return folder, [] if parsed.tiles is None else parsed.tiles.split(","), parsed.keep_going
    return folder, [], False


def _listed() -> Iterable[str]:
    """Give the lines of standard input; none if it was closed before Python began."""
    return () if sys.stdin is None else iter(partial(sys.stdin.readline, LONGEST_LINE + 1), "")


def _output(given: str | None) -> Path | None:
    """Give the folder for results that is asked for; ``None`` for that of the command."""
    if given is None:
        return None
    if not given:
        message = "--output must name a folder, but the name is empty. Is a variable of the shell not set?"
        raise ConfigurationError(message)
    check_output(output := absolute(given))
    return output


def _opened(ckpt_dir: str, *, allow_altered: bool = False) -> RunFolder:
    """Open a run, and say which files are not what they were, and which packages have other versions."""
    if not ckpt_dir:
        message = "--ckpt_dir must name a run folder, but the name is empty. Is a variable of the shell not set?"
        raise ConfigurationError(message)
    folder = RunFolder.open(absolute(ckpt_dir), allow_altered=allow_altered)
    if allow_altered:
        for note in altered(folder):
            _say(f"warning: {note}", Console(stderr=True))
    for note in changed_origins(folder.origins()):
        _say(f"Note: {note}")
    return folder


def _note_new_images(folder: RunFolder) -> None:
    """Say that images have come into the folders of a run, which goes on without them."""
    found = appeared(Split.read(folder.split_file), folder.settings().data.build(AnomalibDataModule))
    if found is not None:
        number, newest = found
        command = f"anomalib tiled fit --config {shlex.quote(str(folder.config_file))}"
        _say(
            f"Note: {number} images have appeared since the images of this run were split, for example {newest}. The "
            f"split is frozen, and they stay unused. Make a new run with them: {command}"
        )


@contextmanager
def _observers() -> Iterator[Observers]:
    """Give whom to tell what happens; say which plugins cannot be loaded, or fail when they are told."""
    plugins, terminal = find_plugins(), Console(stderr=True)
    for plugin in plugins.broken:
        _say(f"warning: a plugin cannot be loaded and is left out: {plugin}", terminal)
    observers = Observers(plugins.loaded)
    try:
        yield observers
    finally:
        for failure in observers.failures:
            _say(f"warning: {failure}", terminal)


def _change(folder: RunFolder, given: Settings, *, seeded: bool, report: Callable[[str], None]) -> None:
    """Put settings into a run that need no training.

    Raises:
        ConfigurationError: Other settings than these differ from those of the run.
    """
    own = folder.settings()
    if given.tiling.image_size is None:  # asks for the images' own size, which the run has looked up
        given = replace(given, tiling=replace(given.tiling, image_size=own.tiling.image_size))
    if not seeded:  # asks for any seed
        given = replace(given, seed_everything=own.seed_everything)
    changed = replace(own, **{name: getattr(given, name) for name in NEED_NO_TRAINING})
    if found := differences(changed, given):
        message = (
            f"{folder.path} was made with another configuration: {found[0]}. Leave the argument out to go on with the "
            f"run, or leave --ckpt_dir out to fit a new one. A run takes other {', '.join(changeable())}."
        )
        raise ConfigurationError(message)
    if changed != own:
        change_settings(folder, changed)
        for each in differences(changed, own):
            report(f"Changed in config.yaml: {each}")


def _report(
    folder: RunFolder, observers: Observers, *, data: AnomalibDataModule | None = None, output: Path | None = None
) -> None:
    measured = pipeline.test(folder, observers, data=data, output=output)
    Console(emoji=False).print(metrics_table(measured.metrics, measured.images))
    if weak := weakest(measured.tiles, WEAKEST):
        Console(emoji=False).print(tiles_table(weak))
    for note in measured.notes:
        _say(f"Note: {note}")
    _say(f"Run folder: {folder.path}")
    _say(f"Tiles:      {(output or folder.path) / 'tiles.csv'}")
    if folder.settings().visualize:
        _say(f"Pictures:   {(output or folder.path) / 'images'}")


def _warn_of_large_images(folder: RunFolder) -> None:
    if remark := too_large(grid_of(folder.settings().tiling).image_size):
        _say(f"warning: {remark}", Console(stderr=True))


def _say(text: str, console: Console | None = None) -> None:
    """Print a line as it is, however long: a path must stay a path."""
    (console or Console()).print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)
