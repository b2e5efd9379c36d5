"""A kind of stage is a row: with it, every part of the package knows the kind."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from anomalib_tiled.cli.main import main
from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.plugins.discovery import find_plugins
from anomalib_tiled.runs.package_versions import origins_of
from anomalib_tiled.stages import kinds
from anomalib_tiled.stages.contracts import name_of
from anomalib_tiled.stages.kinds import STAGE_KINDS, StageKind

PLUGIN = f"""
from anomalib_tiled import hookimpl
from {__name__} import Aligner


class ByCorners(Aligner):
    '''Finds the corners of the part.'''

    def __init__(self, corners: int = 4) -> None:
        self.corners = corners

    def align(self):
        pass


@hookimpl
def register_aligners():
    return [ByCorners]
"""
REQUIRED = ["--model", "Padim", "--data", "DemoBoards", "--tiling.tile_size", "256"]

Install = Callable[..., None]


class Aligner(ABC):
    """Puts parts into the same place."""

    @abstractmethod
    def align(self) -> None:
        """Align an image."""


ALIGNMENT = StageKind(
    name="alignment",
    contract_path=f"{__name__}.Aligner",
    hook="register_aligners",
    setting="alignment",
    purpose="Puts parts into the same place; or null.",
    default=None,
    optional=True,
)


@pytest.fixture
def plugin(install: Install, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of a kind that the package does not know by itself."""
    monkeypatch.setattr(kinds, "STAGE_KINDS", (*STAGE_KINDS, ALIGNMENT))
    install("aligning", PLUGIN)
    (choice,) = find_plugins().of("alignment")
    return choice.implementation


def test_it_is_listed(plugin: type, capsys: pytest.CaptureFixture[str]) -> None:
    del plugin
    assert main(["plugins"]) == 0
    assert re.search(r"alignment +│ ByCorners .* Finds the corners of the part\.", capsys.readouterr().out)


def test_the_commands_take_it(plugin: type, capsys: pytest.CaptureFixture[str]) -> None:
    del plugin
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "Puts parts into the same place; or null." in capsys.readouterr().out
    given = ["--alignment", "ByCorners", "--alignment.corners", "3"]
    with pytest.raises(SystemExit):
        main(["fit", *REQUIRED, *given, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["alignment"] == {"class_path": "aligning.ByCorners", "init_args": {"corners": 3}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ByCornes", "There is no 'ByCornes' for alignment. Did you mean 'ByCorners'? Allowed: ByCorners. Or give a"),
        ("anomalib_tiled.stages.scoring.Max", "Import path does not correspond to a subclass of Aligner"),
    ],
)
def test_another_class_is_refused(plugin: type, capsys: pytest.CaptureFixture[str], given: str, message: str) -> None:
    del plugin
    assert main(["fit", *REQUIRED, "--alignment", given]) == 2
    assert message in capsys.readouterr().err


def test_a_plugin_must_keep_the_contract(plugin: type, install: Install) -> None:
    del plugin
    install("lacking", PLUGIN.replace("def align(", "def aline("))
    (broken,) = find_plugins().broken
    assert (
        broken.error
        == "TypeError: ByCorners of register_aligners must implement every method of Aligner, but lacks align"
    )


def test_messages_name_it(plugin: type) -> None:
    assert name_of(plugin()) == "alignment ByCorners (aligning.ByCorners of aligning 1.2)"


def test_a_run_keeps_it(plugin: type, configuration: dict[str, object]) -> None:
    spec = ClassSpec("aligning.ByCorners", {"corners": 3})
    before = Settings.from_mapping(configuration)  # of a run that was made when there was no such kind
    after = replace(before, stages={**before.stages, "alignment": spec})
    assert Settings.from_mapping(yaml.safe_load(after.to_yaml())) == after
    assert isinstance(after.stages["alignment"].build(Aligner), plugin)
    assert origins_of(after)["alignment"] == {
        "class_path": "aligning.ByCorners",
        "package": "aligning",
        "version": "1.2",
    }


def test_older_runs_stay_as_they_are(configuration: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings.from_mapping(configuration)
    expected = before.training_hash, before.calibration_hash
    monkeypatch.setattr(kinds, "STAGE_KINDS", (*STAGE_KINDS, ALIGNMENT))
    after = Settings.from_mapping(configuration)
    assert (after.training_hash, after.calibration_hash) == expected
    chosen = replace(after, stages={**after.stages, "alignment": ClassSpec("aligning.ByCorners")})
    assert chosen.training_hash == expected[0]
    assert chosen.calibration_hash != expected[1]


def test_a_kind_in_a_group_has_settings_beside_it(
    configuration: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "STAGE_KINDS", (*STAGE_KINDS, replace(ALIGNMENT, setting="alignment.method")))
    given = {"alignment": {"method": {"class_path": "aligning.ByCorners"}}}
    settings = Settings.from_mapping(configuration | given)
    assert settings.stages["alignment"] == ClassSpec("aligning.ByCorners")
    assert settings.to_mapping()["alignment"] == {"method": {"class_path": "aligning.ByCorners", "init_args": {}}}


def test_a_stage_that_must_be_there_is_not_null(configuration: dict[str, object]) -> None:
    message = (
        "merging must be a class and its arguments, but is null. Remove it for anomalib_tiled.stages.merging.Mean."
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        Settings.from_mapping(configuration | {"merging": None})
