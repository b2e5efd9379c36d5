from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from anomalib_tiled.progress import progress_bar, track


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
