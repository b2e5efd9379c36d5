"""The way from what the user typed to a command, and from what went wrong to an exit status."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from anomalib_tiled import errors
from anomalib_tiled.cli import main as cli
from anomalib_tiled.cli.main import COMMANDS, main
from anomalib_tiled.system import import_warnings
from anomalib_tiled.system.import_warnings import without_known_warnings
from anomalib_tiled.system.termination import Terminated

NAMES = ["fit", "test", "train", "predict", "check", "status", "report", "export", "plugins"]

Play = Callable[[BaseException | None], list[tuple[list[str], str, str]]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Put stand-ins in the place of all commands: they note how they were called, and fail as told."""

    def stand_in(failure: BaseException | None = None) -> list[tuple[list[str], str, str]]:
        calls: list[tuple[list[str], str, str]] = []

        def command(name: str) -> Callable[[Sequence[str], str], None]:
            def run(arguments: Sequence[str], prog: str) -> None:
                calls.append((list(arguments), prog, name))
                if failure is not None:
                    raise failure

            return run

        commands = SimpleNamespace(**{name: command(name) for name in NAMES})
        for module in ("commands", "status", "check", "report"):
            monkeypatch.setitem(sys.modules, f"anomalib_tiled.cli.{module}", commands)
        return calls

    return stand_in


@pytest.mark.parametrize("name", NAMES)
def test_a_command_gets_the_arguments_after_its_name(play: Play, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    calls = play(None)
    assert main([name, "--config", "a.yaml", "fit"], prog="anomalib tiled") == 0
    assert calls == [(["--config", "a.yaml", "fit"], f"anomalib tiled {name}", name)]
    assert capsys.readouterr() == ("", "")


def test_memory_is_kept_where_models_work(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    play(None)
    for name in NAMES:
        monkeypatch.setattr(cli, "keep_freed_memory", lambda name=name: asked.append(name))
        main([name])
    assert asked == ["fit", "train", "predict"]


def test_the_fork_server_starts_early_for_commands_that_train(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    play(None)
    with_workers = [["predict", "--workers", "LocalWorkers"], ["predict", "--workers.processes=2"]]
    for given in [[name] for name in NAMES] + [["fit", "--help"], ["train", "-h"]] + with_workers:
        monkeypatch.setattr(cli, "start_fork_server_early", lambda given=given: started.append(given))
        main(given)
    assert started == [["fit"], ["train"], *with_workers]


@pytest.mark.parametrize(("processes", "starts"), [(1, 0), (12, 2)])
def test_it_does_not_start_early_where_the_configuration_names_one_process(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processes: int, starts: int
) -> None:
    play(None)
    started: list[bool] = []
    monkeypatch.setattr(cli, "start_fork_server_early", lambda: started.append(True))
    (config := tmp_path / "c.yaml").write_text(f"workers:\n  init_args:\n    processes: {processes}\n")
    main(["fit", "--config", str(config)])
    main(["fit", f"--config={config}"])
    assert len(started) == starts
    main(["fit", "--config", str(config), "--workers.processes=2"])
    main(["fit", "--config", str(tmp_path / "missing.yaml")])  # the command says what is wrong with it
    assert len(started) == starts + 2


def test_what_a_command_imports_is_kept_apart_from_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    collects: list[tuple[str, bool]] = []

    def imported(name: str) -> SimpleNamespace:
        collects.append((name.rpartition(".")[2], gc.isenabled()))
        return SimpleNamespace(
            turn_off_hub_retries=lambda: None, predict=lambda *_: collects.append(("run", gc.isenabled()))
        )

    monkeypatch.setattr(cli, "import_module", imported)
    assert main(["predict"]) == 0
    assert collects == [("commands", False), ("missing_weights", False), ("run", True)]


@pytest.mark.parametrize("status", [0, 3, 4])
def test_a_command_may_give_an_exit_status(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = SimpleNamespace(predict=lambda arguments, prog: status)
    monkeypatch.setitem(sys.modules, "anomalib_tiled.cli.commands", commands)
    assert main(["predict"]) == status


def test_without_arguments_those_of_the_process_count(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = play(None)
    monkeypatch.setattr(sys, "argv", ["anomalib-tiled", "status", "--ckpt_dir", "x"])
    assert main() == 0
    assert calls == [(["--ckpt_dir", "x"], "anomalib-tiled status", "status")]


@pytest.mark.parametrize("error", [errors.TiledError, errors.OutOfMemoryError])
def test_what_the_user_can_fix_is_two_and_no_traceback(
    play: Play, error: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    play(error("The stride must be 3.\nLower it."))
    assert main(["fit"]) == 2
    assert capsys.readouterr() == ("", "error: The stride must be 3.\nLower it.\n")


def test_what_must_not_be_used_says_what_to_do(play: Play, capsys: pytest.CaptureFixture[str]) -> None:
    play(PermissionError(13, "Permission denied", "/run/tiles"))
    assert main(["status"]) == 2
    advice = "Change its permissions, or those of the folders that it lies in."
    assert capsys.readouterr() == ("", f"error: /run/tiles: Permission denied. {advice}\n")
    play(PermissionError("by a mistake of ours"))
    assert main(["status"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def printing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command that writes text to a stream, with another file in the place of that stream."""

    def run(name: str, file: TextIO | None, text: str = "1") -> int:
        commands = SimpleNamespace(status=lambda arguments, prog: print(text, file=getattr(sys, name), flush=True))
        monkeypatch.setitem(sys.modules, "anomalib_tiled.cli.status", commands)
        with monkeypatch.context() as patched:
            patched.setattr(sys, name, file)
            return main(["status"])

    return run


def test_a_full_output_is_two_and_no_traceback(
    printing: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        assert printing("stdout", full) == 2
    assert capsys.readouterr() == ("", "error: Standard output: No space left on device. Make room, then resume.\n")
    with Path("/dev/full").open("w") as full:
        assert printing("stderr", full) == 2
    assert capsys.readouterr() == ("", "")


def test_a_closed_output_is_none(printing: Callable[..., int]) -> None:
    assert printing("stdout", None) == 0


def test_names_of_any_bytes_can_be_printed(printing: Callable[..., int]) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert printing("stdout", output, "\udcfc") == 0
    output.seek(0)
    assert output.read() == "\\udcfc\n"


@pytest.mark.parametrize(("interruption", "status"), [(KeyboardInterrupt(), 130), (Terminated(), 143)])
def test_an_interruption_is_no_traceback(
    play: Play, interruption: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    play(interruption)
    assert main(["train"]) == status
    assert capsys.readouterr() == ("", "\nInterrupted.\n")


def test_sigterm_interrupts_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: Sequence[str], prog: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    commands = SimpleNamespace(fit=run)
    monkeypatch.setitem(sys.modules, "anomalib_tiled.cli.commands", commands)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # something of the tests may listen
    try:
        assert main(["fit"]) == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [RuntimeError("out of luck"), OSError("out of luck")])
def test_anything_else_is_one_and_shown_in_full(
    play: Play, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    play(error)
    assert main(["test"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Traceback (most recent call last):\n")
    assert printed.err.endswith(f"{type(error).__name__}: out of luck\n")


def test_an_exit_keeps_its_status(play: Play) -> None:
    play(SystemExit(0))
    with pytest.raises(SystemExit) as left:
        main(["fit", "--help"])
    assert left.value.code == 0


@pytest.mark.parametrize("given", ["fitt", "", "--config"])
def test_a_command_that_there_is_not(play: Play, given: str, capsys: pytest.CaptureFixture[str]) -> None:
    calls = play(None)
    assert main([given]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: There is no command {given!r}.")
    assert message.endswith("Allowed: check, export, fit, plugins, predict, report, status, test, train.\n")
    assert calls == []


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_lists_the_commands_in_the_order_of_their_use(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, prog="anomalib tiled") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line.split(maxsplit=1) for line in printed.out.partition("commands:\n")[2].splitlines() if line[:1] == " "]
    assert [name for name, _ in lines] == NAMES == [command.name for command in COMMANDS]
    assert [text for _, text in lines] == [command.help for command in COMMANDS]
    assert "usage: anomalib tiled COMMAND [options]" in printed.out
    assert "`anomalib tiled COMMAND --help` shows the options of a command." in printed.out


def test_the_overview_waits_for_no_large_package() -> None:
    script = (
        "import sys, json\n"
        "from anomalib_tiled.cli.main import main\n"
        "status = main(['--help']), main(['fitt'])\n"
        "print(json.dumps([status, sorted(name for name in sys.modules if '.' not in name)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    status, loaded = json.loads(done.stdout.splitlines()[-1])
    assert status == [0, 2]
    assert "anomalib_tiled" in loaded
    assert not {"torch", "anomalib", "lightning", "torchvision", "numpy", "pandas", "jsonargparse"} & set(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["anomalib tiled", "anomalib-tiled"])
def test_a_command_prints_nothing_but_its_own_words(program: str) -> None:
    name, *arguments = program.split()
    file = Path(sys.executable).with_name(name)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    done = subprocess.run([file, *arguments, "plugins"], capture_output=True, text=True, check=True, env=environment)
    assert "MinMax" in done.stdout
    assert done.stderr == ""


def test_warnings_that_concern_somebody_are_given(recwarn: pytest.WarningsRecorder) -> None:
    with without_known_warnings():
        warnings.simplefilter("always", append=True)
        for message, module in import_warnings.KNOWN:
            for module_name in (f"{module}.layers", "my_package"):
                warnings.warn_explicit(f"{message}.", FutureWarning, "file.py", 1, module=module_name)
        warnings.warn_explicit("Beware.", FutureWarning, "file.py", 1, module="timm.models.layers")
    given = [str(warning.message) for warning in recwarn]
    assert given == [*(f"{message}." for message, _ in import_warnings.KNOWN), "Beware."]
