"""Images that appear in folders, by a clock that jumps from sleep to sleep, and real files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anomalib_tiled.data import watching
from anomalib_tiled.data.watching import PATIENCE, PAUSE, Clock, Watch, folders_to_watch
from anomalib_tiled.errors import ConfigurationError

TICKS = 1024
"""Smallest steps of a second: sums of them are exact."""

Event = tuple[float, Callable[[], object]]


class Line:
    """A line of production: what happens in the folder at which second, and what the watch gives out."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.sleeps = folder, 0.0, 0
        self.events: list[Event] = []
        self.reported: list[str] = []
        self.given: list[tuple[float, list[str]]] = []
        self.failed: list[tuple[float, str]] = []
        self.watch = self.watching(folder)
        self.unreadable: set[str] = set()

    def watching(self, *folders: Path, apart_from: tuple[Path, ...] = ()) -> Watch:
        clock = Clock(lambda: self.seconds, self.sleep)
        self.watch = Watch(folders, apart_from=apart_from, report=self.reported.append, clock=clock)
        return self.watch

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        self.work(seconds)

    def work(self, seconds: float) -> None:
        """Let time pass, and what is due happen."""
        self.seconds += max(1, round(seconds * TICKS)) / TICKS
        for event in [each for each in self.events if each[0] <= self.seconds]:
            self.events.remove(event)
            event[1]()

    def at(self, seconds: float, event: Callable[[], object]) -> None:
        self.events.append((seconds, event))

    def write(self, name: str, content: str = "x") -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(content)

    def run(self, until: float, *, size: int = 8, busy: float = 0.0) -> list[tuple[float, list[str]]]:
        """Watch for a while; each batch takes some seconds, and names in ``unreadable`` cannot be read."""
        for paths in self.watch.batches(size, lambda: self.seconds >= until):
            self.given.append((round(self.seconds, 1), [path.name for path in paths]))
            for path in paths:
                if path.name in self.unreadable and not self.watch.takes_back(path):
                    self.failed.append((round(self.seconds, 1), path.name))
            self.work(busy)
        return self.given


@pytest.fixture
def line(tmp_path: Path) -> Line:
    (folder := tmp_path / "in").mkdir()
    return Line(folder)


def test_images_that_are_there_and_images_that_appear_are_given_out_once(line: Line) -> None:
    line.write("b/1.png")
    line.write("a.png")
    line.at(2.1, lambda: line.write("c.png"))
    assert line.run(10) == [(0.5, ["a.png", "1.png"]), (3.0, ["c.png"])]
    assert line.watch.waiting == 0


def test_a_file_that_grows_is_waited_for(line: Line) -> None:
    for number in range(10):
        line.at(0.2 + 0.4 * number, lambda number=number: line.write("a.png", "x" * number))
    assert line.run(10) == [(4.5, ["a.png"])], "half a second after the look that saw the last change"


def test_a_time_that_changes_is_waited_for_where_the_size_is_reserved_in_advance(line: Line) -> None:
    line.write("a.png")
    for number in range(3):
        line.at(0.4 + 0.5 * number, lambda number=number: os.utime(line.folder / "a.png", (0, number + 1)))
    assert line.run(10) == [(2.0, ["a.png"])]


def test_a_file_that_is_renamed_to_its_name_is_an_image_from_then_on(line: Line) -> None:
    for name in (".a.png", "a.png.part"):
        line.write(name)
    line.at(1.2, lambda: (line.folder / ".a.png").rename(line.folder / "a.png"))
    line.at(3.2, lambda: (line.folder / "a.png.part").rename(line.folder / "b.png"))
    assert line.run(10) == [(2.0, ["a.png"]), (4.0, ["b.png"])]


def test_many_at_once_fill_batches_and_a_single_one_does_not_wait(line: Line) -> None:
    line.at(1.1, lambda: [line.write(f"{number:04d}.png") for number in range(1000)])
    line.at(30.1, lambda: line.write("late.png"))
    given = line.run(40, busy=0.01)
    sizes = [len(names) for _, names in given]
    assert sizes == [8] * 125 + [1]
    assert [name for _, names in given[:-1] for name in names] == [f"{number:04d}.png" for number in range(1000)]
    assert given[0][0] == 2.0
    assert given[-1] == (31.0, ["late.png"])


def test_the_folder_is_looked_at_while_other_images_are_predicted(line: Line) -> None:
    for number in range(8):
        line.write(f"{number}.png")
    line.at(0.6, lambda: line.write("new.png"))
    assert line.run(8, size=2, busy=1.0)[-1] == (4.5, ["new.png"]), "right after the eight, not after a rest"


def test_a_file_that_cannot_be_read_is_tried_again_when_it_changes_and_fails_after_a_while(line: Line) -> None:
    line.unreadable = {"cut.png", "damaged.png"}
    line.write("cut.png")
    line.write("damaged.png")
    line.at(3.2, lambda: line.write("cut.png", "whole"))
    line.at(3.2, line.unreadable.clear)
    line.at(5.0, lambda: line.unreadable.add("damaged.png"))
    assert line.run(60) == [(0.5, ["cut.png", "damaged.png"]), (4.0, ["cut.png"]), (PATIENCE, ["damaged.png"])]
    assert line.failed == [(PATIENCE, "damaged.png")]


def test_a_file_that_may_be_opened_only_later_is_tried_again_then(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *arguments: str) -> object:
        if path.name in line.unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    opened = Path.open
    line.write("a.png")
    line.unreadable = {"a.png"}
    line.at(30.2, line.unreadable.clear)
    monkeypatch.setattr(Path, "open", refused)
    assert line.run(60) == [(0.5, ["a.png"]), (PATIENCE, ["a.png"]), (31.0, ["a.png"])]
    assert line.failed == [(PATIENCE, "a.png")]


def test_an_image_that_failed_is_tried_again_when_its_file_changes(line: Line) -> None:
    line.unreadable = {"a.png"}
    line.write("a.png")
    line.at(20.2, line.unreadable.clear)
    line.at(20.2, lambda: line.write("a.png", "another"))
    assert [when for when, _ in line.run(60)] == [0.5, PATIENCE, 21.0]


def test_a_file_that_changes_while_it_waits_its_turn_is_not_failed_at_once(line: Line) -> None:
    for number in range(4):
        line.write(f"{number}.png")
    line.unreadable = {"3.png"}
    line.at(10.0, lambda: line.write("3.png", "being written once more"))
    line.at(16.0, line.unreadable.clear)
    line.run(60, size=1, busy=4.0)
    assert line.failed == []
    assert line.given[-1][1] == ["3.png"]


def test_a_predicted_image_is_not_predicted_again_when_it_is_replaced_or_comes_back(line: Line) -> None:
    line.write("a.png")
    line.at(2.0, lambda: line.write("a.png", "another part"))
    line.at(5.0, (line.folder / "a.png").unlink)
    line.at(7.0, lambda: line.write("a.png", "a third"))
    assert line.run(20) == [(0.5, ["a.png"])]


def test_images_that_were_predicted_before_are_left_out(line: Line) -> None:
    line.write("a.png")
    line.write("b.png")
    line.watch.leave_out([str(line.folder / "a.png"), "/gone/c.png"])
    assert line.watch.present() == [line.folder / "b.png"]
    assert line.run(5) == [(0.5, ["b.png"])]


def test_an_upload_that_is_given_up_leaves_no_failure(line: Line) -> None:
    line.write("a.png")
    line.unreadable = {"a.png"}
    line.at(2.0, (line.folder / "a.png").unlink)
    assert line.run(30) == [(0.5, ["a.png"])]
    assert (line.failed, line.watch.waiting) == ([], 0)


def test_a_complete_image_that_is_gone_when_its_turn_comes_has_failed(line: Line) -> None:
    line.write("a.png")
    line.write("b.png")
    line.unreadable = {"b.png"}
    line.at(1.0, (line.folder / "b.png").unlink)
    line.at(6.0, line.unreadable.clear)
    line.at(6.0, lambda: line.write("b.png"))
    line.run(30, size=1, busy=2.0)
    assert line.failed == [(2.5, "b.png")]
    assert line.given[-1] == (6.5, ["b.png"]), "it is back"


def test_a_failed_image_that_comes_back_unchanged_is_tried_again(line: Line, tmp_path: Path) -> None:
    line.write("a.png")
    line.unreadable = {"a.png"}
    line.at(20.2, lambda: (line.folder / "a.png").rename(tmp_path / "a.png"))
    line.at(22.2, line.unreadable.clear)
    line.at(22.2, lambda: (tmp_path / "a.png").rename(line.folder / "a.png"))
    assert [when for when, _ in line.run(60)] == [0.5, PATIENCE, 23.0]


def test_a_folder_that_vanishes_is_waited_for_and_nothing_is_lost_or_done_twice(line: Line, tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        line.write(name)
    line.unreadable = {"b.png", "c.png"}
    line.at(0.6, lambda: line.folder.rename(tmp_path / "unplugged"))
    line.at(30.2, lambda: (tmp_path / "unplugged").rename(line.folder))
    line.at(30.2, lambda: line.write("d.png"))
    line.at(30.2, line.unreadable.clear)
    line.run(60, size=1, busy=0.2)
    assert line.failed == []
    assert [name for when, names in line.given for name in names if when > 3] == ["b.png", "c.png", "d.png"]
    assert line.reported == [
        f"warning: {line.folder} cannot be read now. Waiting until it is back.",
        f"Note: {line.folder} is back.",
    ]


def test_a_mount_point_that_is_empty_for_a_time_brings_no_image_twice(line: Line, tmp_path: Path) -> None:
    line.write("a.png")
    line.at(2.0, lambda: (line.folder.rename(tmp_path / "unplugged"), line.folder.mkdir()))
    line.at(8.0, lambda: (shutil.rmtree(line.folder), (tmp_path / "unplugged").rename(line.folder)))
    assert line.run(20) == [(0.5, ["a.png"])]


def test_pictures_of_the_prediction_are_no_images_to_predict(line: Line) -> None:
    line.watching(line.folder, apart_from=(line.folder / "images",))
    for name in ("images/deep/a.png", "images/a.png", "a.png"):
        line.write(name)
    assert line.run(5) == [(0.5, ["a.png"])]


def test_an_image_in_two_watched_folders_is_given_out_once(line: Line) -> None:
    line.write("deep/a.png")
    line.watching(line.folder, line.folder / "deep")
    assert line.run(5) == [(0.5, ["a.png"])]


def test_nothing_happens_without_images_but_a_look_now_and_then(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def none(*_: object) -> Iterator[Path]:
        looks.append(round(line.seconds, 1))
        line.work(0.2)
        return iter(())

    monkeypatch.setattr(watching, "images_below", none)
    line.run(60)
    assert looks[:3] == [0.0, 6.2, 12.4], "a look takes 0.2 s, a thirtieth of the time"
    assert line.watch.waited == pytest.approx(60 - 0.2 * len(looks), abs=0.2)


def test_it_ends_soon_when_it_is_asked_to(line: Line) -> None:
    line.write("a.png")
    line.run(0.2)
    assert line.seconds < 0.2 + PAUSE
    assert (line.given, line.watch.waiting) == ([], 1)


@pytest.mark.parametrize("name", ["", "-", "a.png", "*.png", "gone"])
def test_only_folders_can_be_watched(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^--watch takes folders that exist .* is none\. Name the folder"):
        folders_to_watch([".", name])


def test_a_folder_is_watched_once(tmp_path: Path) -> None:
    assert folders_to_watch([str(tmp_path), f"{tmp_path}/in/.."]) == [tmp_path]
