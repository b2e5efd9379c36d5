"""Workers on a SLURM cluster: jobs of an array, each of which takes one task after the other."""

from __future__ import annotations

import logging
import math
import re
import secrets
from collections.abc import Mapping
from time import monotonic, sleep
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, NoPlaceError
from anomalib_tiled.runs.file_names import RunFiles
from anomalib_tiled.stages.workers import Conditions, Place, Workers
from anomalib_tiled.workers.mailbox import PULSE, Mailbox
from anomalib_tiled.workers.slurm_job import NOTICE, SlurmJob
from anomalib_tiled.workers.slurm_places import SECONDS_BETWEEN_PULSES, JobMonitor, SlurmPlace
from anomalib_tiled.workers.slurm_queue import SlurmError, SlurmQueue, check_installed, largest_array

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

LEAST_MINUTES = 15

NAME = "anomalib-tiled-"
"""Beginning of the names of jobs, and of the folder with their files."""

OWN_NAME = re.compile(f"{NAME}[0-9a-f]{{8}}")
"""A whole name; another one could name jobs of other programs."""

SECONDS_TO_END = 8.0
"""Time in which jobs that were cancelled are waited for."""


class SlurmWorkers(Workers):
    """Trains tiles in jobs of a SLURM cluster; each job takes one tile after the other.

    The run folder, the images and this environment must have the same paths on all nodes. A job array asks for
    nodes; its size follows from the number of tiles. Jobs that SLURM takes back lose only the tile in work.

    Args:
        partition: Partition of the jobs; null for the default of the cluster.
        cpus: Cores of a job, which a tile uses as threads.
        gpus: GPUs of a job; one is enough, as it trains one tile at a time.
        mem_gb: Memory of a job, in gigabytes.
        minutes: Time limit of a job, at least 15. A job takes no tile that would not fit.
        at_once: Most jobs that run at the same time.
        tiles_per_job: Tiles that a job trains before it ends; also the pieces of other work, such as predictions.
        account: Account that pays for the jobs.
        qos: Quality of service of the jobs.
        constraint: Features that nodes must have.
        extra: Other parameters of ``sbatch`` by their long names, such as ``{reservation: maintenance}``.
        setup: Lines of a shell script that run on the node before Python, such as ``module load cuda``.
    """

    elsewhere = True

    def __init__(  # noqa: PLR0913, PLR0917  # as many as users may have to set
        self,
        partition: str | None = None,
        cpus: int = 1,
        gpus: int = 0,
        mem_gb: float = 8,
        minutes: int = 60,
        at_once: int = 32,
        tiles_per_job: int = 8,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        extra: Mapping[str, str | int | bool] | None = None,
        setup: Sequence[str] = (),
    ) -> None:
        _check_least(1, cpus=cpus, at_once=at_once, tiles_per_job=tiles_per_job)
        _check_least(0, gpus=gpus)
        _check_least(0.1, mem_gb=mem_gb)
        _check_lines(partition=partition, account=account, qos=qos, constraint=constraint, extra=extra)
        if minutes < LEAST_MINUTES:
            message = (
                f"workers.init_args.minutes must be at least {LEAST_MINUTES}, but is {minutes}: SLURM asks a job to "
                f"end {NOTICE} seconds before its time is over, and submitit takes any interruption of a shorter job "
                "for its end."
            )
            raise ConfigurationError(message)
        self.cpus, self.minutes, self.at_once, self.tiles_per_job = cpus, minutes, at_once, tiles_per_job
        self._parameters = {
            "partition": partition,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus or None,
            "mem": f"{math.ceil(mem_gb * 1024)}M",
            "time": minutes,
            "signal_delay_s": NOTICE,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "additional_parameters": dict(extra or {}),
            "setup": list(setup),
            "srun_args": [f"--cpus-per-task={cpus}"],  # which srun has not taken from the job since SLURM 22.05
        }
        self._conditions = Conditions()
        self._monitor: JobMonitor | None = None
        self._excluded: set[str] = set()

    def adapt(self, conditions: Conditions) -> None:
        """Use as many threads for a tile as for those that are done."""
        self._conditions = conditions

    def start(self) -> None:
        """Check that jobs can be submitted from this machine, and cancel those of commands that were killed.

        Raises:
            ConfigurationError: submitit or SLURM is missing.
        """
        check_installed()
        if self._conditions.folder is not None:
            _end_earlier(self._conditions.folder.parent)

    def supply(self, wanted: int) -> Sequence[Place]:
        """Give jobs that SLURM has started again, and submit others if those that there are do not suffice.

        Raises:
            NoPlaceError: SLURM refuses the jobs, and there are no others; or it cannot be reached.
        """
        monitor = self._started_monitor()
        self._exclude(monitor.unfit_nodes, "a job failed there before it could start to work.")
        places = monitor.take_returned(wanted)
        try:
            return [*places, *self._submitted(monitor, monitor.lacking(wanted - len(places), self.tiles_per_job))]
        except SlurmError as error:
            if not monitor.has_places:
                raise NoPlaceError(str(error)) from error
            logger.warning("%s", error)
            return places

    def exclude(self, place: Place, reason: str) -> None:
        """Let no job start on the node of a place any more."""
        if isinstance(place, SlurmPlace) and place.node is not None:
            self._exclude({place.node}, reason)

    def close(self) -> None:
        """Cancel all jobs, and remove their files."""
        if self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            monitor.close()
            _end_jobs(monitor.queue)
            monitor.mailbox.remove()

    def _exclude(self, nodes: set[str], reason: str) -> None:
        if self._monitor is not None and (new := nodes - self._excluded):
            logger.info("Jobs keep away from %s: %s", ", ".join(sorted(new)), reason)
            self._excluded |= new
            self._monitor.keep_away(self._excluded)

    def _started_monitor(self) -> JobMonitor:
        """Give what keeps in touch with the jobs, once the jobs of earlier commands are gone."""
        if self._monitor is None:
            check_installed()
            folder = self._conditions.folder
            if folder is None:
                message = "SlurmWorkers need a run folder that the nodes of the cluster see."
                raise ConfigurationError(message)
            folder = folder.absolute()
            _end_earlier(folder.parent)
            name = f"{NAME}{secrets.token_hex(4)}"
            logs = RunFiles(folder.parent).log_file.parent
            self._monitor = JobMonitor(Mailbox(folder / name), SlurmQueue(name), logs)
        return self._monitor

    def _submitted(self, monitor: JobMonitor, number: int) -> list[SlurmPlace]:
        """Submit jobs, in as many arrays as SLURM needs."""
        places: list[SlurmPlace] = []
        most = largest_array() if number else 1
        sizes = [min(most, number - first) for first in range(0, number, most)]
        threads = min(self.cpus, self._conditions.threads or self.cpus)
        for size in sizes:
            parameters = {key: value for key, value in self._parameters.items() if value not in (None, [], {})}
            parameters["array_parallelism"] = max(1, self.at_once * size // number)
            if self._excluded:
                parameters["exclude"] = ",".join(sorted(self._excluded))
            job = SlurmJob(monitor.mailbox, self.tiles_per_job, self.minutes)
            try:
                ids = monitor.queue.submit(job, size, monitor.mailbox.folder / "jobs", parameters)
            except SlurmError as error:
                if not places:
                    raise
                logger.warning("%s", error)
                break
            logger.info("Submitted %d jobs, from %s to %s.", size, ids[0], ids[-1])
            places += monitor.admit([SlurmPlace(each, 0, threads, self.tiles_per_job, monitor) for each in ids])
        return places


def _check_least(least: float, **given: float) -> None:
    for name, value in given.items():
        if value < least:
            message = f"workers.init_args.{name} must be at least {least}, but is {value!r}."
            raise ConfigurationError(message)


def _check_lines(**given: object) -> None:
    """Refuse what would end a line of the script that SLURM runs, so that only ``setup`` is code."""
    for name, value in given.items():
        texts = [str(each) for pair in value.items() for each in pair] if isinstance(value, Mapping) else [str(value)]
        if any(len(text.splitlines()) > 1 for text in texts):
            message = f"workers.init_args.{name} must be on one line, but is {value!r}."
            raise ConfigurationError(message)


def _end_earlier(run: Path) -> None:
    """Cancel the jobs of commands that were killed, and remove their files.

    Args:
        run: The run folder, in which each command has a folder of its own.
    """
    found = [file.parent for file in run.glob(f"*/{NAME}*/{PULSE}")]
    earlier = {each: Mailbox(each).pulse() for each in found if OWN_NAME.fullmatch(each.name)}
    if earlier:
        sleep(SECONDS_BETWEEN_PULSES * 1.5)
    for folder, pulse in earlier.items():
        if Mailbox(folder).pulse() == pulse:  # nobody has renewed it
            logger.info("Cancelling the jobs of a command that was killed: %s.", folder.name)
            _end_jobs(SlurmQueue(folder.name))
            Mailbox(folder).remove()


def _end_jobs(queue: SlurmQueue) -> None:
    """Cancel all jobs of a command, and wait until they have ended."""
    try:
        queue.cancel()
        until = monotonic() + SECONDS_TO_END
        while any(entry.is_going_on for entry in queue.entries().values()) and monotonic() < until:
            sleep(0.3)
    except SlurmError as error:
        logger.warning("%s. Jobs that still run end themselves within a minute.", error)
