"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest
from filelock import FileLock, Timeout

from anomalib_tiled.errors import RunFolderError, StorageError
from anomalib_tiled.system import locks
from anomalib_tiled.system.locks import LEASE, PREDICTION, RENEWED, Lease, locked

HOLD = """
import sys, time
from pathlib import Path
from unittest.mock import Mock
from anomalib_tiled.system.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_whoever_has_it_is_named_with_host_and_process(tmp_path: Path) -> None:
    with locked(tmp_path):
        said = json.loads((tmp_path / "fit.lock.json").read_text())
        assert (said["host"], said["process"]) == (platform.node(), os.getpid())
        message = f"is being fitted by process {os.getpid()} on {platform.node()} since .* Wait until it has finished"
        with pytest.raises(RunFolderError, match=message), locked(tmp_path):
            pytest.fail("two at once")
        assert (tmp_path / "fit.lock.json").is_file(), "the second one takes nothing away"


def test_it_is_free_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            pass
    assert not (tmp_path / "fit.lock.json").exists()
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path):
        pass


def test_one_that_has_not_said_who_it_is_yet(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "fit.lock.json").write_text("{")
        with pytest.raises(RunFolderError, match="is being fitted by another process"), locked(tmp_path):
            pytest.fail("two at once")


def test_each_work_has_a_lock_of_its_own(tmp_path: Path) -> None:
    with locked(tmp_path), locked(tmp_path, PREDICTION):
        message = r"is being predicted into by process \d+ on .* or stop it; what it has predicted is kept\.$"
        with pytest.raises(RunFolderError, match=message), locked(tmp_path, PREDICTION):
            pytest.fail("two at once")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FileLock, "acquire", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(StorageError, match="cannot be written: Read-only file system"), locked(tmp_path):
        pytest.fail("it is not locked")


def test_a_killed_process_leaves_it_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        message = f"is being fitted by process {holder.pid} on"
        with pytest.raises(RunFolderError, match=message), locked(tmp_path):
            pytest.fail("two at once")
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass


class LockOfOneMachine:
    """A lock that other machines do not see, such as that of NFS without its lock service."""

    def __init__(self, *_: object, timeout: int) -> None:
        del timeout
        self.is_locked = False

    def acquire(self) -> None:
        self.is_locked = True

    def release(self) -> None:
        self.is_locked = False


class LockOfDeadMachine(LockOfOneMachine):
    """A lock that the storage does not take back from a machine that has failed."""

    def acquire(self) -> None:
        raise Timeout(__file__)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let what follows happen on another machine, whose locks the others do not see."""
    monkeypatch.setattr(locks, "FileLock", LockOfOneMachine)

    def move(machine: str) -> None:
        monkeypatch.setattr(locks, "machine_name", lambda: machine)
        monkeypatch.setattr(platform, "node", lambda: machine)

    return move


def age(folder: Path, seconds: float) -> None:
    """Let the last renewal be as long ago."""
    path = folder / "fit.lock.json"
    changed = path.stat().st_mtime - seconds
    os.utime(path, (changed, changed))


def test_a_second_machine_is_refused(tmp_path: Path, on: Callable[[str], None]) -> None:
    on("first")
    with locked(tmp_path) as lease:
        on("second")
        message = (
            rf"is being fitted by process {os.getpid()} on first since .*\. Wait until it has finished, or stop it; "
            r"what it has trained is kept\. If its machine has failed, try again in 60 s\.$"
        )
        for _ in range(2):
            with pytest.raises(RunFolderError, match=message), locked(tmp_path):
                pytest.fail("two at once")
        lease.check()
        on("first")
    assert {path.name for path in tmp_path.iterdir()} == set(), "nothing is left over"
    on("second")
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("lock", [LockOfOneMachine, LockOfDeadMachine])
def test_a_machine_that_renews_no_more_is_followed_after_a_minute(
    tmp_path: Path, on: Callable[[str], None], lock: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "WRITTEN", 0.01)
    on("first")
    with ExitStack() as work:
        lease = work.enter_context(locked(tmp_path))
        on("second")
        monkeypatch.setattr(locks, "FileLock", lock)
        age(tmp_path, LEASE - RENEWED)
        with pytest.raises(RunFolderError, match="on first since"), locked(tmp_path):
            pytest.fail("it may be alive")
        age(tmp_path, 2 * RENEWED)
        with locked(tmp_path) as follower:
            follower.check()
            message = (
                rf"{tmp_path} was taken over by process {os.getpid()} on second since .*, because this process did not "
                r"renew fit\.lock\.json for 60 s, as one that is suspended\. This process stops; what it has trained is"
            )
            with pytest.raises(RunFolderError, match=message):
                lease.check()
            work.close()
            follower.check()
    with pytest.raises(RunFolderError, match="was taken over by another process"):
        lease.check()
    with locked(tmp_path) as third:
        third.check()


def test_a_lock_that_is_never_given_back_is_waited_for_only_while_its_process_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as that of a machine that has failed, on which no process can be asked for."""
    monkeypatch.setattr(locks, "FileLock", LockOfDeadMachine)
    monkeypatch.setattr(locks, "WRITTEN", 0.01)
    path = tmp_path / "fit.lock.json"
    with locked(tmp_path) as lease:
        lease.check()
        for content in (json.loads(path.read_text()), {"host": platform.node(), "process": os.getpid()}):
            path.write_text(json.dumps({**content, "since": "now"}))
            age(tmp_path, 2 * LEASE)
            with (
                pytest.raises(RunFolderError, match=f"is being fitted by process {os.getpid()} on .* since now"),
                locked(tmp_path),
            ):
                pytest.fail("the process lives, but cannot renew it, such as while it is suspended")
    path.write_text(json.dumps({**content, "process": 999999999}))
    with pytest.raises(RunFolderError, match="is being fitted by another process"), locked(tmp_path):
        pytest.fail("another one may have the lock, and be about to write its name")
    age(tmp_path, 2 * LEASE)
    with locked(tmp_path) as lease:
        lease.check()


@pytest.mark.parametrize("process", ["1", None, 10**30, [1]])
def test_a_file_from_elsewhere_that_names_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: object
) -> None:
    content = {"host": platform.node(), "process": process, "since": "now"}
    (tmp_path / "fit.lock.json").write_text(json.dumps(content))
    with locked(tmp_path):
        pass
    monkeypatch.setattr(locks, "FileLock", LockOfDeadMachine)
    (tmp_path / "fit.lock.json").write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="is being fitted by process"), locked(tmp_path):
        pytest.fail("it may live")


def test_times_are_compared_on_the_clock_of_the_storage(
    tmp_path: Path, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    on("first")
    with locked(tmp_path):
        on("second")
        monkeypatch.setattr(time, "time", lambda: 10 * LEASE + tmp_path.stat().st_mtime)
        with pytest.raises(RunFolderError, match="on first since"), locked(tmp_path):
            pytest.fail("the clock of this machine is wrong")


def test_a_process_of_this_machine_that_was_killed_is_followed_at_once(tmp_path: Path) -> None:
    dead = Lease(tmp_path / "fit.lock.json", "")
    assert dead.take(locked=True)
    with locked(tmp_path) as lease:
        lease.check()
    assert dead.take(locked=True)
    (tmp_path / "fit.lock.json").write_text("{")
    with pytest.raises(RunFolderError, match="is being fitted by another process"), locked(tmp_path):
        pytest.fail("it may be about to write its name")
    age(tmp_path, 2 * LEASE)
    with locked(tmp_path) as lease:
        lease.check()
    dead.end()


def test_it_is_renewed_while_the_work_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEWED", 0.01)
    path = tmp_path / "fit.lock.json"
    with locked(tmp_path) as lease:
        age(tmp_path, LEASE)
        before = path.stat().st_mtime
        deadline = time.monotonic() + 30
        while path.stat().st_mtime == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > before + LEASE / 2
        path.write_text("{}")
        age(tmp_path, LEASE)
        before = path.stat().st_mtime
        time.sleep(0.1)
        assert path.stat().st_mtime == before, "it is not renewed for another process"
        with pytest.raises(RunFolderError, match="was taken over"):
            lease.check()
    assert path.is_file(), "it is not removed from another process"


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "dumps", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StorageError, match="No space left on the disk"), locked(tmp_path):
        pytest.fail("it is not locked")
    assert not (tmp_path / "fit.lock.json").exists()


SUSPENDED = """
import sys, time
from pathlib import Path
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system import locks
locks.RENEWED, locks.LEASE = 0.2, 2.0
locks.machine_name = lambda: sys.argv[2]
with locks.locked(Path(sys.argv[1])) as lease:
    print("locked", flush=True)
    while True:
        try:
            lease.check()
        except RunFolderError as error:
            print(error, flush=True)
            break
        time.sleep(0.05)
"""


@pytest.mark.slow
def test_two_processes_as_of_two_machines_of_which_one_is_suspended(tmp_path: Path) -> None:
    """The system's lock stays with the suspended one, as with a machine that the storage does not give up."""

    def start(machine: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SUSPENDED, str(tmp_path), machine]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start("one")
    try:
        assert first.stdout.readline() == "locked\n"
        second = start("two")
        assert f"is being fitted by process {first.pid} on" in second.communicate()[1]
        first.send_signal(signal.SIGSTOP)
        time.sleep(3)
        third = start("three")
        try:
            assert third.stdout.readline() == "locked\n"
            first.send_signal(signal.SIGCONT)
            assert f"was taken over by process {third.pid} on" in first.stdout.readline()
            assert first.wait() == 0
            assert third.poll() is None, "it keeps the folder"
        finally:
            third.kill()
            third.wait()
    finally:
        first.kill()
        first.wait()
