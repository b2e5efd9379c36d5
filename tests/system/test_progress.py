from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from anomalib_tiled.system import progress as module
from anomalib_tiled.system.progress import progress_bar, steps, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    monkeypatch.setattr(sys, "__stderr__", stream)
    return stream


def test_the_items_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", stream := io.StringIO())
    assert list(track(iter("abc"), "Reading")) == ["a", "b", "c"]
    assert stream.getvalue() == "", "nobody watches"


@pytest.mark.parametrize(("items", "total"), [(["a", "b"], None), (iter("ab"), 2)])
def test_the_bar_says_what_is_done_and_how_much(terminal: Terminal, items: object, total: int | None) -> None:
    assert list(track(items, "Reading images", total)) == ["a", "b"]
    assert "Reading images" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_a_redirected_stderr_does_not_get_the_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    with progress_bar() as progress:
        progress.add_task("Training", total=1)
        assert sys.stderr is log
    assert "Training" in terminal.getvalue()
    assert not log.getvalue()


def test_steps_move_the_bar_on_a_terminal_and_are_logged(terminal: Terminal, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with steps("Exporting", 2) as done:
        done("tile r00_c00")
        done("file")
    assert "2/2" in terminal.getvalue()
    assert "left" in terminal.getvalue()
    assert " steps, about" not in terminal.getvalue()
    first, last = caplog.messages
    assert first.startswith("Exporting: tile r00_c00 done, 1 of 2 steps, about ")
    assert last == "Exporting: file done, 2 of 2 steps, about 0 s left"


def test_without_a_terminal_a_line_every_so_often_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stderr__", stream := io.StringIO())
    clock = iter([0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0])
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    with steps("Exporting", 6) as done:
        for number in range(6):
            done(f"tile {number}")
    assert stream.getvalue().splitlines() == [
        "Exporting: tile 2 done, 3 of 6 steps, about 12 s left",
        "Exporting: tile 5 done, 6 of 6 steps, about 0 s left",
    ]
