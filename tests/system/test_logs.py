"""Where what is logged, warned of or printed goes, meanwhile and afterwards."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from anomalib_tiled.errors import ConfigurationError, StorageError
from anomalib_tiled.system.logs import TALKATIVE, log_to

LOGGERS = ["", *TALKATIVE, "anomalib.models", "some.library"]
State = list[tuple[list[logging.Handler], int, bool, bool]]


def state() -> State:
    """Everything that a log changes for a while."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    return [(logger.handlers[:], logger.level, logger.propagate, logger.disabled) for logger in loggers]


@pytest.fixture
def set_up() -> Iterator[None]:
    """Loggers as a user's program may have set them up."""
    loggers = {name: logging.getLogger(name) for name in ("", *TALKATIVE)}
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers.values()]
    for logger in loggers.values():
        logger.setLevel(logging.ERROR)
        logger.propagate = True
    loggers["lightning.pytorch"].handlers[:] = [logging.StreamHandler()]
    loggers["lightning.pytorch"].propagate = False
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.mark.parametrize("leaving", [None, ValueError, KeyboardInterrupt])
def test_afterwards_everything_is_as_before(set_up: None, tmp_path: Path, leaving: type[BaseException] | None) -> None:
    before, streams, filters, show = state(), (sys.stdout, sys.stderr), warnings.filters[:], warnings.showwarning
    with nullcontext() if leaving is None else pytest.raises(leaving):  # noqa: SIM117
        with log_to(tmp_path / "run.log"):
            assert state() != before
            logging.getLogger().setLevel(logging.CRITICAL)
            warnings.simplefilter("ignore")
            if leaving is not None:
                raise leaving
    assert state() == before
    assert (sys.stdout, sys.stderr) == streams
    assert warnings.filters == filters
    assert warnings.showwarning is show


@pytest.mark.parametrize("name", LOGGERS)
def test_a_record_is_written_once_whoever_logs_it(
    set_up: None, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with log_to(tmp_path / "run.log"):
        logging.getLogger(name).info("a record")
        logging.getLogger(name).debug("a detail")
    assert (tmp_path / "run.log").read_text().count(f"INFO {name or 'root'}: a record\n") == 1
    assert "a detail" not in (tmp_path / "run.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_warnings_and_prints_are_written_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with log_to(tmp_path / "run.log"):
        warnings.warn("an old way", DeprecationWarning, stacklevel=1)
        warnings.warn("a doubt", UserWarning, stacklevel=1)
        print("a print\nin two lines")  # noqa: T201  # what other packages do
        print("an error", file=sys.stderr)  # noqa: T201
    log = (tmp_path / "run.log").read_text()
    for line in (
        "UserWarning: a doubt",
        "INFO printed: a print\n",
        "INFO printed: in two lines\n",
        "printed: an error",
    ):
        assert line in log
    assert capfd.readouterr() == ("", "")


def test_of_a_bar_that_is_drawn_over_and_over_the_last_state_is_written_though_no_line_ended(tmp_path: Path) -> None:
    with log_to(tmp_path / "run.log"):
        for percent in (0, 50, 100):
            sys.stderr.write(f"\rdownloading {percent}%")
        sys.stderr.flush()
    log = (tmp_path / "run.log").read_text()
    assert log.endswith("INFO printed: downloading 100%\n")
    assert log.count("\n") == 1


def test_a_log_within_a_log_takes_over_until_it_ends(set_up: None, tmp_path: Path) -> None:
    before, logger = state(), logging.getLogger("lightning.pytorch")
    with log_to(tmp_path / "run.log"):
        logger.info("before")
        with log_to(tmp_path / "tile.log"):
            logger.info("meanwhile")
            print("a print")  # noqa: T201  # what other packages do
            warnings.warn("a doubt", stacklevel=1)
        logger.info("after")
        warnings.warn("another doubt", stacklevel=1)
    outer, inner = (tmp_path / "run.log").read_text(), (tmp_path / "tile.log").read_text()
    for said, expected in {"before": outer, "meanwhile": inner, "a print": inner, "a doubt": inner}.items():
        assert (said in outer, said in inner) == (expected is outer, expected is inner)
    assert "after" in outer
    assert "another doubt" in outer
    assert state() == before


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    for said in ("first", "second ü"):
        with log_to(tmp_path / "logs" / "run.log"):
            logging.getLogger().info(said)
    lines = (tmp_path / "logs" / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["first", "second ü"]


def test_a_log_that_cannot_be_written_is_named(set_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(logging.FileHandler, "_open", refuse)
    before = state()
    with (
        pytest.raises(StorageError, match=r"run\.log cannot be written: Permission denied\. Change its permissions"),
        log_to(tmp_path / "run.log"),
    ):
        pytest.fail("there is no log to write to")
    assert state() == before


def test_a_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run.log").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(StorageError, match=r"must not be a link, but leads to .*victim\."),
        log_to(tmp_path / "run.log"),
    ):
        pytest.fail("there is no log to write to")
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_folder_of_logs_must_not_lead_elsewhere(tmp_path: Path) -> None:
    for folder in ("home", "v0", "v0/inside"):
        (tmp_path / folder).mkdir()
    (tmp_path / "latest").symlink_to("v0")
    link = tmp_path / "latest" / "logs"
    link.symlink_to("../home")
    with pytest.raises(StorageError, match=r"logs must not be a link"), log_to(link / "run.log"):
        pytest.fail("there is no log to write to")
    assert not any((tmp_path / "home").iterdir())
    link.unlink()
    link.symlink_to("inside")
    with log_to(link / "run.log"):
        logging.getLogger().info("a record")
    assert "a record" in (tmp_path / "v0" / "inside" / "run.log").read_text()


def test_the_cause_of_an_error_is_logged_with_its_traceback(tmp_path: Path) -> None:
    def fail() -> None:
        try:
            Path("no such file").stat()
        except FileNotFoundError as error:
            message = "The stage failed."
            raise ConfigurationError(message) from error

    with pytest.raises(ConfigurationError), log_to(tmp_path / "run.log"):
        fail()
    log = (tmp_path / "run.log").read_text()
    assert 'Path("no such file").stat()' in log
    assert log.count("FileNotFoundError: ") == log.count("ConfigurationError: The stage failed.") == 1

    def fail_and_log() -> None:
        try:
            fail()
        except ConfigurationError:
            logging.getLogger().exception("Training failed.")
            raise

    with pytest.raises(ConfigurationError), log_to(tmp_path / "tile.log"):
        fail_and_log()
    assert (tmp_path / "tile.log").read_text().count("FileNotFoundError: ") == 1


def test_an_error_without_a_cause_says_all_by_itself(tmp_path: Path) -> None:
    with pytest.raises(StorageError), log_to(tmp_path / "run.log"):
        raise StorageError
    assert (tmp_path / "run.log").read_text() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_neither_hides_an_error_nor_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    @log_to(Path("/dev/full"))
    def fail() -> None:
        logging.getLogger("anything").warning("lost")
        print("lost, too")  # noqa: T201  # into the log
        message = "the one that counts"
        raise StorageError(message)

    with pytest.raises(StorageError, match="the one that counts"):
        fail()
    said = capsys.readouterr().err
    assert said.startswith("warning: /dev/full lacks lines: ")
    assert said.count("\n") == 1
    with log_to(Path("/dev/full")):
        logging.getLogger("anything").warning("lost")
    assert "No space left" in capsys.readouterr().err


def test_a_record_that_cannot_be_made_is_shown_as_logging_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "run.log"
    with log_to(log):
        logging.getLogger("anything").warning("%d", "no number")
    assert "--- Logging error ---" in log.read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""
