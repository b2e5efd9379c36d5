"""Fingerprints of the training images: all tiles of an ensemble must be trained on the same pixels."""

from __future__ import annotations

import csv
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from anomalib_tiled.data.image_files import errors_naming_file
from anomalib_tiled.errors import DataError, RunFolderError
from anomalib_tiled.system.bounds import read_bytes
from anomalib_tiled.system.checksums import Checksum
from anomalib_tiled.system.files import open_table, read_json, replacing, table_of, write_json
from anomalib_tiled.system.progress import track

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anomalib_tiled.ensemble.run import Run
    from anomalib_tiled.grid import Tile
    from anomalib_tiled.runs.run_folder import RunFolder

NAMED = 5
"""Changed images that a message names at most."""

MOST_BYTES = 2**31
"""Bytes of the table of images: several million of them."""


class SeenImage(NamedTuple):
    """State of an image file.

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
        """Give the state of a file, which is read only if its size or its time has changed.

        Raises:
            DataError: The file is missing, or cannot be read.
        """
        with errors_naming_file(path):
            status = path.stat()
            if before is not None and (before.size, before.modified) == (status.st_size, status.st_mtime_ns):
                return before
            try:
                return cls(status.st_size, status.st_mtime_ns, Checksum.of(path).sha256)
            except RunFolderError as error:  # the image is no file of the run
                raise (error.__cause__ or error) from None


def record_images(run: Run, to_train: Sequence[Tile]) -> str | None:
    """Record the state of the training images for the tiles that are trained next.

    Only the content counts: an image that was copied, moved away and back, or touched has not changed.

    Args:
        run: The run.
        to_train: Tiles that are trained next; all others must have been trained on the same images.

    Returns:
        A note for readers of the results if images have changed, but no tile is trained; ``None`` otherwise.

    Raises:
        DataError: Images have changed since other tiles were trained, or cannot be read.
    """
    before, is_mixed = _read(run.folder), len(_fingerprints(run)) > 1
    if not (to_train or before or is_mixed):  # nothing to compare, and no tile to record it for
        return None
    paths = list(dict.fromkeys(sample.image_path for sample in run.split.subset("train")))
    try:
        now = _seen(paths, before)
        if others := _others(run, to_train, now):  # read all images before an error: the record may have changed
            now = _seen(paths, {})
            others = _others(run, to_train, now)
    except DataError:
        if to_train or is_mixed:
            raise
        return None  # the images are no longer needed
    if not others:
        _write(run.folder, now)
        return None
    changed = [path for path, image in now.items() if path in before and before[path].sha256 != image.sha256]
    if not (to_train or is_mixed):
        return f"{_described(changed)} since the tiles were trained: the models learned from the earlier images."
    seen = run.folder.seen()
    named = {tile.name for tile in (*others, *to_train) if seen.has_record(tile)}
    tiles = ",".join(tile.name for tile in run.grid.models if tile.name in named)
    message = (
        f"All tiles of a run must be trained on the same images, but {_described(changed)} since tiles were trained. "
        "Restore the images, or train those tiles again: "
        f"`anomalib tiled fit --ckpt_dir {run.folder.path} --tiles {tiles}`."
    )
    raise DataError(message)


def recorded_fingerprint(folder: RunFolder) -> str:
    """Give the recorded fingerprint of the training images; empty if there is none."""
    return str(read_json(folder.trained_on_file)["fingerprint"]) if folder.trained_on_file.is_file() else ""


def _write(folder: RunFolder, images: dict[str, SeenImage]) -> None:
    """Write the states of images; their fingerprint, which each training of a tile reads, into a file of its own."""
    with replacing(folder.trained_on_table) as temporary, open_table(temporary, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", *SeenImage._fields))
        writer.writerows((path, *image) for path, image in images.items())
    write_json(folder.trained_on_file, {"fingerprint": _fingerprint(images)})


def _read(folder: RunFolder) -> dict[str, SeenImage]:
    """Read the recorded states of images; empty if there are none, so that all images are read."""
    try:
        if folder.trained_on_table.is_file():
            rows = csv.DictReader(table_of(read_bytes(folder.trained_on_table, MOST_BYTES)))
            return {row["path"]: SeenImage(int(row["size"]), int(row["modified"]), row["sha256"]) for row in rows}
        content = read_json(folder.trained_on_file)["images"]  # of an earlier version
        return {path: SeenImage(**image) for path, image in content.items()}  # type: ignore[attr-defined]
    except (RunFolderError, OSError, KeyError, TypeError, AttributeError, ValueError, csv.Error):
        return {}


def _seen(paths: Sequence[Path], before: dict[str, SeenImage]) -> dict[str, SeenImage]:
    """Give the states of images; images that have not changed are not read."""
    return {str(path): SeenImage.of(path, before.get(str(path))) for path in track(paths, "Comparing images")}


def _fingerprint(images: dict[str, SeenImage]) -> str:
    return sha256("".join(image.sha256 for image in images.values()).encode()).hexdigest()


def _others(run: Run, to_train: Sequence[Tile], images: dict[str, SeenImage]) -> list[Tile]:
    """Give the tiles that are not trained next, and were trained on other images."""
    alike, seen, next_ones = {_fingerprint(images), ""}, run.folder.seen(), {tile.name for tile in to_train}
    others = (tile for tile in run.grid.models if tile.name not in next_ones)
    return [tile for tile in others if seen.record(tile).images not in alike]


def _fingerprints(run: Run) -> set[str]:
    """Give the known fingerprints of the images that tiles were trained on."""
    seen = run.folder.seen()
    return {seen.record(tile).images for tile in run.grid.models if seen.has_record(tile)} - {""}


def _described(changed: Sequence[str]) -> str:
    """Say which images have changed, as far as the record tells."""
    if not changed:
        return "training images have changed"
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f"{len(changed)} training images have changed ({', '.join(changed[:NAMED])}{more})"
