"""Files that the system does not let this process read, as errors that say what to do."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHANGE_PERMISSIONS = "Change its permissions, or those of the folders that it lies in."


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say what to do if a file of a run, or a folder that it lies in, cannot be looked at meanwhile.

    Args:
        path: The file.

    Raises:
        RunFolderError: It must not be read, or cannot be.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        advice = CHANGE_PERMISSIONS if isinstance(error, PermissionError) else "Restore it, or see to its disk."
        message = f"{path} cannot be read: {error.strerror or error}. {advice}"
        raise RunFolderError(message) from error
