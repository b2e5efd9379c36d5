"""Asks SLURM about jobs, submits and cancels them, by its commands; none of them needs its accounting."""

from __future__ import annotations

import getpass
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.workers import KilledError, PlaceError, PreemptedError
from anomalib_tiled.system.fork_server import KNOWS_SAFE_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

PATIENCE = 20
"""Seconds that a command of SLURM may take; a busy controller makes it wait."""

CONFIGURATION = "SLURM_CONF"
"""Environment variable by which the commands of SLURM find their cluster."""

FIELDS = ("JobArrayID", "State", "Reason", "NodeList", "exit_code", "RestartCnt")

FAILED = frozenset({"FAILED", "COMPLETED", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"})
"""States of a job that has ended by itself, or with its node."""

TAKEN_BACK = frozenset({"PREEMPTED", "TIMEOUT", "DEADLINE", "CANCELLED", "REVOKED"})
"""States of a job that SLURM has ended."""

SIGKILL = 9

KILLED_BY_SHELL = 128 + SIGKILL
"""Exit code of a script whose program was killed."""

NEVER = re.compile(
    r"BadConstraints|PartitionTimeLimit|AccountNotAllowed|QOSNotAllowed|Invalid|NeverSatisfied"
    r"|PerJob|PerNode|JobHoldMaxRequeue|launch.failed.requeued.held"
)
"""Reasons for which a job would wait for ever, unless a user or an administrator acts."""


@dataclass(frozen=True)
class Entry:
    """What SLURM says about a job.

    Args:
        state: Its state, such as ``PENDING``.
        reason: Why it waits, or why it failed.
        node: Where it runs, or ran; "" before that.
        status: How it ended, as `os.wait` reports it.
        restarts: How often it was requeued.
    """

    state: str
    reason: str
    node: str
    status: int
    restarts: int

    @property
    def is_going_on(self) -> bool:
        """Whether the job may still do something."""
        return self.state not in FAILED | TAKEN_BACK

    @property
    def error(self) -> PlaceError | None:
        """Why the job has ended, or can never start; ``None`` while it may do something."""
        if self.state == "PENDING" and NEVER.search(self.reason):
            return PlaceError(f"SLURM cannot start it as it was submitted, and says: {self.reason}")
        if self.is_going_on:
            return None
        if self.state == "OUT_OF_MEMORY" or self._was_killed:
            message = "it was killed, as the system does when memory is short. Raise workers.init_args.mem_gb"
            return KilledError(f"{message} (SLURM says {self.state})")
        kind = PreemptedError if self.state in TAKEN_BACK else PlaceError
        exit_code = f", exit code {self.status >> 8}" if self.status >> 8 else ""
        return kind(f"SLURM says {self.state} ({self.reason}{exit_code})")

    @property
    def _was_killed(self) -> bool:
        killed = self.status >> 8 == KILLED_BY_SHELL or self.status & 127 == SIGKILL
        return self.state == "FAILED" and killed


class SlurmQueue:
    """The jobs of one command, which have a name of their own.

    Args:
        name: Name of the jobs.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def entries(self) -> dict[str, Entry]:
        """Give what SLURM knows of the jobs, by their ids, those that have ended some minutes ago included.

        Raises:
            SlurmError: SLURM does not answer.
        """
        shown = ",".join(f"{field}:|" for field in FIELDS)
        command = ("squeue", "--noheader", "--array", "--states=all", f"--name={self.name}", f"--Format={shown}")
        return dict(map(_entry, _ask(*command).splitlines()))

    def cancel(self, jobs: Sequence[str] = ()) -> None:
        """Cancel some jobs, or all.

        Raises:
            SlurmError: SLURM does not answer.
        """
        _ask("scancel", *(jobs or (f"--name={self.name}", f"--user={getpass.getuser()}")))

    def keep_away(self, arrays: Iterable[str], nodes: Iterable[str]) -> None:
        """Let jobs that have not started yet never start on some nodes.

        Args:
            arrays: Ids of the arrays.
            nodes: All nodes that they must keep away from.
        """
        for array in arrays:
            try:
                _ask("scontrol", "update", f"JobId={array}", f"ExcNodeList={','.join(sorted(nodes))}")
            except SlurmError as error:  # also if only some of an array still wait
                logger.info("%s", error)

    def submit(
        self, job: Callable[[], object], number: int, folder: Path, parameters: Mapping[str, object]
    ) -> list[str]:
        """Submit a job array.

        Args:
            job: What each job calls.
            number: Number of jobs, at most `largest_array`.
            folder: Folder for scripts and logs, on the nodes too.
            parameters: Parameters of submitit.

        Returns:
            Their ids.

        Raises:
            SlurmError: SLURM refuses them.
        """
        from submitit import SlurmExecutor  # an extra of this package
        from submitit.core.utils import FailedJobError

        safe = " -P" if KNOWS_SAFE_PATH else ""  # else a random.py of the working folder would be imported
        python = f"{shlex.quote(sys.executable)}{safe}"
        executor = SlurmExecutor(folder=folder, python=python)
        executor.update_parameters(job_name=self.name, stderr_to_stdout=True, **parameters)
        try:
            with _outside_of_jobs():
                return [each.job_id for each in executor.submit_array([job] * number)]
        except FailedJobError as error:
            message = f"SLURM refuses the jobs: {_in_one_line(str(error))}"
            raise SlurmError(message) from error


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Let jobs inherit nothing of a job in which this command runs, such as how often that was requeued."""
    from submitit.helpers import clean_env

    before = os.environ.get(CONFIGURATION)
    with clean_env():
        if before is not None:
            os.environ[CONFIGURATION] = before
        yield


class SlurmError(RuntimeError):
    """A command of SLURM failed; the message has its text."""


def check_installed() -> None:
    """Check that jobs can be submitted here.

    Raises:
        ConfigurationError: submitit or SLURM is missing.
    """
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        message = 'SlurmWorkers need submitit, which is not installed: `pip install "anomalib-tiled[slurm]"`.'
        raise ConfigurationError(message) from error
    lacking = [name for name in ("sbatch", "squeue", "scancel", "scontrol", "srun") if shutil.which(name) is None]
    if lacking:
        message = (
            f"SlurmWorkers need the commands of SLURM, but this machine has no {', '.join(lacking)}. "
            "Run this command on a login node of the cluster, or choose other workers."
        )
        raise ConfigurationError(message)


def largest_array() -> int:
    """Give the number of jobs that an array may have.

    Raises:
        SlurmError: SLURM does not answer.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"), re.MULTILINE)
    return max(1, int(found[1])) if found else 1


def _entry(line: str) -> tuple[str, Entry]:
    job, state, reason, node, status, restarts, *_ = (field.strip() for field in line.split("|"))
    return job, Entry(state, reason, node, int(status or 0), int(restarts or 0))


def _ask(*command: str) -> str:
    """Run a command of SLURM, which neither Ctrl-C nor a busy controller may hold up.

    Raises:
        SlurmError: It fails, or takes too long.
    """
    try:
        return subprocess.run(  # noqa: S603
            command, check=True, capture_output=True, text=True, timeout=PATIENCE, start_new_session=True
        ).stdout
    except subprocess.CalledProcessError as error:
        message = f"{command[0]} failed: {_in_one_line(error.stderr + error.stdout)}"
        raise SlurmError(message) from error
    except subprocess.TimeoutExpired as error:
        message = f"{command[0]} gave no answer within {PATIENCE} seconds"
        raise SlurmError(message) from error


def _in_one_line(text: str) -> str:
    """Join the lines that a command has printed."""
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
