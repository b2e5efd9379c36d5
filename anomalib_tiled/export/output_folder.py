"""The folder of an export: empty, new, or an earlier export that is replaced once the new one is complete."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.export.manifest import MANIFEST
from anomalib_tiled.system.files import read_json
from anomalib_tiled.system.os_errors import storage_errors
from anomalib_tiled.system.temporary import working_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = "export.log"

WORK = ".exporting"
"""Beginning of the names of temporary folders inside the output, to which an export is written first."""

EARLIER = ".earlier-"
"""Prefix of temporary folders inside the output, which hold an earlier export while it is replaced."""

MADE_BY_USE = "__pycache__"
"""Folder that Python makes beside a program that is imported."""


@contextmanager
def replacing_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write to, whose files are moved to the output once all are written.

    The folder is inside the output, which may be a link or another disk; its parent may not be writable.

    Args:
        output: The folder.
        overwrite: Whether an earlier export there is replaced.

    Raises:
        ConfigurationError: The output holds other files, or an earlier export, and ``overwrite`` is false.
    """
    output = output.resolve()
    with storage_errors(output):
        _check_free(output, overwrite=overwrite)
        is_new = not output.exists()
        output.mkdir(parents=True, exist_ok=True)
        try:
            with working_folder(output, WORK.removeprefix(".")) as work:
                new = work / "new"
                new.mkdir()
                yield new
                _exchange(_others(output), output, new)
        finally:
            if is_new and not any(output.iterdir()):
                output.rmdir()


def _exchange(earlier: list[Path], output: Path, new: Path) -> None:
    """Move earlier files away and new files to their place; undo all moves if one fails."""
    old = Path(mkdtemp(prefix=EARLIER, dir=output))  # outside the working folder, which is always removed
    try:
        with ExitStack() as undo:
            for path, folder in [*((each, old) for each in earlier), *((each, output) for each in new.iterdir())]:
                path.replace(target := folder / path.name)
                undo.callback(target.replace, path)
            undo.pop_all()
    finally:
        with suppress(OSError):
            old.rmdir()  # it stays if it holds anything
    for path in output.glob(f"{EARLIER}*"):  # also those that earlier exports could not remove
        shutil.rmtree(path, ignore_errors=True)


def _check_free(output: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but an earlier export."""
    if not (output / MANIFEST).is_file() and (kept := sorted(output.glob(f"{EARLIER}*"))):
        message = (
            f"{output} was being replaced when the command was killed: {kept[0]} holds the export that was there. "
            "Move it back, or delete it."
        )
        raise ConfigurationError(message)
    if not output.exists() or (output.is_dir() and not any(_others(output))):
        return
    if foreign := _foreign_files(output):
        message = (
            f"--output must be a new or empty folder, or an earlier export, but {output} holds {foreign[0]}, which "
            "no export has written. Move it away, or choose another folder."
        )
        raise ConfigurationError(message)
    if not overwrite:
        message = f"{output} holds an earlier export. Replace it by --overwrite, or choose another folder by --output."
        raise ConfigurationError(message)


def _foreign_files(output: Path) -> list[str]:
    """List the files that do not belong to an export."""
    try:
        content = read_json(output / MANIFEST)
    except RunFolderError:
        content = {}
    files = content.get("files")
    known = {MANIFEST, LOG, *files} if "format" in content and isinstance(files, dict) else {LOG}
    names = [
        path.relative_to(output).as_posix()
        for top in _others(output)
        for path in (sorted(top.rglob("*")) if top.is_dir() else [top])
        if not path.is_dir() and path.parent.name != MADE_BY_USE
    ]
    return [name for name in names if name not in known]


def _others(output: Path) -> list[Path]:
    """List the files in the folder, except those that killed exports have left."""
    return sorted(path for path in output.iterdir() if not path.name.startswith((WORK, EARLIER)))
