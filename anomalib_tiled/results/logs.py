"""Logs: what other packages say goes into files, not on the screen."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from anomalib_tiled.files import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
TALKATIVE = (
    "lightning",
    "lightning.pytorch",
    "lightning.fabric",
    "lightning_fabric",
    "torchmetrics",
    "anomalib",
    "py.warnings",
)
"""Loggers that print to the screen by themselves, or do not pass on what they are told."""


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write everything that is logged, warned of or printed meanwhile to a file.

    Args:
        path: The log; what is there already is kept.
    """
    with ExitStack() as stack:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        stack.callback(handler.close)
        handler.setFormatter(logging.Formatter(FORMAT))
        for logger in _loggers():
            stack.enter_context(_only(logger, handler))
        stack.enter_context(warnings.catch_warnings())
        logging.captureWarnings(capture=True)
        stack.callback(logging.captureWarnings, capture=False)
        printed = _Printed(logging.getLogger("printed"))
        stack.callback(printed.finish)
        stack.enter_context(redirect_stdout(printed))
        stack.enter_context(redirect_stderr(printed))
        yield


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
