"""Two commands on one run, as if on two machines: one follows the other once that is suspended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.system.checksums import Checksum

LEASE = 2.0

PROGRAM = f"""
import sys
from anomalib_tiled.cli.main import main
from anomalib_tiled.system import locks

locks.LEASE, locks.RENEWED = {LEASE}, 0.5
if __name__ == "__main__":
    machine = sys.argv[1]
    locks.machine_name = lambda: machine
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_machine_follows_another_one_that_is_suspended(
    configure: Callable[..., Path],
    finished_run: Path,
    checkpoints: Callable[[Path], dict[str, Checksum]],
    tmp_path: Path,
) -> None:
    (script := tmp_path / "on.py").write_text(PROGRAM)
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    configuration = configure(workers={"class_path": "LocalWorkers", "init_args": {"processes": 2}})

    def start(machine: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), machine, "fit", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first = start("one", "--config", str(configuration))
    try:
        while not list(run.glob("tiles/r*_c*.claim")) and first.poll() is None:
            time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
        time.sleep(LEASE)
        said, _ = start("two", "--ckpt_dir", str(run)).communicate()
        assert f"Run folder: {run}" in said
        first.send_signal(signal.SIGCONT)
        complaint, _ = first.communicate()
    finally:
        first.kill()
    assert (first.returncode, f"{run} was taken over by " in complaint) == (2, True), complaint
    assert (run / "calibration.json").read_bytes() == (finished_run / "calibration.json").read_bytes()
    assert checkpoints(run) == checkpoints(finished_run)
    names = {path.name.partition(".")[2] for path in (run / "tiles").iterdir() if not path.name.startswith("shared-")}
    assert names == {"ckpt", "json"}
    assert not (run / "fit.lock.json").exists()
