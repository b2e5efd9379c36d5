"""What a place must prove before it gets work: that it sees the run, and has the same software and the device."""

from __future__ import annotations

import platform
import secrets
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import torch

from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.system.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from anomalib_tiled.workers.task import Work

COMPARED = ("anomalib-tiled", "anomalib", "torch")
"""Packages that must have the same version everywhere: others could give other numbers."""


@dataclass(frozen=True)
class PlaceReport:
    """What a place says of itself.

    Args:
        host: Name of its machine.
        device: Device that it works on, such as ``cuda:0 NVIDIA H100``, or the name of its processor.
        instructions: Kind of its processor, with the instructions that PyTorch uses of it, such as ``x86_64 AVX2``:
            others may give other last digits.
    """

    host: str
    device: str
    instructions: str

    def __str__(self) -> str:
        """Give all of it in a line."""
        return f"{self.host}, {self.device}, {self.instructions}"


@dataclass(frozen=True)
class Token:
    """A file that a place must read, so that it is sure to see the same storage.

    Args:
        path: The file.
        content: Its random content.
    """

    path: Path
    content: str

    @classmethod
    def of(cls, folder: Path) -> Token:
        """Give that of a folder. It is written once, because places that are still starting read it later."""
        path = folder / "token"
        return cls(path, path.read_text()) if path.is_file() else cls.new(folder)

    @classmethod
    def new(cls, folder: Path) -> Token:
        """Write a new one into a folder: places that have another one, of an earlier command, find that it is gone."""
        token = cls(folder / "token", secrets.token_hex())
        write_text(token.path, token.content)
        return token

    def check(self) -> None:
        """Read it.

        Raises:
            RunFolderError: It is missing here, or another one.
        """
        try:
            read = self.path.read_text()
        except OSError as error:
            read = str(error)
        if read != self.content:
            folder = self.path.parent.parent
            message = (
                f"{folder} must be the same shared folder on every machine, but {platform.node()} does not see it "
                f"({read if str(self.path) in read else 'another folder has its name'}). Mount it there at this path."
            )
            raise RunFolderError(message)


@dataclass(frozen=True)
class Proof:
    """The first task of every place.

    Args:
        versions: Versions of the packages of the command, by name.
        token: The file to read; ``None`` on the machine of the command.
        check: Takes ``None`` and a device, raises what is missing for the work, and returns the name of the device.
    """

    versions: dict[str, str]
    token: Token | None
    check: Work

    def __call__(self, item: None, *, device: int | None = None) -> PlaceReport:
        """Prove everything.

        Raises:
            ConfigurationError: A package has another version.
            RunFolderError: The place does not see the run folder.
            TiledError: What ``check`` raises.
        """
        del item
        for name, needed in self.versions.items():
            if (own := installed(name)) != needed:
                message = (
                    f"{name} must have version {needed}, as where the command runs, but {platform.node()} has {own}. "
                    "Install the same environment on every machine."
                )
                raise ConfigurationError(message)
        if self.token is not None:
            self.token.check()
        return PlaceReport(platform.node(), str(self.check(None, device=device)), instructions())


def installed(name: str) -> str:
    """Give the installed version of a package; ``none`` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def versions() -> dict[str, str]:
    """Give the versions of the packages that must be the same everywhere."""
    return {name: installed(name) for name in COMPARED}


def instructions() -> str:
    """Give the kind of the processor, with the instructions that PyTorch uses of it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
