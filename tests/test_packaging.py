"""What an installation carries."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from hatchling import build
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[1]
START_UP_FILE = "anomalib_tiled.pth"


@pytest.fixture(params=["build_wheel", "build_editable"])
def wheel(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[zipfile.ZipFile]:
    monkeypatch.chdir(ROOT)
    name = getattr(build, request.param)(str(tmp_path))
    with zipfile.ZipFile(tmp_path / name) as archive:
        yield archive


@pytest.mark.slow
def test_every_kind_of_installation_has_the_start_up_file_and_the_commands(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert wheel.read(START_UP_FILE) == (ROOT / START_UP_FILE).read_bytes()
    points = ConfigParser()
    points.read_string(wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode())
    assert points["console_scripts"]["anomalib-tiled"] == "anomalib_tiled.cli.main:main"
    assert points["anomalib_tiled"]["builtin"] == "anomalib_tiled.plugins.builtin"


@pytest.mark.slow
@pytest.mark.parametrize("wheel", ["build_wheel"], indirect=True)
def test_a_wheel_has_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "anomalib_tiled/cli/autoload.py" in names
    report = ROOT / "anomalib_tiled" / "report"
    files = [path for path in report.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.suffix for path in files} >= {".js", ".css", ".jinja"}
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)
    assert sum(name.endswith("LICENSE") and ".dist-info/" in name for name in names) == 2
    assert {name.split("/")[0].split("-")[0] for name in names} == {"anomalib_tiled", START_UP_FILE}


@pytest.mark.slow
@pytest.mark.parametrize("wheel", ["build_editable"], indirect=True)
def test_the_start_up_file_is_read_after_the_path_of_an_editable_installation(wheel: zipfile.ZipFile) -> None:
    assert sorted(name for name in wheel.namelist() if name.endswith(".pth")) == ["_anomalib_tiled.pth", START_UP_FILE]


def test_developers_install_what_every_extra_has_so_that_no_test_of_it_is_skipped() -> None:
    extras = ProjectMetadata(str(ROOT), PluginManager()).core.optional_dependencies
    assert extras.keys() == {"onnx", "openvino", "int8", "ray", "slurm", "weights", "dev"}
    assert {*extras["onnx"], *extras["openvino"], *extras["int8"], *extras["slurm"]} <= set(extras["dev"])
