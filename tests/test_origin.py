"""Which package a class comes from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import anomalib_tiled
from anomalib_tiled.origin import Origin, origin_of, version_of


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
