"""Logs: messages of other packages go into files, not on the screen."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from anomalib_tiled.errors import StorageError, TiledError
from anomalib_tiled.system.files import leads_out
from anomalib_tiled.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

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
    _refuse_link(path)
    with ExitStack() as stack:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
        stack.callback(handler.close)
        for each in (logging.getLogger(), *map(logging.getLogger, TALKATIVE)):
            stack.enter_context(_only(each, handler))
        stack.enter_context(warnings.catch_warnings())
        logging.captureWarnings(capture=True)
        stack.callback(logging.captureWarnings, capture=False)
        printed = stack.enter_context(_Printed())
        stack.enter_context(redirect_stdout(printed))
        stack.enter_context(redirect_stderr(printed))
        try:
            yield
        except (TiledError, OSError) as error:
            if (error.__cause__ is not None or isinstance(error, OSError)) and id(error) != handler.last_error:
                logger.exception("This error ended the command; its cause comes first.")
            raise


def _refuse_link(path: Path) -> None:
    """Refuse a log in a run folder from elsewhere that would be written into another file of the user."""
    link = path if path.is_symlink() else path.parent if leads_out(path.parent) else None
    if link is not None:
        message = f"{link} must not be a link, but leads to {link.readlink()}. Remove the link."
        raise StorageError(message)


class _LogFile(logging.FileHandler):
    """A log that survives a full disk: what cannot be written is dropped, and the screen says so in the end."""

    def __init__(self, path: Path, *, encoding: str, errors: str) -> None:
        super().__init__(path, encoding=encoding, errors=errors)
        self.setFormatter(logging.Formatter(FORMAT))
        self.last_error = 0
        """Identity of the error that was logged last, so that it is not logged again."""
        self._failure: OSError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        if record.exc_info:
            self.last_error = id(record.exc_info[1])
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        """Drop a record that cannot be written; show other errors as logging does."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._failure = error
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file."""
        try:
            super().close()
        except OSError as error:
            self._failure = error
        if self._failure is not None:
            print(f"warning: {self.baseFilename} lacks lines: {self._failure}", file=sys.stderr)  # noqa: T201


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


class _Printed(io.TextIOBase):
    """A stream that logs the lines written to it."""

    _rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if shown := line.rpartition("\r")[2].strip():
                logging.getLogger("printed").info("%s", shown)
        return len(text)

    def close(self) -> None:
        """Log the last line, which has no line end."""
        if self._rest:
            self.write("\n")
