from __future__ import annotations

import errno
from pathlib import Path

import pytest

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.readable import readable


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied"),
            r"Permission denied\. Change its permissions, or those of",
        ),
        (OSError(errno.EIO, "Input/output error"), r"Input/output error\. Restore it, or see to its disk\."),
        (FileNotFoundError(errno.ENOENT, "No such file"), r"No such file\. Restore it, or see to its disk\."),
    ],
)
def test_what_the_system_refuses_says_what_to_do(error: OSError, message: str) -> None:
    with (
        pytest.raises(RunFolderError, match=rf"^/run/config\.yaml cannot be read: {message}"),
        readable(Path("/run/config.yaml")),
    ):
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), ValueError("other")])
def test_all_else_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, readable(Path("/run")):
        raise error
    assert raised.value is error
