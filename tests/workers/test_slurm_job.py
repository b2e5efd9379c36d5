"""A job without SLURM, in the main thread of the tests, as it listens to signals."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from anomalib_tiled.stages.workers import PlaceError, PreemptedError
from anomalib_tiled.workers import slurm_job
from anomalib_tiled.workers.mailbox import Answered, Ended, Mailbox, Message, Started
from anomalib_tiled.workers.slurm_job import SlurmJob, own_address

JOB = "17_4.1"
TERMINATE = partial(os.kill, os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look as if SLURM had started this process, and survive what ends a job."""
    variables = {"JOB_ID": "23", "ARRAY_JOB_ID": "17", "ARRAY_TASK_ID": "4", "RESTART_COUNT": "1", "NTASKS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(slurm_job, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(slurm_job, "SECONDS_TO_LEAVE", 300)  # then the process of the tests would end
    monkeypatch.setattr(slurm_job, "Timer", lambda *_: Thread())
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    mailbox = Mailbox(tmp_path / "jobs")
    mailbox.make()
    return mailbox


@pytest.fixture
def do(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Message]]:
    """Run a job that finds some tasks, and give its messages."""
    monkeypatch.setattr(Mailbox, "take", lambda self, address, number: waiting.pop(0) if waiting else None)
    waiting: list[bytes] = []

    def do(*tasks: Callable[[], object], minutes: float = 60, patience: float = 60) -> list[Message]:
        waiting[:] = [task if isinstance(task, bytes) else pickle.dumps(task) for task in tasks]
        SlurmJob(mailbox, 2, minutes, patience=patience)()
        received = mailbox.receive()
        assert {address for address, _ in received} == {JOB}
        return [message for _, message in received]

    return do


def ended(message: Message) -> tuple[type[PlaceError], str]:
    assert isinstance(message, Ended)
    return type(message.error), str(message.error)


def test_it_is_addressed_by_array_and_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address() == JOB
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert own_address() == "23.0"


def test_it_does_its_proof_and_its_share(do: Callable[..., list[Message]]) -> None:
    said = do(*[partial(str.upper, each) for each in "abcd"])
    assert said == [Started("n7"), Answered("A"), Answered("B"), Answered("C", is_last=True)]


def test_lightning_does_not_know_that_it_is_in_a_job(do: Callable[..., list[Message]]) -> None:
    environment = [partial(os.getenv, "SLURM_NTASKS", "none")] * 3
    assert do(*environment)[1] == Answered("none")


def test_it_takes_no_task_for_which_its_time_is_too_short(do: Callable[..., list[Message]]) -> None:
    minutes = (slurm_job.NOTICE + 0.2) / 60
    assert do(*[partial(time.sleep, 0.15)] * 3, minutes=minutes)[1:] == [Answered(None), Answered(None, is_last=True)]


def test_it_ends_when_it_is_terminated_while_idle(do: Callable[..., list[Message]]) -> None:
    said = do(TERMINATE)
    assert ended(said[-1]) == (
        PreemptedError,
        "SLURM took its node back, or somebody cancelled it (SIGTERM)",
    )


def test_a_task_that_is_interrupted_gives_no_answer(do: Callable[..., list[Message]]) -> None:
    said = do(os.getpid, TERMINATE, os.getpid)
    assert [type(each) for each in said] == [Started, Answered, Ended]


def test_its_time_is_nearly_over(do: Callable[..., list[Message]]) -> None:
    said = do(os.getpid, partial(os.kill, os.getpid(), signal.SIGUSR2))
    assert ended(said[-1]) == (
        PreemptedError,
        "its 60 minutes were nearly over, or SLURM took its node back (SIGUSR2)",
    )


def test_a_tile_needs_more_time_than_a_job_has(do: Callable[..., list[Message]]) -> None:
    said = do(partial(os.kill, os.getpid(), signal.SIGUSR2), minutes=0)
    assert ended(said[-1]) == (
        PlaceError,
        "its tile took more than half of the 0 minutes. Raise workers.init_args.minutes",
    )


def test_it_ends_with_a_task_that_it_cannot_read(do: Callable[..., list[Message]]) -> None:
    said = do(b"cnowhere\nnothing\n.")
    assert ended(said[-1]) == (PlaceError, "ModuleNotFoundError: No module named 'nowhere'")


def test_it_ends_without_a_word_when_its_command_is_gone(
    do: Callable[..., list[Message]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert do(patience=0.12) == [Started("n7")]
    assert "No command renews" in capsys.readouterr().out


def test_it_listens_before_it_is_watched(do: Callable[..., list[Message]], monkeypatch: pytest.MonkeyPatch) -> None:
    class Watching(Thread):
        def start(self) -> None:
            listening.append(signal.getsignal(signal.SIGTERM))
            super().start()

    listening: list[object] = []
    monkeypatch.setattr(slurm_job, "Thread", Watching)
    before = signal.getsignal(signal.SIGTERM)
    do(TERMINATE)
    assert len(listening) == 1
    assert before not in listening
