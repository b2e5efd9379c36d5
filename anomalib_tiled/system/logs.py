"""Logs: what other packages say goes into files, not on the screen."""

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
"""Before each line of a record but the first, so that nothing that is logged passes for a record of its own."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that a terminal, or a reader of lines, may take for a command."""

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
"""Loggers that print to the screen by themselves, or do not pass on what they are told."""


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write everything that is logged, warned of or printed meanwhile to a file.

    Of an error that the user can mend, or of the system, the command prints the message alone; its causes stand here,
    with tracebacks.

    Args:
        path: The log; what is there already is kept.

    Raises:
        StorageError: It cannot be written, or is a link.
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
            if error.__cause__ is not None and error not in handler.told:
                logger.exception("What follows ended the command; first its cause.")
            raise
        except OSError:
            logger.exception("What follows ended the command.")
            raise


def _opened(path: Path) -> TextIO:
    """Open a log to add to it. A link in a folder from elsewhere could make that any file of the user.

    Raises:
        StorageError: It is a link, or its folder is one that leads out of where it lies.
    """
    link = path if path.is_symlink() else path.parent if leads_out(path.parent) else None
    if link is not None:
        message = f"{link} must not be a link, because {link.readlink()} would be written to. Remove the link."
        raise StorageError(message)
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=_not_following)


def _not_following(path: str, flags: int) -> int:
    """Open a file unless it has become a link meanwhile, where the system can refuse that."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class _Handler(TextHandler):
    """Writes records to a stream, one after the other, whatever they consist of.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setFormatter(logging.Formatter(FORMAT))
        self.told: WeakSet[TiledError] = WeakSet()
        self._failure: OSError | None = None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Go on without a record that cannot be written; anything else is shown as logging shows it."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._failure = error
        else:
            super().handleError(record)

    def end(self, path: Path) -> None:
        """Close the stream; say once on the screen if records were lost, which mostly means that the disk is full.

        Args:
            path: The log.
        """
        try:
            self.stream.close()
        except OSError as error:
            self._failure = error
        if self._failure is not None:
            print(f"warning: {path} lacks lines: {self._failure}", file=sys.stderr)  # noqa: T201  # nowhere else to say it

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, and remember the error that it tells of."""
        if record.exc_info and isinstance(record.exc_info[1], TiledError):
            self.told.add(record.exc_info[1])
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Give a record as text in which only its own first line begins as records do."""
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
    """Give the root logger and those that do not pass their records on to it."""
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
        """Log the last line, which nobody has ended."""
        self.write("\n")
