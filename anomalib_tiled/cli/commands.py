"""The commands: each reads its arguments, runs a part of the pipeline and prints the results."""

from __future__ import annotations

import io
import shlex
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule
from jsonargparse import Namespace
from rich.console import Console

from anomalib_tiled import pipeline
from anomalib_tiled.cli.options import (
    export_parser,
    fit_parser,
    predict_parser,
    settings_from,
    test_parser,
)
from anomalib_tiled.cli.parser import Parser, folder_named
from anomalib_tiled.cli.terminal import metrics_table, plugins_table, say, show_image, tiles_table
from anomalib_tiled.config.settings import ClassSpec, Settings, changeable, changed_in_run, differences
from anomalib_tiled.data.datamodule import appeared
from anomalib_tiled.data.find_images import LONGEST_LINE
from anomalib_tiled.ensemble.devices import device_named
from anomalib_tiled.ensemble.engines import AUTO as FASTEST
from anomalib_tiled.ensemble.engines import TORCH
from anomalib_tiled.ensemble.run import AUTO, Run
from anomalib_tiled.errors import ConfigurationError, NoPlaceError, OutOfMemoryError, StorageError
from anomalib_tiled.export.export import ExportRequest, export_checkpoints
from anomalib_tiled.export.export import export as write_export
from anomalib_tiled.export.formats import CHECKPOINTS, format_named
from anomalib_tiled.export.precision import FLOAT32, check_format
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.plugins.observers import Observers
from anomalib_tiled.plugins.tracking import trackers_of
from anomalib_tiled.results.request import PredictionRequest, PredictionSettings
from anomalib_tiled.results.tile_metrics import weakest
from anomalib_tiled.runs.report_file import check_report_file
from anomalib_tiled.runs.result_files import REPORT, check_output
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.preparation import change_settings, check_test_images, prepare

UNREADABLE = 3
"""Exit status if images could not be read or predicted."""

ANOMALOUS = 4
"""Exit status if an image is anomalous and ``--fail_on_anomaly`` is given."""

UNCERTAIN = 6
"""Exit status if no image is anomalous, but one is uncertain, and ``--fail_on_anomaly`` is given."""

WIDE = 200
"""Width in characters of a table that goes into a file or another program."""

WEAKEST = 5
"""Number of tile locations that a test shows."""


@dataclass(frozen=True)
class FitRequest:
    """A run to fit.

    Args:
        run: The run, a new one or one to resume.
        retrain: Names of the tiles to train again.
        keep_going: Whether to try all tiles, even after two failed for the same reason.
        report: Whether to write a report on the test that follows.
    """

    run: Run
    retrain: tuple[str, ...] = ()
    keep_going: bool = False
    report: bool = False

    def resume_command(self, prog: str) -> str:
        """Give the command line that resumes the run after an interruption."""
        tiles = ["--tiles", ",".join(self.retrain)] if self.retrain else []
        return f"{prog} {shlex.join(['--ckpt_dir', str(self.run.folder.path), *tiles])}"


def fit(arguments: Sequence[str], prog: str) -> None:
    """Train all tiles and calibrate, or resume a run; print the run folder."""
    request = _fit_request(list(arguments), prog, tested=False)
    with closing(request.run), _observers(request.run) as observers:
        run = _fitted(request, prog, observers)
    say(f"Run folder: {run.folder.path}")


def train(arguments: Sequence[str], prog: str) -> None:
    """Fit, then test."""
    request = _fit_request(list(arguments), prog, tested=True)
    if request.report:
        _check_report(request.run.folder.path)
    with closing(request.run), _observers(request.run) as observers:
        run = _fitted(request, prog, observers)
        _tested(run, observers, report=request.report)


def test(arguments: Sequence[str], prog: str) -> None:
    """Measure a run on test images."""
    parsed = test_parser(prog).parse_args(list(arguments))
    output = _output(parsed.output)
    run, data = _open(parsed.ckpt_dir), None
    if parsed.report:
        _check_report(output or run.folder.path)
    _warn_of_large_images(run)
    if parsed.data is not None:
        data = _spec_of(parsed.data).build(AnomalibDataModule)
    with closing(run), _observers(run) as observers:
        _tested(run, observers, data=data, output=output, report=parsed.report)


def predict(arguments: Sequence[str], prog: str) -> int:
    """Predict new images, or apply other thresholds to predicted ones.

    Returns:
        Exit status: 0; 3 if images could not be read; with ``--fail_on_anomaly`` 4 if one is anomalous, and 6
        if none is, but one is uncertain.
    """
    parser = predict_parser(prog)
    parsed = parser.parse_args(list(arguments))
    settings = PredictionSettings(**{each.name: parsed[each.name] for each in fields(PredictionSettings)})
    if parsed.device != AUTO and parsed.workers is None:
        device_named(parsed.device)  # before anything is written
    run = _open(parsed.ckpt_dir)
    output = _output(parsed.output) or run.folder.path / "predictions"
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # file names may hold any bytes
    report = partial(say, console=Console(file=sys.stderr))  # the terminal: the log redirects sys.stderr later
    command = f"{prog} {shlex.join(arguments)}"
    if parsed.data is None:
        predicts = parsed.skip_existing or parsed.watch or parsed.device != AUTO or parsed.workers is not None
        predicts = predicts or parsed.engine != TORCH or parsed.precision is not None
        _check_thresholds_only(settings, predicts=predicts)
        with _resume_hint(command, report):
            predicted = pipeline.rethreshold(run, output, settings, report)
    else:
        request = _prediction_request(parsed, output, settings)
        if request.on_places:
            run = run.with_workers(_spec_of(parsed.workers), report)
        resume = command if parsed.skip_existing else f"{command} --skip_existing"
        with closing(run), _resume_hint(resume, report), _observers() as observers:
            predicted = pipeline.predict(run, observers, request, report)
    say(str(predicted))
    say(f"Predictions: {output}")
    if predicted.failed:
        say(f"{predicted.failed} images failed: {output / 'failures.csv'}", Console(stderr=True))
        return UNREADABLE
    if not parsed.fail_on_anomaly:
        return 0
    return ANOMALOUS if predicted.anomalous else UNCERTAIN if predicted.uncertain else 0


def export(arguments: Sequence[str], prog: str) -> None:
    """Write a run as files that predict by themselves."""
    parsed = export_parser(prog).parse_args(list(arguments))
    check_format(parsed.format, parsed.precision)
    if parsed.format == CHECKPOINTS:
        if parsed.per_tile or parsed.input != "float32":
            message = f"--per_tile and --input have no meaning with --format {CHECKPOINTS}. Leave them out."
            raise ConfigurationError(message)
        run = _open(parsed.ckpt_dir)
        output = _output(parsed.output) or run.folder.path / "export" / CHECKPOINTS
        export_checkpoints(run, output, overwrite=parsed.overwrite)
        say(f"Export: {output}")
        return
    form = format_named(parsed.format)
    run = _open(parsed.ckpt_dir)
    kind = f"{form.name}_tiles" if parsed.per_tile else form.name
    kind = kind if parsed.precision == FLOAT32 else f"{kind}_{parsed.precision}"
    output = _output(parsed.output) or run.folder.path / "export" / kind
    dtype = getattr(torch, parsed.input)
    request = ExportRequest(
        form,
        output,
        dtype,
        overwrite=parsed.overwrite,
        per_tile=parsed.per_tile,
        precision=parsed.precision,
        allow_changes=parsed.allow_changes,
    )
    exported = write_export(run, request)
    for line in exported.lines(run.settings.model.name):
        say(line)
    say(f"Export: {output}")


def plugins(arguments: Sequence[str], prog: str) -> None:
    """List the installed stages and event hooks."""
    Parser(prog=prog, description="List the installed stages.").parse_args(list(arguments))
    terminal = Console(emoji=False)
    wide = terminal if terminal.is_terminal else Console(width=WIDE, emoji=False)
    wide.print(plugins_table(find_plugins()))


def _fitted(request: FitRequest, prog: str, observers: Observers) -> Run:
    say(str(request.run.grid))
    _warn_of_large_images(request.run)
    with _resume_hint(request.resume_command(prog), partial(say, console=Console(stderr=True))):
        calibration = pipeline.fit(request.run, observers, request.retrain, keep_going=request.keep_going)
    for note in calibration.notes:
        say(f"Note: {note}")
    if (expected := calibration.false_alarms) and not expected.note():
        say(str(expected))
    return request.run.without_left_out()


@contextmanager
def _resume_hint(command: str, report: Callable[[str], None]) -> Iterator[None]:
    """Report the command that resumes an interrupted one."""
    try:
        yield
    except (KeyboardInterrupt, StorageError, OutOfMemoryError, NoPlaceError):
        report(f"\nResume with: {command}")
        raise


def _prediction_request(parsed: Namespace, output: Path, settings: PredictionSettings) -> PredictionRequest:
    if parsed.watch and parsed.workers is not None:
        message = "--watch predicts in this process alone, so that no image waits for others. Leave --workers out."
        raise ConfigurationError(message)
    if parsed.engine == FASTEST and parsed.workers is not None:
        message = "--engine auto measures in this process, and with --workers others predict. Name an engine."
        raise ConfigurationError(message)
    show = partial(show_image, stream=sys.stdout)  # the log redirects sys.stdout later
    return PredictionRequest(
        tuple(parsed.data),
        _lines_of_stdin(),
        output,
        settings,
        skip_existing=parsed.skip_existing,
        device=parsed.device,
        engine=parsed.engine,
        precision=parsed.precision,
        allow_changes=parsed.allow_changes,
        on_places=parsed.workers is not None,
        watch=parsed.watch,
        show=show if parsed.watch else None,
    )


def _check_thresholds_only(settings: PredictionSettings, *, predicts: bool) -> None:
    """Refuse options that need images, as there are none."""
    if not settings.given:
        message = (
            "--data must name the images to predict: files, folders, patterns, or - for a list on standard input. "
            "Without it, --threshold, --pixel_threshold and --uncertain apply to the predictions in --output."
        )
        raise ConfigurationError(message)
    only = PredictionSettings(settings.threshold, settings.pixel_threshold, uncertain=settings.uncertain)
    if predicts or settings != only:
        message = "Without --data, only thresholds can be changed. Leave the other options out, or give --data."
        raise ConfigurationError(message)


def _fit_request(arguments: list[str], prog: str, *, tested: bool) -> FitRequest:
    """Prepare a new run folder, or open the one to resume.

    Args:
        arguments: Arguments of the command.
        prog: Name of the command in messages.
        tested: Whether a test follows, which needs test images.
    """
    parser, report = fit_parser(prog, tested=tested), partial(say, console=Console(file=sys.stderr))
    run_only = ArgumentParser(add_help=False, allow_abbrev=False)
    run_only.add_argument("--ckpt_dir", nargs="?", const="")
    known, others = run_only.parse_known_args(arguments)  # with a run, the required settings are in its folder
    ckpt_dir = known.ckpt_dir
    if ckpt_dir is None:
        parsed = parser.parse_args(others)
        if parsed.ckpt_dir is None:
            if parsed.tiles is not None:
                message = "--tiles trains tiles of a run again, but no run is given. Add --ckpt_dir RUN."
                raise ConfigurationError(message)
            run = prepare(settings_from(parser, parsed), report, tested=tested)
            return FitRequest(run, keep_going=parsed.keep_going, report=tested and parsed.report)
        ckpt_dir = parsed.ckpt_dir
    run = _open(ckpt_dir)
    if tested:
        check_test_images(run.split)
    _note_new_images(run)
    if not others:
        return FitRequest(run)
    # The run's own configuration comes first, so that only the other arguments can differ from it.
    parsed = parser.parse_args(["--config", run.settings.to_yaml(), *others])
    seeded = not isinstance(parsed.seed_everything, bool)
    run = _change(run, settings_from(parser, parsed), seeded=seeded, report=report)
    retrain = () if parsed.tiles is None else tuple(parsed.tiles.split(","))
    return FitRequest(run, retrain, parsed.keep_going, report=tested and parsed.report)


def _spec_of(parsed: Namespace) -> ClassSpec:
    """Give a class as the command line names it."""
    return ClassSpec(parsed.class_path, parsed.init_args.as_dict() if parsed.init_args else {})


def _lines_of_stdin() -> Iterable[str]:
    """Give the lines of standard input; none if it was closed before Python started."""
    return () if sys.stdin is None else iter(partial(sys.stdin.readline, LONGEST_LINE + 1), "")


def _output(given: str | None) -> Path | None:
    """Check ``--output`` and make it absolute; ``None`` for the command's own folder."""
    if given is None:
        return None
    check_output(output := folder_named("--output", given))
    return output


def _open(ckpt_dir: str) -> Run:
    """Open a run, once for the whole command; say which packages have other versions, and later which places fail."""
    terminal = Console(file=sys.stdout)  # the log redirects sys.stdout later
    return Run.open(RunFolder.open(folder_named("--ckpt_dir", ckpt_dir)), lambda note: say(f"Note: {note}", terminal))


def _note_new_images(run: Run) -> None:
    """Say that new images are in the folders of a run, which stays without them."""
    found = appeared(run.split, run.datamodule)
    if found is not None:
        number, newest = found
        command = f"anomalib tiled fit --config {shlex.quote(str(run.folder.config_file))}"
        say(
            f"Note: {number} images are new since the images of this run were split, for example {newest}. The split "
            f"is fixed, so this run does not use them. To use them, fit a new run: {command}"
        )


@contextmanager
def _observers(run: Run | None = None) -> Iterator[Observers]:
    """Give the plugins to notify; warn of those that cannot be loaded, and at the end of those that failed.

    Args:
        run: The run whose trackers are notified, too; ``None`` for no trackers.
    """
    plugins, terminal = find_plugins(), Console(stderr=True)
    for plugin in plugins.broken:
        say(f"warning: a plugin cannot be loaded and is ignored: {plugin}", terminal)
    observers = Observers((*plugins.loaded, *(() if run is None else trackers_of(run))))
    try:
        yield observers
    finally:
        for failure in observers.failures:
            say(f"warning: {failure}", terminal)


def _change(run: Run, given: Settings, *, seeded: bool, report: Callable[[str], None]) -> Run:
    """Change settings of a run that need no training.

    Raises:
        ConfigurationError: Another setting differs from that of the run.
    """
    own = run.settings
    if given.tiling.image_size is None:  # null means the images' own size, which the run has looked up
        given = replace(given, tiling=replace(given.tiling, image_size=own.tiling.image_size))
    if not seeded:  # any seed will do
        given = replace(given, seed_everything=own.seed_everything)
    changed = changed_in_run(own, given)
    if found := differences(changed, given):
        message = (
            f"{run.folder.path} was made with another configuration: {found[0]}. To resume the run, leave the argument "
            f"out; to fit a new one, leave --ckpt_dir out. A run can change only {', '.join(changeable())}."
        )
        raise ConfigurationError(message)
    if changed == own:
        return run
    run = change_settings(run, changed, report)
    for each in differences(changed, own):
        report(f"Changed in config.yaml: {each}")
    return run


def _tested(
    run: Run,
    observers: Observers,
    *,
    report: bool,
    data: AnomalibDataModule | None = None,
    output: Path | None = None,
) -> None:
    measured = pipeline.test(run, observers, data=data, output=output, report=report)
    Console(emoji=False).print(metrics_table(measured.metrics, measured.images))
    if weak := weakest(measured.tiles, WEAKEST):
        Console(emoji=False).print(tiles_table(weak))
    for note in measured.notes:
        say(f"Note: {note}")
    say(f"Run folder: {run.folder.path}")
    say(f"Tiles:      {(output or run.folder.path) / 'tiles.csv'}")
    if run.settings.visualize:
        say(f"Pictures:   {(output or run.folder.path) / 'images'}")
    if report:
        say(f"Report:     {(output or run.folder.path) / REPORT}")


def _check_report(results: Path) -> None:
    """Refuse a report that would replace another file, before any work."""
    if results.is_dir():
        check_report_file(results / REPORT)


def _warn_of_large_images(run: Run) -> None:
    if remark := run.memory_remark():
        say(f"warning: {remark}", Console(stderr=True))
