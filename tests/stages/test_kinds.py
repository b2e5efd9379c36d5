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
from {__name__} import Illuminator


class ByCorners(Illuminator):
    '''Measures the corners.'''

    def __init__(self, corners: int = 4) -> None:
        self.corners = corners

    def even(self):
        pass


@hookimpl
def register_illuminators():
    return [ByCorners]
"""
REQUIRED = ["--model", "Padim", "--data", "DemoBoards", "--tiling.tile_size", "256"]

Install = Callable[..., None]


class Illuminator(ABC):
    """Evens out the light."""

    @abstractmethod
    def even(self) -> None:
        """Even out an image."""


ILLUMINATION = StageKind(
    name="illumination",
    contract_path=f"{__name__}.Illuminator",
    hook="register_illuminators",
    setting="illumination",
    purpose="Evens out the light; or null.",
    default=None,
    optional=True,
)


@pytest.fixture
def plugin(install: Install, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of a kind that the package does not know by itself."""
    monkeypatch.setattr(kinds, "STAGE_KINDS", (*STAGE_KINDS, ILLUMINATION))
    install("lighting", PLUGIN)
    (choice,) = find_plugins().of("illumination")
    return choice.implementation


def test_it_is_listed(plugin: type, capsys: pytest.CaptureFixture[str]) -> None:
    del plugin
    assert main(["plugins"]) == 0
    assert re.search(r"illumination +│ ByCorners .* Measures the corners\.", capsys.readouterr().out)


def test_the_commands_take_it(plugin: type, capsys: pytest.CaptureFixture[str]) -> None:
    del plugin
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "Evens out the light; or null." in capsys.readouterr().out
    given = ["--illumination", "ByCorners", "--illumination.corners", "3"]
    with pytest.raises(SystemExit):
        main(["fit", *REQUIRED, *given, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["illumination"] == {"class_path": "lighting.ByCorners", "init_args": {"corners": 3}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "ByCornes",
            "There is no 'ByCornes' for illumination. Did you mean 'ByCorners'? Allowed: ByCorners. Or give",
        ),
        ("anomalib_tiled.stages.scoring.Max", "Import path does not correspond to a subclass of Illuminator"),
    ],
)
def test_another_class_is_refused(plugin: type, capsys: pytest.CaptureFixture[str], given: str, message: str) -> None:
    del plugin
    assert main(["fit", *REQUIRED, "--illumination", given]) == 2
    assert message in capsys.readouterr().err


def test_a_plugin_must_keep_the_contract(plugin: type, install: Install) -> None:
    del plugin
    install("lacking", PLUGIN.replace("def even(", "def oven("))
    (broken,) = find_plugins().broken
    assert (
        broken.error
        == "TypeError: ByCorners of register_illuminators must implement every method of Illuminator, but lacks even"
    )


def test_messages_name_it(plugin: type) -> None:
    assert name_of(plugin()) == "illumination ByCorners (lighting.ByCorners of lighting 1.2)"


def test_a_run_keeps_it(plugin: type, configuration: dict[str, object]) -> None:
    spec = ClassSpec("lighting.ByCorners", {"corners": 3})
    before = Settings.from_mapping(configuration)  # of a run that was made when there was no such kind
    after = replace(before, stages={**before.stages, "illumination": spec})
    assert Settings.from_mapping(yaml.safe_load(after.to_yaml())) == after
    assert isinstance(after.stages["illumination"].build(Illuminator), plugin)
    assert origins_of(after)["illumination"] == {
        "class_path": "lighting.ByCorners",
        "package": "lighting",
        "version": "1.2",
    }


def test_older_runs_stay_as_they_are(configuration: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    before = Settings.from_mapping(configuration)
    expected = before.training_hash, before.calibration_hash
    monkeypatch.setattr(kinds, "STAGE_KINDS", (*STAGE_KINDS, ILLUMINATION))
    after = Settings.from_mapping(configuration)
    assert (after.training_hash, after.calibration_hash) == expected
    chosen = replace(after, stages={**after.stages, "illumination": ClassSpec("lighting.ByCorners")})
    assert chosen.training_hash == expected[0]
    assert chosen.calibration_hash != expected[1]


def test_a_kind_in_a_group_has_settings_beside_it(
    configuration: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "STAGE_KINDS", (*STAGE_KINDS, replace(ILLUMINATION, setting="illumination.method")))
    given = {"illumination": {"method": {"class_path": "lighting.ByCorners"}}}
    settings = Settings.from_mapping(configuration | given)
    assert settings.stages["illumination"] == ClassSpec("lighting.ByCorners")
    assert settings.to_mapping()["illumination"] == {"method": {"class_path": "lighting.ByCorners", "init_args": {}}}


def test_a_stage_that_must_be_there_is_not_null(configuration: dict[str, object]) -> None:
    message = (
        "merging must be a class and its arguments, but is null. Remove it for anomalib_tiled.stages.merging.Mean."
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(message)}$"):
        Settings.from_mapping(configuration | {"merging": None})
