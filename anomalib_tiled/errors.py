"""Errors that the user can fix.

    TiledError                  base: printed as plain lines, exit status 2
    ├── ConfigurationError      a setting is missing, unknown, or contradicts another
    │   └── GridError           image size, tile size and stride do not fit together
    ├── DataError               the images, masks or their split
    │   └── UnalignedError      the part is not found in an image
    ├── StageError              a merging, scoring, smoothing, normalization or thresholding stage
    │   └── NotFiniteError      a model predicts infinities or NaN
    ├── RunFolderError          the run folder is incomplete, changed, or not a run folder
    ├── StorageError            the disk is full or cannot be written
    └── TrainingError           one or more tiles could not be trained
        ├── OutOfMemoryError    memory of a GPU or of the machine ran out
        ├── NoPlaceError        no process, actor or job of a cluster is left to work, and none can come
        └── UnfitLocationError  a model cannot be fitted on what the images show at one location

A message says what must hold, what was given, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TiledError(Exception):
    """Base of all errors that the user can fix."""


class ConfigurationError(TiledError):
    """A setting is missing, unknown, or contradicts another one."""


class GridError(ConfigurationError):
    """Image size, tile size and stride do not fit together."""


class DataError(TiledError):
    """Images, masks or their split cannot be used."""


class UnalignedError(DataError):
    """The part is not found in an image."""


class StageError(TiledError):
    """A stage breaks its contract."""


class NotFiniteError(StageError):
    """A model predicts infinities or NaN."""


class RunFolderError(TiledError):
    """A run folder is incomplete, changed, or not a run folder."""


class StorageError(TiledError):
    """The disk is full or cannot be written."""


class TrainingError(TiledError):
    """One or more tiles could not be trained."""


class OutOfMemoryError(TrainingError):
    """Memory of a GPU or of the machine ran out."""

    of_machine = False
    """Whether the memory of the machine ran out, which all processes share."""


class NoPlaceError(TrainingError):
    """No process, actor or job of a cluster is left to work, and none can come."""


class UnfitLocationError(TrainingError):
    """A model cannot be fitted on what the images show at one location."""

    blank = False
    """Whether the training images show nothing there; if so, other locations need not fail."""


def allowed_names(given: str, allowed: Iterable[str]) -> str:
    """List the allowed names, and suggest the one nearest to the given name.

    Args:
        given: The name that is not allowed.
        allowed: The allowed names.

    Returns:
        A sentence such as ``Did you mean 'stride'? Allowed: image_size, stride, tile_size.``
    """
    names = sorted(set(allowed))
    folded = {name.casefold(): name for name in names}
    nearest = get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    suggestion = f"Did you mean {folded[nearest[0]]!r}? " if nearest else ""
    return f"{suggestion}Allowed: {', '.join(names)}." if names else "No name is allowed."
