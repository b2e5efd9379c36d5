"""What the training images were like when tiles saw them: models of different pixels must not end in one ensemble."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from anomalib_tiled.data.images import errors_naming_file
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import read_json, write_json
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder

NAMED = 5
"""Images that a message names; more may have changed."""


class SeenImage(NamedTuple):
    """What a file was like.

    Args:
        size: Number of bytes.
        modified: Time of its last change, in nanoseconds.
        sha256: Checksum of its content.
    """

    size: int
    modified: int
    sha256: str

    @classmethod
    def of(cls, path: Path, before: SeenImage | None) -> SeenImage:
        """Look at a file, which is read only if its size or its time are not what they were.

        Raises:
            DataError: It is missing, or cannot be read.
        """
        with errors_naming_file(path):
            status = path.stat()
            if before is not None and (before.size, before.modified) == (status.st_size, status.st_mtime_ns):
                return before
            try:
                return cls(status.st_size, status.st_mtime_ns, Checksum.of(path).sha256)
            except RunFolderError as error:  # it is no file of the run
                raise (error.__cause__ or error) from None


def note_images(run: Run, to_train: Sequence[Tile]) -> str | None:
    """Note what the training images are like, for the tiles that are trained from now on.

    Content decides: an image that was copied, moved away and back, or touched is what it was.

    Args:
        run: The run.
        to_train: Tiles that are trained now; all others must have seen the same images.

    Returns:
        What a reader of the results should know if images have changed, but no tile is trained; ``None`` otherwise.

    Raises:
        DataError: Images have changed since other tiles were trained, or cannot be read.
    """
    before, is_mixed = _read(run.folder), len(_fingerprints(run)) > 1
    if not (to_train or before or is_mixed):  # there is nothing to compare, and nothing to note it for
        return None
    paths = list(dict.fromkeys(sample.image_path for sample in run.split.subset("train")))
    try:
        now = _seen(paths, before)
        if others := _others(run, to_train, now):  # before anything is claimed, all are read: the note may be altered
            now = _seen(paths, {})
            others = _others(run, to_train, now)
    except DataError:
        if to_train or is_mixed:
            raise
        return None  # they are needed no more
    if not others:
        images = {path: image._asdict() for path, image in now.items()}
        write_json(run.folder.trained_on_file, {"fingerprint": _fingerprint(now), "images": images})
        return None
    changed = [path for path, image in now.items() if path in before and _differ(before[path], image)]
    if not (to_train or is_mixed):
        return f"{_described(changed)} since the tiles were trained: their models know them as they were."
    again = [tile for tile in to_train if run.folder.has_record(tile)]
    tiles = ",".join(tile.name for tile in run.grid.tiles if tile in others or tile in again)
    message = (
        f"All tiles of a run must be trained on the same images, but {_described(changed)} since tiles were trained. "
        "Put them back as they were, or train those tiles again: "
        f"`anomalib tiled fit --ckpt_dir {run.folder.path} --tiles {tiles}`."
    )
    raise DataError(message)


def noted_fingerprint(folder: RunFolder) -> str:
    """Give the fingerprint of the training images as they were noted; empty if they were not."""
    return str(read_json(folder.trained_on_file)["fingerprint"]) if folder.trained_on_file.is_file() else ""


def _read(folder: RunFolder) -> dict[str, SeenImage]:
    """Read what images were like; nothing where it is not known, so that all are read."""
    try:
        content = read_json(folder.trained_on_file)["images"]
        return {path: SeenImage(**image) for path, image in content.items()}  # type: ignore[attr-defined]
    except (RunFolderError, KeyError, TypeError, AttributeError):
        return {}


def _seen(paths: Sequence[Path], before: dict[str, SeenImage]) -> dict[str, SeenImage]:
    """Look at images; those that are as they were before are not read."""
    return {str(path): SeenImage.of(path, before.get(str(path))) for path in track(paths, "Comparing images")}


def _fingerprint(images: dict[str, SeenImage]) -> str:
    return sha256("".join(image.sha256 for image in images.values()).encode()).hexdigest()


def _others(run: Run, to_train: Sequence[Tile], images: dict[str, SeenImage]) -> list[Tile]:
    """Give the tiles that are not trained now, and saw other images."""
    fingerprint = _fingerprint(images)
    return [tile for tile in run.grid.tiles if tile not in to_train and _saw_others(run.folder, tile, fingerprint)]


def _differ(before: SeenImage, now: SeenImage) -> bool:
    """Whether an image has changed; one that nobody has touched since it was noted has not, whatever the note says."""
    is_touched = (before.size, before.modified) != (now.size, now.modified)
    return is_touched and before.sha256 != now.sha256


def _fingerprints(run: Run) -> set[str]:
    """Give the fingerprints of the images that tiles were trained on, as far as they are known."""
    done = [run.folder.record(tile) for tile in run.grid.tiles if run.folder.has_record(tile)]
    return {record.images for record in done} - {""}


def _saw_others(folder: RunFolder, tile: Tile, fingerprint: str) -> bool:
    return folder.record(tile).images not in {fingerprint, ""}


def _described(changed: Sequence[str]) -> str:
    """Say which images have changed, if that is known."""
    if not changed:
        return "training images have changed"
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f"{len(changed)} training images have changed ({', '.join(changed[:NAMED])}{more})"
