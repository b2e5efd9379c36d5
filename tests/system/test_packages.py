"""Which package a class comes from."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import anomalib_tiled
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.system import packages as origin
from anomalib_tiled.system.packages import Origin, code_of, is_dotted, origin_of, refuse_code_in, version_of


def test_a_class_comes_from_the_package_that_its_module_is_installed_by() -> None:
    assert origin_of("numpy.random.Generator") == Origin("numpy", np.__version__)
    assert origin_of("yaml.SafeLoader") == Origin("PyYAML", yaml.__version__), "the names differ"


def test_an_editable_install_is_known_by_its_entry_point() -> None:
    assert origin_of("anomalib_tiled.stages.merging.Mean") == Origin("anomalib-tiled", anomalib_tiled.__version__)


def test_a_plugin_is_known_before_it_is_imported(install: Callable[..., None]) -> None:
    install("factory", "1 / 0")
    assert origin_of("factory.Median") == Origin("factory", "1.2")
    assert str(origin_of("factory.Median")) == "factory 1.2"


@pytest.fixture
def no_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through the files of all packages takes seconds."""
    monkeypatch.setattr(origin, "_packages_with_modules", lambda path: {})


def test_a_module_that_lies_about_belongs_to_no_package(no_other_packages: None) -> None:
    assert origin_of("no_such_module.Median") == Origin(None, None)
    assert str(Origin(None, None)) == "no installed package"
    assert version_of("no-such-package") is None


def test_the_code_of_a_model_is_known_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_of("anomalib.models.Padim")
    assert any(line.startswith("torch ") for line in before)
    monkeypatch.setattr(origin, "version_of", lambda package: "0.1" if package == "torch" else "7")
    assert code_of("anomalib.models.Padim") != before


def test_the_code_of_a_model_without_package_is_that_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_other_packages: None
) -> None:
    module = tmp_path / "of_no_package.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    module.write_text("class Model: pass")
    before = code_of("of_no_package.Model")
    assert code_of("of_no_package.Model") == before
    module.write_text("class Model: ...")
    assert code_of("of_no_package.Model") != before


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder, where runs are by default, with modules in it and links in both directions."""
    folder = tmp_path / "results" / "Padim" / "parts" / "v0"
    folder.mkdir(parents=True)
    (folder.parent / "latest").symlink_to("v0")
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "elsewhere.py").write_text("class Evil: pass\n")
    (folder / "away.py").symlink_to(tmp_path / "elsewhere.py")
    for name in ("evil.py", "ev-il.py", "1x.py"):
        (folder / name).write_text("1 / 0")
    (folder / "more.yaml").write_text("class_path: evil.Evil\n")
    return folder


FROM_ABOVE = [
    "results.Padim.parts.v0.evil.Evil",
    "results.Padim.parts.latest.ev-il.Evil",
    "results.Padim.parts.v0.evil.\0.Evil",
    "linked.evil.Evil",
]
FROM_WITHIN = ["evil.Evil", "1x.Evil", "evil.Evil ", "away.Evil", "more.yaml"]
NESTED: list[Callable[[str], object]] = [
    lambda text: {"metrics": {"image": [text]}},
    lambda text: [("a", {text})],
    lambda text: {"model": {"init_args": {"pre_processor": f"{{'class_path': '{text}'}}"}}},
    lambda text: {"model": f"{{day: 2001-99-99, class_path: {text}}}"},  # which the reader of YAML itself refuses
    lambda text: {text: None},
]


@pytest.mark.parametrize("text", [*FROM_ABOVE, *FROM_WITHIN])
def test_what_leads_into_the_folder_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    place = run if text in FROM_WITHIN else run.parents[3]
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    with pytest.raises(ConfigurationError, match=r"must come from installed packages, but .* is in the run folder"):
        refuse_code_in(run, text)
    assert not {"evil", "ev-il", "results"} & sys.modules.keys(), "nothing is imported to find that out"


def test_the_working_directory_counts_if_python_looks_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    refuse_code_in(run, "evil.Evil")
    monkeypatch.syspath_prepend("")
    with pytest.raises(ConfigurationError, match=r"but evil\.Evil is"):
        refuse_code_in(run, "evil.Evil")


@pytest.mark.parametrize("nested", NESTED)
def test_it_is_found_wherever_it_stands(
    run: Path, monkeypatch: pytest.MonkeyPatch, nested: Callable[[str], object]
) -> None:
    monkeypatch.syspath_prepend(run)
    with pytest.raises(ConfigurationError, match="is in the run folder"):
        refuse_code_in(run, nested("evil.Evil"))


def test_a_package_that_takes_in_folders_of_its_name(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(run)
    refuse_code_in(run, "torchmetrics.more.Evil")
    (run / "torchmetrics").mkdir()
    with pytest.raises(ConfigurationError, match=r"torchmetrics\.more\.Evil is"):
        refuse_code_in(run, "torchmetrics.more.Evil")


@pytest.mark.parametrize(
    "value",
    [
        *("anomalib.models.Padim", "elsewhere.Evil", "no_such.Evil", "images", "evil", ".evil.Evil", "a..b", ""),
        *(1.5, "{", "\0.x", "__main__.Evil", "x" * 5000 + ".y", "./v0.old/good", "{1: [.2]}"),
    ],
)
def test_everything_else_is_left_alone(run: Path, monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    monkeypatch.syspath_prepend(run)
    monkeypatch.syspath_prepend(run.parents[3])
    monkeypatch.chdir(run)
    given = {"key": [value, str(run.parent / "v0.old" / "good")]}
    before = copy.deepcopy(given)
    refuse_code_in(run, given)
    assert given == before
    assert not {"elsewhere", "evil", "no_such"} & sys.modules.keys(), "nothing is imported to find that out"


def test_a_configuration_that_holds_itself_again_and_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(run)
    parts: list[object] = ["evil.Evil"]
    for _ in range(100):
        parts = [parts, parts]
    parts.append(parts)
    with pytest.raises(ConfigurationError, match="is in the run folder"):
        refuse_code_in(run, parts)


def test_what_may_be_the_path_of_a_class() -> None:
    assert is_dotted("a.b_1.C")
    assert not any(map(is_dotted, ("ev-il.X", "1x.X", ".a", "")))
