"""The jobs of a command as places, without SLURM: messages are written and the queue is made up."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError, NoPlaceError
from anomalib_tiled.stages.workers import Conditions, PlaceError, PreemptedError
from anomalib_tiled.workers import slurm, slurm_places
from anomalib_tiled.workers.mailbox import Answered, Ended, Mailbox, Message, Started
from anomalib_tiled.workers.slurm import SlurmWorkers
from anomalib_tiled.workers.slurm_places import JobMonitor, SlurmPlace
from anomalib_tiled.workers.slurm_queue import Entry, SlurmError

RUNNING = Entry("RUNNING", "None", "n1", 0, 0)


class Queue:
    """Stands in for SLURM."""

    def __init__(self, name: str = "") -> None:
        self.jobs: dict[str, Entry] = {}
        self.submitted: list[tuple[int, dict[str, object]]] = []
        self.cancelled: list[str] = []
        self.refuses = False
        self.away: set[str] = set()

    def entries(self) -> dict[str, Entry]:
        return dict(self.jobs)

    def cancel(self, jobs: tuple[str, ...] = ()) -> None:
        self.cancelled += jobs
        if not jobs:
            self.jobs.clear()

    def keep_away(self, arrays: set[str], nodes: set[str]) -> None:
        self.away |= nodes

    def submit(self, job: object, number: int, folder: Path, parameters: dict[str, object]) -> list[str]:
        if self.refuses:
            raise SlurmError("SLURM refuses the jobs: no")  # noqa: EM101, TRY003
        self.submitted.append((number, parameters))
        ids = [f"{len(self.submitted)}_{each}" for each in range(number)]
        self.jobs |= dict.fromkeys(ids, Entry("PENDING", "Priority", "", 0, 0))
        return ids


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_places, "SECONDS_BETWEEN_LOOKS", 0.005)
    monkeypatch.setattr(slurm_places, "SECONDS_BETWEEN_QUESTIONS", 0.02)


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def monitor(tmp_path: Path, queue: Queue) -> Iterator[JobMonitor]:
    monitor = JobMonitor(Mailbox(tmp_path / "jobs"), queue, tmp_path / "logs")
    yield monitor
    monitor.close()


@pytest.fixture
def place(monitor: JobMonitor, queue: Queue) -> SlurmPlace:
    return admit(monitor, queue)


def admit(monitor: JobMonitor, queue: Queue, job: str = "17_0") -> SlurmPlace:
    queue.jobs[job] = RUNNING
    [place] = monitor.admit([SlurmPlace(job, 0, 1, 2, monitor)])
    return place


def tell(monitor: JobMonitor, *messages: Message, address: str = "17_0.0") -> None:
    for message in messages:
        if isinstance(message, Started):
            monitor.mailbox.open_for(address)
        monitor.mailbox.send(address, time.monotonic_ns(), message)


def error(future: Future[object], kind: type[PlaceError]) -> str:
    error = future.exception(timeout=10)
    assert type(error) is kind, error
    return str(error)


def until(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + 10
        time.sleep(0.005)


def test_a_task_is_sent_when_the_job_has_started(monitor: JobMonitor, place: SlurmPlace) -> None:
    future = place.submit(partial(int, "5"))
    assert not [*monitor.mailbox.to_jobs.iterdir()]
    tell(monitor, Started("n1"))
    until((monitor.mailbox.to_jobs / "17_0.0" / "0.task").exists)
    assert pickle.loads(monitor.mailbox.take("17_0.0", 0) or b"")() == 5  # noqa: S301
    assert place.name == "job 17_0 on n1"
    tell(monitor, Answered(5))
    assert future.result(timeout=10) == 5
    future = place.submit(partial(int, "6"))
    assert monitor.mailbox.take("17_0.0", 1)


def test_a_job_may_start_before_the_command_knows_it(monitor: JobMonitor, queue: Queue) -> None:
    tell(monitor, Started("n1"))
    until(lambda: not [*monitor.mailbox.from_jobs.iterdir()])
    assert admit(monitor, queue).node == "n1"


def test_after_its_last_answer_a_job_takes_nothing(monitor: JobMonitor, place: SlurmPlace) -> None:
    future = place.submit(os.getpid)
    tell(monitor, Started("n1"), Answered(1, is_last=True))
    assert future.result(timeout=10) == 1
    assert place.is_over
    assert not monitor.has_places


def test_a_job_that_slurm_starts_again_is_a_place_again(monitor: JobMonitor, place: SlurmPlace) -> None:
    future = place.submit(os.getpid)
    tell(monitor, Started("n1"), Ended(PreemptedError("taken back")))
    assert error(future, PreemptedError) == "taken back"
    assert not monitor.take_returned(5)
    tell(monitor, Started("n2"), address="17_0.1")
    until(lambda: monitor.has_places)
    [again] = monitor.take_returned(5)
    assert (again.address, again.name) == ("17_0.1", "job 17_0 on n2")
    future = again.submit(partial(int, "7"))
    tell(monitor, Answered(7), address="17_0.1")
    assert future.result(timeout=10) == 7


def test_a_job_that_slurm_started_again_without_a_word_has_lost_its_task(
    monitor: JobMonitor, place: SlurmPlace
) -> None:
    future = place.submit(os.getpid)
    tell(monitor, Started("n1"))
    tell(monitor, Started("n2"), address="17_0.1")
    assert "SLURM has requeued it" in error(future, PreemptedError)
    until(lambda: monitor.take_returned(1))


def test_a_job_that_slurm_started_again_and_nobody_needs_is_cancelled(
    monitor: JobMonitor, place: SlurmPlace, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_places, "SECONDS_TO_BE_NEEDED", 0.1)
    tell(monitor, Started("n1"), Ended(PreemptedError("taken back")))
    tell(monitor, Started("n2"), address="17_0.1")
    until(lambda: queue.cancelled == ["17_0"])
    assert not monitor.take_returned(1)


def test_for_a_job_that_waits_again_others_are_submitted(monitor: JobMonitor, place: SlurmPlace) -> None:
    assert monitor.lacking(1, 2) == 0
    tell(monitor, Started("n1"), Ended(PreemptedError("taken back")))
    until(lambda: not monitor.has_places)
    assert monitor.lacking(2, 2) == 1


def test_a_job_that_slurm_requeued_without_a_word_is_noticed(
    monitor: JobMonitor, place: SlurmPlace, queue: Queue
) -> None:
    future = place.submit(os.getpid)
    tell(monitor, Started("n1"))
    queue.jobs["17_0"] = Entry("PENDING", "BeginTime", "", 0, 1)
    assert "SLURM has requeued it" in error(future, PreemptedError)


def test_a_job_that_ended_without_a_word_is_noticed(monitor: JobMonitor, place: SlurmPlace, queue: Queue) -> None:
    future = place.submit(os.getpid)
    tell(monitor, Started("n1"))
    queue.jobs["17_0"] = Entry("NODE_FAIL", "NodeDown", "n1", 0, 0)
    assert error(future, PlaceError) == "SLURM says NODE_FAIL (NodeDown)"


def test_slurm_does_not_know_a_job(monitor: JobMonitor, place: SlurmPlace, queue: Queue) -> None:
    queue.jobs.clear()
    assert error(place.submit(os.getpid), PreemptedError) == "SLURM does not know it any more"


def test_a_job_that_can_never_start_is_cancelled(monitor: JobMonitor, place: SlurmPlace, queue: Queue) -> None:
    queue.jobs["17_0"] = Entry("PENDING", "BadConstraints", "", 0, 0)
    assert "BadConstraints" in error(place.submit(os.getpid), PlaceError)
    until(lambda: queue.cancelled == ["17_0"])


def test_the_log_of_a_job_that_did_not_start_is_shown_and_kept(
    monitor: JobMonitor, place: SlurmPlace, queue: Queue, tmp_path: Path
) -> None:
    folder = monitor.mailbox.folder / "jobs"
    folder.mkdir()
    (folder / "17_0_0_log.out").write_text("1\n2\n3\n4\n5\n\nNo module named torch\n")
    queue.jobs["17_0"] = Entry("FAILED", "NonZeroExitCode", "n1", 1 << 8, 0)
    message = error(place.submit(os.getpid), PlaceError)
    log = tmp_path / "logs" / "job_17_0.log"
    assert message.splitlines() == [
        f"SLURM says FAILED (NonZeroExitCode, exit code 1). It ended before it could start to work; the end of {log}:",
        "2",
        "3",
        "4",
        "5",
        "No module named torch",
    ]
    assert log.is_file()

    (folder / "17_1_0_log.out").write_text("0\n2\n3\n4\n5\nNo module named torch\n")
    other = admit(monitor, queue, "17_1")
    queue.jobs["17_1"] = queue.jobs["17_0"]
    assert error(other.submit(os.getpid), PlaceError) == message, "one reason for both"
    assert [*log.parent.iterdir()] == [log]


def test_slurm_may_be_silent_for_a_while(
    monitor: JobMonitor,
    place: SlurmPlace,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def silent() -> dict[str, Entry]:
        raise SlurmError("squeue failed: Unable to contact slurm controller")  # noqa: EM101, TRY003

    future = place.submit(os.getpid)
    with monkeypatch.context() as patch:
        patch.setattr(queue, "entries", silent)
        until(lambda: "Unable to contact slurm controller. The command asks again." in caplog.text)
    tell(monitor, Started("n1"), Answered(3))
    assert future.result(timeout=10) == 3


def test_every_place_reports_that_the_folder_is_gone(monitor: JobMonitor, place: SlurmPlace) -> None:
    future = place.submit(os.getpid)
    monitor.mailbox.remove()
    assert "the connection to it is lost: FileNotFoundError" in error(future, PlaceError)


def test_a_place_that_is_ended_is_cancelled(monitor: JobMonitor, place: SlurmPlace, queue: Queue) -> None:
    place.submit(os.getpid)
    place.end()
    place.end()
    until(lambda: queue.cancelled == ["17_0"])
    assert not monitor.has_places


@pytest.fixture
def workers(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SlurmWorkers]]:
    """Make workers on the made-up queue, whose arrays have at most four jobs."""
    monkeypatch.setattr(slurm, "SlurmQueue", lambda name: queue)
    monkeypatch.setattr(slurm, "check_installed", lambda: None)
    monkeypatch.setattr(slurm, "largest_array", lambda: 4)
    made: list[SlurmWorkers] = []

    def make(folder: Path | None = tmp_path / "run" / "workers", **arguments: object) -> SlurmWorkers:
        made.append(workers := SlurmWorkers(**arguments))
        workers.adapt(Conditions(folder=folder))
        return workers

    yield make
    for each in made:
        each.close()


def test_as_many_jobs_as_the_tiles_need(workers: Callable[..., SlurmWorkers], queue: Queue) -> None:
    many = workers(tiles_per_job=3)
    assert len(many.supply(10)) == 4
    assert not many.supply(10 - 4), "the jobs that there are have room for twelve tiles"
    assert len(many.supply(20 - 4)) == 3
    assert [number for number, _ in queue.submitted] == [4, 3]


def test_arrays_share_the_jobs_that_may_run_at_once(workers: Callable[..., SlurmWorkers], queue: Queue) -> None:
    assert len(workers(tiles_per_job=1, at_once=5).supply(10)) == 10
    assert [(number, given["array_parallelism"]) for number, given in queue.submitted] == [(4, 2), (4, 2), (2, 1)]


def test_what_sbatch_is_given(workers: Callable[..., SlurmWorkers], queue: Queue) -> None:
    workers(
        partition="gpu", cpus=4, gpus=1, mem_gb=2.5, minutes=30, extra={"reservation": "lab"}, setup=["module load x"]
    ).supply(1)
    [(_, given)] = queue.submitted
    assert given == {
        "partition": "gpu",
        "cpus_per_task": 4,
        "gpus_per_node": 1,
        "mem": "2560M",
        "time": 30,
        "signal_delay_s": 90,
        "additional_parameters": {"reservation": "lab"},
        "setup": ["module load x"],
        "srun_args": ["--cpus-per-task=4"],
        "array_parallelism": 32,
    }


def test_tiles_keep_the_threads_of_those_that_are_done(workers: Callable[..., SlurmWorkers], tmp_path: Path) -> None:
    some = workers(cpus=4)
    assert some.supply(1)[0].threads == 4
    some.adapt(Conditions(threads=2, folder=tmp_path))
    assert some.supply(9)[0].threads == 2


def test_jobs_keep_away_from_excluded_nodes(workers: Callable[..., SlurmWorkers], queue: Queue) -> None:
    some = workers()
    [place] = some.supply(1)
    place.node = "n3"
    some.exclude(place, "It has no GPU.")
    assert queue.away == {"n3"}
    place.end()
    some.supply(1)
    assert queue.submitted[-1][1]["exclude"] == "n3"


def test_jobs_keep_away_from_a_node_on_which_none_starts(workers: Callable[..., SlurmWorkers], queue: Queue) -> None:
    some = workers(tiles_per_job=1)
    first, second, _ = some.supply(3)
    monitor = some._monitor
    assert monitor is not None
    failed = Entry("FAILED", "NonZeroExitCode", "bad", 1 << 8, 0)
    queue.jobs[first.job] = failed
    error(first.submit(os.getpid), PlaceError)
    some.supply(1)
    assert not queue.away, "perhaps none can start anywhere"
    tell(monitor, Started("good"), address=second.address)
    until(lambda: second.node)
    some.supply(1)
    assert queue.away == {"bad"}


def test_jobs_are_refused(workers: Callable[..., SlurmWorkers], queue: Queue) -> None:
    some = workers(tiles_per_job=1)
    queue.refuses = True
    with pytest.raises(NoPlaceError, match="SLURM refuses the jobs: no"):
        some.supply(1)
    queue.refuses = False
    some.supply(1)
    queue.refuses = True
    assert not some.supply(1), "the job that there is can still work"


def test_a_run_folder_is_needed(workers: Callable[..., SlurmWorkers]) -> None:
    with pytest.raises(ConfigurationError, match=r"SlurmWorkers need a run folder that the nodes"):
        workers(folder=None).supply(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpus": 0}, "workers.init_args.cpus must be at least 1, but is 0."),
        ({"gpus": -1}, "workers.init_args.gpus must be at least 0, but is -1."),
        ({"mem_gb": 0}, "workers.init_args.mem_gb must be at least 0.1, but is 0."),
        ({"at_once": 0}, "workers.init_args.at_once must be at least 1, but is 0."),
        ({"tiles_per_job": 0}, "workers.init_args.tiles_per_job must be at least 1, but is 0."),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        SlurmWorkers(**arguments)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "arguments", [{"partition": "all\ntouch x"}, {"extra": {"comment": "a\rb"}}, {"extra": {"x\ny": 1}}]
)
def test_only_setup_is_code(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^workers\.init_args\.\w+ must be on one line, but is "):
        SlurmWorkers(**arguments)


def test_a_job_needs_time_to_start_and_to_end() -> None:
    with pytest.raises(ConfigurationError) as raised:
        SlurmWorkers(minutes=10)
    assert str(raised.value) == (
        "workers.init_args.minutes must be at least 15, but is 10: SLURM asks a job to end 90 seconds before its time "
        "is over, and submitit takes any interruption of a shorter job for its end."
    )
