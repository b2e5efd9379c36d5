"""A fit that is killed again and again, at any moment, ends with the numbers of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.system.checksums import Checksum

KILLS = 6
PATIENCE = 120.0
"""Seconds to wait for the next tile."""


def begin(run: Path, configuration: Path) -> subprocess.Popen[bytes]:
    """Start a fit, or go on with the run if there is one: what can be seen can be gone on with."""
    what = ["--ckpt_dir", str(run)] if run.is_dir() else ["--config", str(configuration)]
    command = [sys.executable, "-m", "anomalib_tiled", "fit", *what]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def done(runs: Path) -> int:
    return len(list(runs.glob("v*/tiles/r*_c*.json")))


def wait_for_tiles(program: subprocess.Popen[bytes], runs: Path, number: int) -> None:
    """Wait until so many tiles are trained, or the run folder is there if none is asked for."""
    began = time.monotonic()
    while program.poll() is None and (done(runs) < number or not list(runs.glob("v*"))):
        assert time.monotonic() < began + PATIENCE
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_nothing_is_lost(
    configure: Callable[..., Path],
    finished_run: Path,
    checkpoints: Callable[[Path], dict[str, Checksum]],
    tmp_path: Path,
    seed: int,
) -> None:
    moments = random.Random(seed)  # noqa: S311  # moments, not secrets
    two = {"class_path": "LocalWorkers", "init_args": {"processes": 2}}
    configuration = configure(workers=two)
    runs = tmp_path / "results" / "Padim" / "photographs"
    killed = 0
    for number in range(KILLS):
        program = begin(max(runs.glob("v*"), default=runs / "v0"), configuration)
        wait_for_tiles(program, runs, done(runs) + moments.randint(0, 1))
        time.sleep(moments.uniform(0, 0.3))
        if program.poll() is None:
            killed += 1
            (os.killpg if number % 2 else os.kill)(program.pid, signal.SIGKILL)
        program.wait()
    assert killed >= KILLS // 2, "fits were over before they were killed"
    run = max(runs.glob("v*"))
    program = begin(run, configuration)
    said, _ = program.communicate()
    assert program.returncode == 0, said.decode()
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    assert not [path for path in (run / "tiles").iterdir() if path.name.startswith(".")], "nothing half done is left"
    assert checkpoints(run) == checkpoints(finished_run)
