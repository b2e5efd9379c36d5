"""A run knows which package each of its classes came from."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import anomalib
import pytest

import anomalib_tiled
from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.runs.package_versions import changed_origins, origins_of

EMPTY = "MIDDLE = 1\n"
Install = Callable[..., None]


@pytest.fixture
def settings(configuration: dict[str, object]) -> Settings:
    return Settings.from_mapping(configuration)


def chosen(settings: Settings, **class_paths: str) -> Settings:
    """Give settings that name other stages."""
    return replace(
        settings, stages={**settings.stages, **{kind: ClassSpec(path) for kind, path in class_paths.items()}}
    )


def test_every_class_has_an_origin(settings: Settings) -> None:
    origins = origins_of(settings)
    ours = {"package": "anomalib-tiled", "version": anomalib_tiled.__version__}
    assert origins["merging"] == {"class_path": "anomalib_tiled.stages.merging.Gaussian", **ours}
    assert origins["model"] == {
        "class_path": "anomalib.models.Padim",
        "package": "anomalib",
        "version": anomalib.__version__,
    }
    assert list(origins) == [
        "model",
        "data",
        "assignment",
        "merging",
        "scoring",
        "normalization",
        "thresholding",
        "workers",
    ]
    assert changed_origins(origins) == ()


def test_another_version_is_a_note(settings: Settings, install: Install) -> None:
    install("factory", EMPTY)
    origins = origins_of(chosen(settings, scoring="factory.Median", merging="factory.Sum"))
    install("factory", EMPTY, "1.3")
    assert changed_origins(origins) == (
        (
            "The run was made with factory 1.2, but 1.3 is installed now; results may differ. "
            "To restore it: pip install factory==1.2"
        ),
    )


def test_a_package_that_is_gone_is_named_with_what_to_install(settings: Settings, install: Install) -> None:
    install("factory", EMPTY)
    origins = origins_of(chosen(settings, scoring="factory.Median"))
    origins["scoring"]["package"] = "gone"
    message = (
        "The scoring of this run, factory.Median, came from gone 1.2, which is not installed now. "
        "Install it: pip install gone==1.2"
    )
    with pytest.raises(RunFolderError, match=re.escape(message)):
        changed_origins(origins)


def test_a_module_of_no_package_must_still_be_found(settings: Settings) -> None:
    origins = origins_of(chosen(settings, scoring="no_such_module.Median"))
    assert origins["scoring"]["package"] is None
    with pytest.raises(RunFolderError, match=r"came from a module that Python does not find now. Add the folder"):
        changed_origins(origins)


@pytest.mark.parametrize(
    "change",
    [
        {"class_path": ".evil"},
        {"class_path": 5},
        {"package": ""},
        {"package": "a; rm"},
        {"version": "1\n2"},
    ],
)
def test_what_nobody_has_recorded_is_refused(settings: Settings, change: dict[str, object]) -> None:
    origins = {"model": {**origins_of(settings)["model"], **change}}
    with pytest.raises(RunFolderError, match=r"origins\.json was changed: model is .* Restore it, or delete it\."):
        changed_origins(origins)


def test_a_module_that_does_not_say_where_it_is_from_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typed_in", ModuleType("typed_in"))
    origins = {"scoring": {"class_path": "typed_in.Median", "package": None, "version": None}}
    assert changed_origins(origins) == ()
