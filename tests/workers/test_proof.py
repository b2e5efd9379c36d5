"""A place must see the run folder, have the same software, and pass the check of the work."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.workers import proof as module
from anomalib_tiled.workers.proof import COMPARED, Proof, Token, versions
from anomalib_tiled.workers.task import Task, Work


def device_of(item: None, *, device: int | None = None) -> str:
    return f"cuda:{device} NVIDIA H100"


def test_a_place_that_proves_everything_reports_what_it_is(tmp_path: Path) -> None:
    answer = Task(Work(Proof(versions(), Token.of(tmp_path / "exchange"), Work(device_of))), None, device=2)()
    assert answer.error is None
    assert answer.value.host == platform.node()
    assert answer.value.device == "cuda:2 NVIDIA H100"
    assert answer.value.instructions.startswith(platform.machine())


def test_on_the_machine_of_the_command_there_is_nothing_to_see() -> None:
    assert Proof(versions(), None, Work(device_of))(None).host == platform.node()


def test_what_the_check_raises_passes() -> None:
    def refuse(item: None, *, device: int | None = None) -> str:
        message = "there is no GPU"
        raise ConfigurationError(message)

    with pytest.raises(ConfigurationError, match=r"^there is no GPU$"):
        Proof({}, None, Work(refuse))(None)


@pytest.mark.parametrize("name", COMPARED)
def test_another_version_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = versions()
    monkeypatch.setattr(module, "installed", lambda each: "0.0.1" if each == name else needed[each])
    with pytest.raises(ConfigurationError) as raised:
        Proof(needed, None, Work(device_of))(None)
    assert str(raised.value) == (
        f"{name} must have version {needed[name]}, as where the command runs, but {platform.node()} has 0.0.1. "
        "Install the same environment on every machine."
    )


def test_a_package_may_be_missing() -> None:
    assert module.installed("no-such-package") == "none"


def test_a_folder_that_is_not_seen_is_refused(tmp_path: Path) -> None:
    token = Token.of(tmp_path / "v0" / "exchange")
    token.check()
    token.path.unlink()
    message = rf"^{tmp_path}/v0 must be the same shared folder on every machine, but .* does not see it \(\[Errno 2\] "
    with pytest.raises(RunFolderError, match=message + r".*\)\. Mount it there at this path\.$"):
        token.check()


def test_another_folder_of_the_same_name_is_refused(tmp_path: Path) -> None:
    token = Token.of(tmp_path / "v0" / "exchange")
    token.path.write_text("something else")
    with pytest.raises(RunFolderError, match=r"does not see it \(another folder has its name\)\. Mount it"):
        token.check()


def test_a_token_stays_for_places_that_still_start(tmp_path: Path) -> None:
    assert Token.of(tmp_path) == Token.of(tmp_path)
    assert Token.of(tmp_path / "other").content != Token.of(tmp_path).content
