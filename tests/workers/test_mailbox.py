"""Tasks and messages between a command and its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from anomalib_tiled.stages.workers import PreemptedError
from anomalib_tiled.workers.mailbox import Answered, Ended, Mailbox, Started

JOB = "17_4.0"


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    mailbox = Mailbox(tmp_path / "run" / "jobs")
    mailbox.make()
    return mailbox


def test_a_job_takes_each_task_once(mailbox: Mailbox) -> None:
    mailbox.open_for(JOB)
    assert mailbox.take(JOB, 0) is None
    mailbox.give(JOB, 0, b"task")
    assert mailbox.take(JOB, 0) == b"task"
    assert mailbox.take(JOB, 0) is None
    assert not [*(mailbox.to_jobs / JOB).iterdir()]


def test_messages_of_a_job_arrive_in_order_and_once(mailbox: Mailbox) -> None:
    for number in range(12):
        mailbox.send(JOB, number, Answered(number))
    mailbox.send("17_40.0", 0, Started("n1"))
    received = mailbox.receive()
    assert received == [*((JOB, Answered(number)) for number in range(12)), ("17_40.0", Started("n1"))]
    assert not mailbox.receive()


def test_the_reason_of_an_end_arrives(mailbox: Mailbox) -> None:
    mailbox.send(JOB, 0, Ended(PreemptedError("taken back")))
    [(_, message)] = mailbox.receive()
    assert isinstance(message, Ended)
    assert type(message.error) is PreemptedError
    assert str(message.error) == "taken back"


def test_a_file_that_is_not_complete_is_not_read(mailbox: Mailbox) -> None:
    (mailbox.from_jobs / f".{JOB}.0").write_bytes(b"half")
    assert not mailbox.receive()


def test_each_renewal_changes_the_pulse(mailbox: Mailbox) -> None:
    before = mailbox.pulse()
    mailbox.renew(1)
    assert mailbox.pulse() != before
    mailbox.remove()
    assert mailbox.pulse() is None


def test_a_folder_that_is_removed_stays_so(mailbox: Mailbox) -> None:
    mailbox.remove()
    with pytest.raises(FileNotFoundError):
        mailbox.send(JOB, 0, Started("n1"))
    assert not mailbox.folder.exists()
