"""Which package a class comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import anomalib_tiled
from anomalib_tiled import origin
from anomalib_tiled.origin import Origin, code_of, origin_of, version_of


def test_a_class_comes_from_the_package_that_its_module_is_installed_by() -> None:
    assert origin_of("numpy.random.Generator") == Origin("numpy", np.__version__)


def test_an_editable_install_is_known_by_its_entry_point() -> None:
    assert origin_of("anomalib_tiled.stages.merging.Mean") == Origin("anomalib-tiled", anomalib_tiled.__version__)


def test_a_plugin_is_known_before_it_is_imported(install: Callable[..., None]) -> None:
    install("factory", "1 / 0")
    assert origin_of("factory.Median") == Origin("factory", "1.2")
    assert str(origin_of("factory.Median")) == "factory 1.2"


def test_a_module_that_lies_about_belongs_to_no_package() -> None:
    assert origin_of("no_such_module.Median") == Origin(None, None)
    assert str(Origin(None, None)) == "no installed package"


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert version_of("no-such-package") is None


def test_the_code_of_a_model_is_known_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_of("anomalib.models.Padim")
    assert any(line.startswith("torch ") for line in before)
    monkeypatch.setattr(origin, "version_of", lambda package: "0.1" if package == "torch" else "7")
    assert code_of("anomalib.models.Padim") != before


def test_the_code_of_a_model_without_package_is_that_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "of_no_package.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text("class Model: pass")
    before = code_of("of_no_package.Model")
    assert code_of("of_no_package.Model") == before
    module.write_text("class Model: ...")
    assert code_of("of_no_package.Model") != before
