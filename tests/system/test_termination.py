from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from threading import Thread

import pytest

from anomalib_tiled.system import termination
from anomalib_tiled.system.termination import Terminated, noted_when_stopped, raised_when_terminated


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    """Whatever listens for the signal in the process of the tests does not for now."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_comes_out_as_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as raised, raised_when_terminated():
        os.kill(os.getpid(), signal.SIGTERM)
    assert type(raised.value) is Terminated
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_listens_already_goes_on_to() -> None:
    def listen(number: int, frame: object) -> None:
        heard.append(number)

    heard: list[int] = []
    signal.signal(signal.SIGTERM, listen)
    with raised_when_terminated():
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is listen


def test_only_the_main_thread_can_listen() -> None:
    def work() -> None:
        with raised_when_terminated():
            done.append(True)

    done: list[bool] = []
    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_second_one_ends_the_process() -> None:
    program = (
        "import os, signal\n"
        "from anomalib_tiled.system.termination import raised_when_terminated\n"
        "with raised_when_terminated():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('still here')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGTERM
    assert ended.stdout == b""


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C is an exception here, as in every program."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_ends_by_a_signal_notes_the_first_and_is_ended_by_the_second(
    number: signal.Signals, interrupts: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with raised_when_terminated(), noted_when_stopped() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert stopped()
        assert capfd.readouterr().err == "\nEnding after the images in hand. A second Ctrl-C ends at once.\n"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert signal.getsignal(signal.SIGTERM) is (signal.SIG_DFL if number is signal.SIGTERM else termination._raise)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_afterwards_signals_end_at_once_again(interrupts: None) -> None:
    with raised_when_terminated():
        with noted_when_stopped():
            pass
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_that_is_ignored_stays_so(interrupts: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with noted_when_stopped() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        assert not stopped()
