"""What SLURM says, without SLURM."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import KilledError, PlaceError, PreemptedError
from anomalib_tiled.workers.slurm_queue import Entry, SlurmError, SlurmQueue, check_installed, largest_array

Say = Callable[..., None]
SUBMITIT = "submitit"
EXIT_137 = 137 << 8


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Make commands of SLURM that say something."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def say(command: str, text: str, status: int = 0) -> None:
        program = tmp_path / command
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat << E\n{text}\nE\nexit {status}\n')
        program.chmod(0o755)

    return say


@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        (Entry("FAILED", "NonZeroExitCode", "n1", EXIT_137, 0), KilledError, "Raise workers.init_args.mem_gb"),
        (Entry("FAILED", "RaisedSignal:9", "n1", signal.SIGKILL, 0), KilledError, "memory is short"),
        (Entry("OUT_OF_MEMORY", "OutOfMemory", "n1", 0, 0), KilledError, "SLURM says OUT_OF_MEMORY"),
        (Entry("FAILED", "NonZeroExitCode", "n1", 3 << 8, 0), PlaceError, "FAILED (NonZeroExitCode, exit code 3)"),
        (Entry("NODE_FAIL", "NodeDown", "n1", 0, 0), PlaceError, "SLURM says NODE_FAIL (NodeDown)"),
        (Entry("PREEMPTED", "None", "n1", signal.SIGTERM, 0), PreemptedError, "SLURM says PREEMPTED (None)"),
        (Entry("TIMEOUT", "TimeLimit", "n1", 0, 0), PreemptedError, "SLURM says TIMEOUT (TimeLimit)"),
        (Entry("PENDING", "PartitionTimeLimit", "", 0, 0), PlaceError, "cannot start it as it was submitted"),
        (Entry("PENDING", "QOSMaxCpuPerJobLimit", "", 0, 0), PlaceError, "QOSMaxCpuPerJobLimit"),
        (Entry("PENDING", "launch failed requeued held", "", 0, 1), PlaceError, "launch failed requeued held"),
    ],
)
def test_why_a_job_has_ended(entry: Entry, kind: type[PlaceError], message: str) -> None:
    assert type(entry.error) is kind
    assert message in str(entry.error)


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("RUNNING", "None"),
        ("COMPLETING", "None"),
        ("SUSPENDED", "None"),
        ("PENDING", "Resources"),
        ("PENDING", "JobArrayTaskLimit"),
        ("PENDING", "QOSMaxJobsPerUserLimit"),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:n1"),
    ],
)
def test_a_job_may_still_do_something(state: str, reason: str) -> None:
    assert Entry(state, reason, "", 0, 0).error is None


def test_the_queue_is_read(say: Say, tmp_path: Path) -> None:
    say("squeue", "17_0|RUNNING|None|n1|0|2|\n17_1|PENDING|ReqNodeNotAvail, UnavailableNodes:n2||0||")
    assert SlurmQueue("tiles").entries() == {
        "17_0": Entry("RUNNING", "None", "n1", 0, 2),
        "17_1": Entry("PENDING", "ReqNodeNotAvail, UnavailableNodes:n2", "", 0, 0),
    }
    assert "--name=tiles" in (tmp_path / "arguments").read_text()


def test_jobs_are_cancelled_by_their_ids_or_all_of_one_name(say: Say, tmp_path: Path) -> None:
    say("scancel", "")
    SlurmQueue("tiles").cancel(["17_0", "17_3"])
    assert (tmp_path / "arguments").read_text() == "17_0 17_3\n"
    SlurmQueue("tiles").cancel()
    assert (tmp_path / "arguments").read_text().startswith("--name=tiles --user=")


def test_slurm_does_not_answer(say: Say) -> None:
    say("squeue", "Unable to contact slurm controller", status=1)
    with pytest.raises(SlurmError, match="squeue failed: Unable to contact slurm controller"):
        SlurmQueue("tiles").entries()


def test_how_large_an_array_may_be(say: Say) -> None:
    say("scontrol", "MailProg                = /bin/mail\nMaxArraySize            = 1001\nMaxBatchRequeue         = 5")
    assert largest_array() == 1001


def test_a_machine_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(SUBMITIT)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError) as raised:
        check_installed()
    assert str(raised.value) == (
        "SlurmWorkers need the commands of SLURM, but this machine has no sbatch, squeue, scancel, scontrol, srun. "
        "Run this command on a login node of the cluster, or choose other workers."
    )


def test_submitit_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, SUBMITIT, None)
    with pytest.raises(ConfigurationError) as raised:
        check_installed()
    assert str(raised.value) == (
        'SlurmWorkers need submitit, which is not installed: `pip install "anomalib-tiled[slurm]"`.'
    )
