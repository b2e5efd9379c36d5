"""Images that were added to the folders of a run after its split."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data import AnomalibDataModule, Folder
from anomalib.data.utils.path import resolve_path

from anomalib_tiled.data.images import image_endings
from anomalib_tiled.data.setup import as_folder, several

if TYPE_CHECKING:
    from anomalib_tiled.data.split import Split


def appeared(split: Split, datamodule: AnomalibDataModule) -> tuple[int, Path] | None:
    """Find images that are in the folders of a data module, but in no subset.

    Args:
        split: The split of the run.
        datamodule: Data module of the run. Only those that are known to search folders are checked.

    Returns:
        Number of such images, and the newest; ``None`` if there are none.
    """
    folder = as_folder(datamodule)
    if folder is None:
        return None
    kinds = [
        [resolve_path(each, folder.root).resolve() for each in several(kind)]
        for kind in (folder.normal_dir, folder.normal_test_dir, folder.abnormal_dir)
    ]
    named = {sample.image_path for sample in split.samples}
    found = {path for kind in kinds for path in _images_of_kind(kind, folder, named)} - named
    number = len(found) - _painted(split, [each for kind in kinds for each in kind])
    return (number, max(sorted(found), key=_changed)) if number > 0 else None


def _painted(split: Split, folders: list[Path]) -> int:
    """Count synthetic defects, each of which was painted on an image that is in no subset."""
    anomalous = {sample.image_path for sample in split.samples if sample.label == 1}
    return sum(not any(path.is_relative_to(folder) for folder in folders) for path in anomalous)


def _images_of_kind(kind: list[Path], folder: Folder, named: set[Path]) -> list[Path]:
    """Give all images of a kind; none if the split does not use that kind."""
    if not any(path.is_relative_to(each) for path in named for each in kind):
        return []
    endings = tuple(ending.lower() for ending in folder.extensions or image_endings())
    return [path for each in kind for path in each.glob("**/*") if path.suffix.lower() in endings and path.is_file()]


def _changed(path: Path) -> float:
    """Give the time at which a file was put here or renamed; 0 if it was deleted meanwhile."""
    with suppress(OSError):
        return path.stat().st_ctime
    return 0
