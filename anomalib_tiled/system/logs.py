"""Logs: messages of other packages go into files, not on the screen."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import warnings
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, TextIO
from weakref import WeakSet

from anomalib_tiled.errors import StorageError, TiledError
from anomalib_tiled.system.files import leads_out
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    TextHandler = logging.StreamHandler[TextIO]
else:
    TextHandler = logging.StreamHandler  # takes no type before Python 3.11

logger = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

CONTINUED = "\n  | "
"""Begins each further line of a record, so that no logged text looks like a record of its own."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that a terminal or a reader of lines may interpret."""

TALKATIVE = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "torchmetrics",
    "anomalib",
    "huggingface_hub",
    "py.warnings",
)
"""Loggers that print to the screen, or do not pass their records to the root logger."""


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write all log records, warnings and prints meanwhile to a file.

    The screen shows only the message of an error that the user can fix, or of the system; the log has its causes, with
    tracebacks.

    Args:
        path: The log; new records are appended.

    Raises:
        StorageError: The log cannot be written, or is a link.
    """
    with ExitStack() as stack:
        with storage_errors(path):
            handler = _Handler(_opened(path))
        stack.callback(handler.end, path)
        for each in _loggers():
            stack.enter_context(_only(each, handler))
        stack.enter_context(warnings.catch_warnings())
        logging.captureWarnings(capture=True)
        stack.callback(logging.captureWarnings, capture=False)
        printed = _Printed(logging.getLogger("printed"))
        stack.callback(printed.finish)
        stack.enter_context(redirect_stdout(printed))
        stack.enter_context(redirect_stderr(printed))
        try:
            yield
        except TiledError as error:
            if error.__cause__ is not None and error not in handler.logged:
                logger.exception("This error ended the command; its cause comes first.")
            raise
        except OSError:
            logger.exception("This error ended the command.")
            raise


def _opened(path: Path) -> TextIO:
    """Open a log for appending, unless a link in a run folder from elsewhere leads to another file of the user.

    Raises:
        StorageError: The log is a link, or its folder is a link that leads out of the run.
    """
    link = path if path.is_symlink() else path.parent if leads_out(path.parent) else None
    if link is not None:
        message = f"{link} must not be a link, but leads to {link.readlink()}. Remove the link."
        raise StorageError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=_not_following)


def _not_following(path: str, flags: int) -> int:
    """Open a file unless it has become a link meanwhile, where the system supports that."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class _Handler(TextHandler):
    """Writes records of any content to a stream.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(logging.Formatter(FORMAT))
        self.logged: WeakSet[TiledError] = WeakSet()
        self._failure: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Drop a record that cannot be written; show other errors as logging does."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._failure = error
        else:
            super().handleError(record)

    def end(self, path: Path) -> None:
        """Close the stream; say once on the screen if records were lost, mostly because the disk is full.

        Args:
            path: The log.
        """
        try:
            self.stream.close()
        except OSError as error:
            self._failure = error
        if self._failure is not None:
            print(f"warning: {path} lacks lines: {self._failure}", file=sys.stderr)  # noqa: T201  # the log itself fails

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and remember the error that it reports."""
        if record.exc_info and isinstance(record.exc_info[1], TiledError):
            self.logged.add(record.exc_info[1])
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Give a record as text; its further lines begin differently from records."""
        text = super().format(record).replace("\r\n", "\n").rstrip("\n")
        return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text).replace("\n", CONTINUED)


@contextmanager
def _only(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    """Let a logger write to one handler for a while, then as before."""
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def _loggers() -> list[logging.Logger]:
    """Give the root logger and those that do not pass their records to it."""
    return [logging.getLogger(), *(logging.getLogger(name) for name in TALKATIVE)]


class _Printed(io.TextIOBase):
    """A stream that logs the lines written to it."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if shown := line.rpartition("\r")[2].strip():
                self._logger.info("%s", shown)
        return len(text)

    def finish(self) -> None:
        """Log the last line, which has no line end."""
        self.write("\n")
