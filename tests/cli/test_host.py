"""The place of ``tiled`` in a command line that is built as anomalib's is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

import pytest
from jsonargparse import ArgumentParser

from anomalib_tiled.cli import host


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
    host.connect(module)
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
    assert host.HELP in " ".join(printed.split())
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
    host.connect(module)
    assert module.AnomalibCLI is connected
    assert connected.__mro__[1:3] == (host.TiledCommand, AnomalibCLI)


def test_a_parser_that_hides_its_commands_costs_only_the_line_of_help(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, calls: list[object]
) -> None:
    def without_commands(self: AnomalibCLI, **kwargs: object) -> None:
        self.parser.add_argument("--subcommand", default="train")

    monkeypatch.setattr(AnomalibCLI, "add_subcommands", without_commands)
    assert module.AnomalibCLI([]).config.subcommand == "train"
    module.AnomalibCLI(["tiled"])
    assert len(calls) == 1


@pytest.mark.parametrize("members", [{}, {"__init__": lambda self, arguments: None, "add_subcommands": print}])
def test_a_host_that_does_not_fit_is_refused(members: dict[str, object]) -> None:
    module = ModuleType("anomalib.cli.cli")
    module.AnomalibCLI = inner = type("AnomalibCLI", (), members)
    with pytest.raises(TypeError, match=r"needs an AnomalibCLI .* but got __init__\(.* Use `anomalib-tiled`"):
        host.connect(module)
    assert module.AnomalibCLI is inner
