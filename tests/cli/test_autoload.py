"""The start-up file and what it calls, with a stand-in for anomalib: importing the real one takes seconds."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import runpy
import site
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from jsonargparse import ArgumentParser

from anomalib_tiled.cli import autoload

START_UP_FILE = Path(__file__).parents[2] / "anomalib_tiled.pth"
HOST = "anomalib.cli.cli"
COMMAND_LINE = """
class AnomalibCLI:
    def __init__(self, args=None, run=True): ...
    def add_subcommands(self, **kwargs): ...
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Hide an anomalib that is already imported behind one of a few lines; give the file of its command line."""
    for name in [name for name in sys.modules if name.split(".")[0] == "anomalib"]:
        monkeypatch.delitem(sys.modules, name)
    command_line = tmp_path / "anomalib" / "cli" / "cli.py"
    command_line.parent.mkdir(parents=True)
    (tmp_path / "anomalib" / "__init__.py").touch()
    (tmp_path / "anomalib" / "cli" / "__init__.py").touch()
    command_line.write_text(COMMAND_LINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", autoload._other_finders())
    monkeypatch.delenv(autoload.SWITCH, raising=False)
    yield command_line
    for name in ("anomalib", "anomalib.cli", HOST):
        sys.modules.pop(name, None)


def start_up(folder: Path) -> None:
    """Do what Python does at its start in an environment that has the package."""
    (folder / START_UP_FILE.name).write_text(START_UP_FILE.read_text())
    site.addpackage(str(folder), START_UP_FILE.name, set())


def waiting() -> list[str]:
    return [type(finder).__name__ for finder in sys.meta_path if type(finder).__name__ == autoload.FINDER]


def has_tiled(module: ModuleType) -> bool:
    return issubclass(module.AnomalibCLI, autoload.TiledCommand)


def test_a_command_that_only_reads_does_not_wait_for_the_host(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.write_text("raise RuntimeError('the host is loaded')")
    given: list[list[str]] = []
    monkeypatch.setattr("anomalib_tiled.cli.main.main", lambda arguments, prog: given.append([prog, *arguments]) or 0)
    start_up(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/anomalib", "tiled", "status", "--ckpt_dir", "x"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(HOST)
    assert left.value.code == 0
    assert given == [["anomalib tiled", "status", "--ckpt_dir", "x"]]
    for argv in (["anomalib", "tiled", "fit"], ["anomalib", "status"], ["mine", "tiled", "status"], ["anomalib"]):
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(RuntimeError, match="the host is loaded"):
            importlib.import_module(HOST)
    assert len(given) == 1


def test_the_host_is_connected_when_its_command_line_is_imported(stand_in: Path, tmp_path: Path) -> None:
    start_up(tmp_path)
    importlib.import_module("anomalib.cli")
    assert waiting() == [autoload.FINDER]

    module = importlib.import_module(HOST)

    assert has_tiled(module)
    assert waiting() == []
    assert sys.modules[HOST] is module
    assert type(module.__loader__).__name__ == type(module.__spec__.loader).__name__ == "SourceFileLoader"


@pytest.mark.parametrize(("command", "given"), [("tiled", 0), ("train", 1)])
def test_known_warnings_are_left_out_for_our_command_alone(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, given: int
) -> None:
    start_up(tmp_path)
    message = "Importing from timm.models.layers is deprecated, please import via timm.layers"
    place = "'file.py', 1, module='timm.models.layers'"
    stand_in.write_text(f"import warnings\nwarnings.warn_explicit({message!r}, FutureWarning, {place})\n{COMMAND_LINE}")
    monkeypatch.setattr(sys, "argv", ["anomalib", command])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        importlib.import_module(HOST)
    assert len(found) == given


@pytest.mark.parametrize(
    ("started", "command", "prepared"),
    {
        "the program": ("/usr/bin/anomalib", "tiled", [["fit", "--config", "c.yaml"]]),
        "a process that it has started": (None, "tiled", []),
        "another program": ("/usr/bin/mine", "tiled", []),
        "a command of the host": ("/usr/bin/anomalib", "train", []),
    }.values(),
)
def test_workers_are_prepared_before_the_host_is_imported(
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: str | None,
    command: str,
    prepared: list[list[str]],
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("anomalib_tiled.cli.main.prepare_workers", given.append)
    stand_in.write_text(f"import gc\n{COMMAND_LINE}\ncollects = gc.isenabled()")
    start_up(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=started))
    monkeypatch.setattr(sys, "argv", ["anomalib", command, "fit", "--config", "c.yaml"])
    module = importlib.import_module(HOST)
    assert given == prepared
    assert module.collects == (command == "train")


def test_an_interruption_while_the_host_is_loaded_ends_our_command_without_a_traceback(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in.write_text("raise KeyboardInterrupt")
    start_up(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anomalib", "tiled", "test"])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(HOST)
    assert left.value.code == 130
    assert capsys.readouterr().err == "\nInterrupted.\n"
    monkeypatch.setattr(sys, "argv", ["anomalib", "test"])
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module(HOST)


def test_the_switch_turns_it_off(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_up(tmp_path)
    monkeypatch.setenv(autoload.SWITCH, "0")
    assert not has_tiled(importlib.import_module(HOST))


def test_looking_for_the_module_leaves_it_findable(stand_in: Path, tmp_path: Path) -> None:
    start_up(tmp_path)
    spec = importlib.util.find_spec(HOST)
    assert spec is not None
    assert spec.origin == str(stand_in)
    assert spec.loader.get_source(HOST) == COMMAND_LINE
    assert copy.copy(spec.loader).loader is spec.loader.loader
    assert has_tiled(importlib.import_module(HOST))


def test_the_module_can_be_loaded_again_and_run_as_a_program(stand_in: Path, tmp_path: Path) -> None:
    start_up(tmp_path)
    assert "AnomalibCLI" in runpy.run_module(HOST, run_name="__main__")
    module = importlib.import_module(HOST)
    assert importlib.reload(module) is module


def test_a_module_that_fails_is_connected_when_it_is_mended(stand_in: Path, tmp_path: Path) -> None:
    start_up(tmp_path)
    stand_in.write_text("raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        importlib.import_module(HOST)
    assert waiting() == [autoload.FINDER]

    # Longer than before: Python takes a file of the same second and length for unchanged.
    stand_in.write_text(COMMAND_LINE)
    importlib.invalidate_caches()
    assert has_tiled(importlib.import_module(HOST))


def test_without_anomalib_its_absence_is_what_is_said(stand_in: Path, tmp_path: Path) -> None:
    start_up(tmp_path)
    stand_in.unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'anomalib\.cli\.cli'"):
        importlib.import_module(HOST)


def test_a_module_in_an_archive_is_connected_too(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "anomalib.zip", "w") as archive:
        for file in (tmp_path / "anomalib").rglob("*.py"):
            archive.write(file, file.relative_to(tmp_path))
    monkeypatch.syspath_prepend(tmp_path / "anomalib.zip")
    start_up(tmp_path)
    module = importlib.import_module(HOST)
    assert "anomalib.zip" in module.__file__
    assert has_tiled(module)


@pytest.mark.parametrize(("switch", "says"), [("", ""), ("debug", "needs an AnomalibCLI")])
def test_a_host_that_does_not_fit_works_without_tiled(
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    switch: str,
    says: str,
) -> None:
    start_up(tmp_path)
    monkeypatch.setenv(autoload.SWITCH, switch)
    stand_in.write_text("class AnomalibCLI:\n    def __init__(self, arguments): ...")
    module = importlib.import_module(HOST)
    printed = capsys.readouterr()
    assert not has_tiled(module)
    assert says in printed.err
    assert bool(printed.err) == bool(says)
    assert not printed.out


@pytest.mark.parametrize(
    ("switch", "package"),
    {
        "the package is gone": ("", {}),
        "it is broken": ("", {"__init__.py": "", "cli/__init__.py": "", "cli/autoload.py": "def find_spec(: broken"}),
        "somebody wants to know": ("debug", {}),
    }.values(),
)
def test_a_start_up_file_left_behind_stops_nobody(
    stand_in: Path, tmp_path: Path, switch: str, package: dict[str, str]
) -> None:
    (tmp_path / START_UP_FILE.name).write_text(START_UP_FILE.read_text())
    (tmp_path / "anomalib_tiled" / "cli").mkdir(parents=True)
    for name, text in package.items():
        (tmp_path / "anomalib_tiled" / name).write_text(text)
    # -I -S: neither this folder nor the environment of the tests, where the package is whole.
    program = f"import site; site.addsitedir({str(tmp_path)!r}); from {HOST} import AnomalibCLI; print(AnomalibCLI([]))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, autoload.SWITCH: switch},
    )
    assert done.returncode == 0
    assert done.stdout.startswith("<anomalib.cli.cli.AnomalibCLI object")
    assert ("Traceback" in done.stderr) == (switch == "debug")
    assert bool(done.stderr) == (switch == "debug")


class AnomalibCLI:
    """A command line with one command, ``train``."""

    def __init__(self, args: Sequence[str] | None = None, run: bool = True) -> None:  # noqa: FBT001, FBT002
        self.parser = ArgumentParser(prog="anomalib")
        self.parser.add_argument("--config")
        self.add_subcommands()
        self.config = self.parser.parse_args(args)
        if run and self.config.subcommand != "train":
            getattr(self, self.config.subcommand)()

    def add_subcommands(self, **kwargs: object) -> None:
        self.parser.add_subcommands().add_subcommand("train", ArgumentParser(), help="Train one model.")


@pytest.fixture
def module() -> ModuleType:
    module = ModuleType("anomalib.cli.cli")
    module.AnomalibCLI = AnomalibCLI
    autoload.connect(module)
    return module


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str]]:
    """What `anomalib_tiled.cli.main.main` was called with; it answers 2 to ``fail`` and 0 to anything else."""
    calls = []

    def main(arguments: Sequence[str] | None = None, *, prog: str = "anomalib-tiled") -> int:
        calls.append((arguments, prog))
        return 2 if arguments == ["fail"] else 0

    monkeypatch.setitem(sys.modules, "anomalib_tiled.cli.main", SimpleNamespace(main=main))
    return calls


def test_the_help_lists_tiled_after_the_commands_of_the_host(
    module: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        module.AnomalibCLI(["--help"])
    printed = capsys.readouterr().out
    assert left.value.code == 0
    assert autoload.HELP in " ".join(printed.split())
    assert printed.index("Train one model.") < printed.index("Train, test and use one")


def test_everything_after_tiled_goes_to_our_command_line(module: ModuleType, calls: list[object]) -> None:
    module.AnomalibCLI(["tiled", "fit", "--config", "no_such_file.yaml", "--help"])
    assert calls == [(["fit", "--config", "no_such_file.yaml", "--help"], "anomalib tiled")]


def test_without_arguments_those_of_the_process_count(
    module: ModuleType, calls: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["anomalib", "tiled", "status"])
    module.AnomalibCLI()
    assert calls == [(["status"], "anomalib tiled")]


def test_a_status_other_than_zero_ends_the_program_with_it(module: ModuleType, calls: list[object]) -> None:
    with pytest.raises(SystemExit) as left:
        module.AnomalibCLI(["tiled", "fail"])
    assert left.value.code == 2
    assert len(calls) == 1


def test_other_commands_are_the_business_of_the_host(module: ModuleType, calls: list[object]) -> None:
    assert module.AnomalibCLI(["train"]).config.subcommand == "train"
    with pytest.raises(SystemExit):
        module.AnomalibCLI(["train", "tiled"])
    assert calls == []


def test_an_option_of_the_host_may_stand_before_tiled(module: ModuleType, calls: list[object]) -> None:
    module.AnomalibCLI(["--config=any", "tiled"])
    assert calls == [([], "anomalib tiled")]


def test_what_is_not_to_be_run_is_not_run(module: ModuleType, calls: list[object]) -> None:
    assert module.AnomalibCLI(["tiled"], run=False).config.subcommand == "tiled"
    assert calls == []


def test_connecting_twice_is_connecting_once(module: ModuleType) -> None:
    connected = module.AnomalibCLI
    autoload.connect(module)
    assert module.AnomalibCLI is connected
    assert connected.__mro__[1:3] == (autoload.TiledCommand, AnomalibCLI)


@pytest.mark.parametrize("members", [{}, {"__init__": lambda self, arguments: None, "add_subcommands": print}])
def test_a_host_that_does_not_fit_is_refused(members: dict[str, object]) -> None:
    module = ModuleType("anomalib.cli.cli")
    module.AnomalibCLI = inner = type("AnomalibCLI", (), members)
    with pytest.raises(TypeError, match=r"needs an AnomalibCLI .* but got __init__\(.* Use `anomalib-tiled`"):
        autoload.connect(module)
    assert module.AnomalibCLI is inner
