"""The package that each class of a run came from, and whether it is still installed."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.packages import Origin, is_dotted, origin_of, version_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anomalib_tiled.config.settings import Plain, Settings

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""Pattern of package names."""


def origins_of(settings: Settings) -> dict[str, dict[str, str | None]]:
    """Look up the packages of all classes that a configuration names.

    Returns:
        For each setting class path, package and version; plain enough for a JSON file.
    """
    specs = {"model": settings.model, "data": settings.data, **settings.stages}
    if settings.whole_size is not None:
        specs["global_model.model"] = settings.whole_model
    return {
        setting: {"class_path": spec.class_path, **vars(origin_of(spec.class_path))} for setting, spec in specs.items()
    }


def changed_origins(recorded: Mapping[str, Plain]) -> tuple[str, ...]:
    """Compare the packages that a run was made with to the installed ones.

    Args:
        recorded: What ``origins_of`` gave when the run was made.

    Returns:
        A line for each package that has another version now.

    Raises:
        RunFolderError: A package is not installed any more, or the record was changed.
    """
    notes = {}
    for setting, origin in recorded.items():
        class_path, made_with = _recorded(setting, origin)
        if not _is_there(class_path, made_with):
            raise RunFolderError(_missing(setting, class_path, made_with))
        if made_with.package is not None and (now := version_of(made_with.package)) != made_with.version:
            notes[made_with.package] = (
                f"The run was made with {made_with}, but {now} is installed now; results may differ. "
                f"To restore it: pip install {made_with.package}=={made_with.version}"
            )
    return tuple(notes.values())


def _recorded(setting: str, origin: Plain) -> tuple[str, Origin]:
    """Read the record of a class, in the form that `origins_of` gives."""
    match origin:
        case {"class_path": str(path), "package": str() | None as package, "version": str() | None as version} if (
            is_dotted(path) and (package is None or NAME.fullmatch(package)) and (version or "none").isprintable()
        ):
            return path, Origin(package, version)
    message = f"origins.json was changed: {setting} is {origin!r}. Restore it, or delete it."
    raise RunFolderError(message)


def _is_there(class_path: str, origin: Origin) -> bool:
    if origin.package is not None:
        return version_of(origin.package) is not None
    try:
        return find_spec(class_path.partition(".")[0]) is not None
    except ValueError:  # an imported module that does not say from where
        return True


def _missing(setting: str, class_path: str, origin: Origin) -> str:
    if origin.package is None:
        return (
            f"The {setting} of this run, {class_path}, came from a module that Python does not find now. "
            "Add the folder of the module to PYTHONPATH."
        )
    return (
        f"The {setting} of this run, {class_path}, came from {origin}, which is not installed now. "
        f"Install it: pip install {origin.package}=={origin.version}"
    )
