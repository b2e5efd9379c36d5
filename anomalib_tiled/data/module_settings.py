"""Checks the settings of a data module before it looks for images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

LEAST = {"train_batch_size": 1, "eval_batch_size": 1, "num_workers": 0}
"""The lowest allowed value of each number of a data module."""

PATH_PARTS = re.compile(r"[/\\\x00-\x1f]")
"""Characters that separate folders, here or on other systems, or end a path."""


def check_numbers(datamodule: AnomalibDataModule) -> None:
    """Refuse numbers with which nothing can be loaded.

    Raises:
        ConfigurationError: A batch size is below 1, or the number of processes is negative.
    """
    for name, least in LEAST.items():
        value = getattr(datamodule, name, least)
        if value < least:
            message = f"data.init_args.{name} must be at least {least}, but is {value}. Raise it."
            raise ConfigurationError(message)


def folders_of(datamodule: AnomalibDataModule) -> list[str]:
    """Give the folders of runs on a data module: its name, and its category if it has one.

    Raises:
        ConfigurationError: A name is no folder name, so a run would be written elsewhere.
    """
    names = {"name": datamodule.name, **({"category": datamodule.category} if datamodule.category else {})}
    for setting, name in names.items():
        if PATH_PARTS.search(str(name)) or str(name) in {"", ".", ".."}:
            message = (
                f"data.init_args.{setting} must be the name of a folder, because runs are written there, "
                f"but is {name!r}. Give a name without / and \\; default_root_dir sets where runs go."
            )
            raise ConfigurationError(message)
    return [str(name) for name in names.values()]
