"""The example of a plugin: built, installed, used in whole commands, and taken away again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "anomalib_tiled_factory"
STAGES = (
    *("--seam_smoothing", "MedianSeams", "--seam_smoothing.reach", "1"),
    *("--thresholding.method", "MedianDeviation"),
)
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


@pytest.fixture
def run() -> Run:
    """Run Python in another process, with packages of a folder."""

    def start(*arguments: str, packages: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)]), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return start


@pytest.fixture
def installed(run: Run, tmp_path: Path) -> Path:
    """Folder that the wheel of the example is installed in."""
    source, target = tmp_path / "source", tmp_path / "packages"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    offline = ("--quiet", "--no-index", "--no-deps")
    wheels = str(tmp_path / "wheels")
    built = run("-m", "pip", "wheel", *offline, "--no-build-isolation", "--wheel-dir", wheels, str(source))
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    got = run("-m", "pip", "install", *offline, "--target", str(target), str(wheel))
    assert got.returncode == 0, got.stderr
    return target


def test_the_tests_of_the_example_pass(run: Run, installed: Path, tmp_path: Path) -> None:
    tests = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "source"), packages=installed)
    assert tests.returncode == 0, tests.stdout


def test_the_example_is_installed_used_and_missed(
    run: Run, installed: Path, configure: Callable[..., Path], tmp_path: Path
) -> None:
    command = ("-m", "anomalib_tiled")
    listed = run(*command, "plugins", packages=installed)
    stages = ("alignment      │ Silhouette", "seam_smoothing │ MedianSeams", "thresholding   │ MedianDeviation")
    for line in (*stages, "hook           │ run_tested"):
        assert any(line in row and "anomalib-tiled-factory 1.0.0" in row for row in listed.stdout.splitlines()), line

    journal = tmp_path / "journal.jsonl"
    trained = run(
        *(*command, "train", "--config", str(configure()), *STAGES), packages=installed, FACTORY_JOURNAL=str(journal)
    )
    assert trained.returncode == 0, trained.stderr
    folder = tmp_path / "results" / "Padim" / "photographs" / "v0"
    chosen = yaml.safe_load((folder / "config.yaml").read_text())
    smoothing = {"class_path": "anomalib_tiled_factory.seams.MedianSeams", "init_args": {"reach": 1}}
    assert chosen["seam_smoothing"] == smoothing
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["image_AUROC"] >= 0.95
    assert json.loads(journal.read_text())["metrics"] == metrics

    scores = (folder / "scores.csv").read_text()
    tested = run(*command, "test", "--ckpt_dir", str(folder), packages=installed)
    assert tested.returncode == 0, tested.stderr
    assert (folder / "scores.csv").read_text() == scores

    shutil.rmtree(installed)
    missed = run(*command, "test", "--ckpt_dir", str(folder))
    assert missed.returncode == 2
    assert "came from anomalib-tiled-factory 1.0.0, which is not installed now." in missed.stderr
    assert "Install it: pip install anomalib-tiled-factory==1.0.0" in missed.stderr
