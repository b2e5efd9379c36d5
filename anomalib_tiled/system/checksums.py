"""Checksums of finished files, so that no command uses a file that was cut short or changed."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.os_errors import readable

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 2**22
"""Bytes read at a time."""


@dataclass(frozen=True)
class Checksum:
    """Size and SHA-256 checksum of a finished file.

    Args:
        size: Number of bytes.
        sha256: Checksum in hexadecimal digits, as ``sha256sum`` prints it.
    """

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Checksum:
        """Compute the checksum of a finished file.

        Raises:
            RunFolderError: The file cannot be read.
        """
        digest = sha256()
        with readable(path):
            with path.open("rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
            return cls(path.stat().st_size, digest.hexdigest())

    def check_size(self, path: Path, advice: str) -> None:
        """Compare the number of bytes, without reading the file.

        Args:
            path: The file.
            advice: What to do if it differs; a sentence.

        Raises:
            RunFolderError: The file was cut short or grew, or cannot be accessed.
        """
        with readable(path):
            size = path.stat().st_size
        if size != self.size:
            raise self.other_size(size, path, advice)

    def other_size(self, size: int, path: Path, advice: str) -> RunFolderError:
        """Say that a file has another size than it had; arguments are those of `check`, and the size in bytes."""
        return RunFolderError(f"{path} had {self.size} bytes when it was finished, and has {size} now. {advice}")

    def check(self, path: Path, advice: str) -> None:
        """Compare size and checksum.

        Args:
            path: The file.
            advice: What to do if it differs; a sentence.

        Raises:
            RunFolderError: The file was cut short or changed.
        """
        self.check_size(path, advice)
        self._compare(Checksum.of(path).sha256, path, advice)

    def read(self, path: Path, advice: str) -> bytes:
        """Read a small file, and compare what was read; arguments and errors are those of `check`."""
        self.check_size(path, advice)
        with readable(path):
            content = path.read_bytes()
        self._compare(sha256(content).hexdigest(), path, advice)
        return content

    def _compare(self, digest: str, path: Path, advice: str) -> None:
        if digest != self.sha256:
            message = f"{path} was changed after it was finished. {advice}"
            raise RunFolderError(message)
