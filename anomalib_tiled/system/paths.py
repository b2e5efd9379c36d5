"""Paths as people type them, made absolute."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(path: str | Path) -> Path:
    """Give an absolute path without ``..`` that leads to the same file.

    Links stay, except before ``..``: ``link/..`` is the parent of the folder that the link leads to.

    Args:
        path: May begin with ``~``, and need not exist.
    """
    typed = Path(os.path.expanduser(path)).absolute()  # noqa: PTH111  # Path.expanduser fails for unknown users
    if ".." not in typed.parts:
        return typed
    plain = Path(typed.anchor)
    for part in typed.parts[1:]:
        if part != "..":
            plain /= part
        else:
            plain = Path(os.path.realpath(plain) if os.path.islink(plain) else plain).parent  # noqa: PTH114  # never fails
    return plain
