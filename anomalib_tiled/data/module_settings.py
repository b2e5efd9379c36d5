"""What a data module may be set to, checked before it looks for images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anomalib_tiled.errors import ConfigurationError

if TYPE_CHECKING:
    from anomalib.data import AnomalibDataModule

LEAST = {"train_batch_size": 1, "eval_batch_size": 1, "num_workers": 0}
"""The lowest value of each number that a data module has."""

PATH_PARTS = re.compile(r"[/\\\0]")
"""Characters that part folders, here or elsewhere, or end a path."""


def check_numbers(datamodule: AnomalibDataModule) -> None:
    """Refuse numbers with which nothing can be loaded.

    Raises:
        ConfigurationError: A batch would hold no image, or fewer than no processes would load them.
    """
    for name, least in LEAST.items():
        value = getattr(datamodule, name, least)
        if value < least:
            message = f"data.init_args.{name} must be at least {least}, but is {value}. Raise it."
            raise ConfigurationError(message)


def folders_of(datamodule: AnomalibDataModule) -> list[str]:
    """Give the folders that runs on a data module lie in: its name, and its category if it has one.

    Raises:
        ConfigurationError: One is no name of a folder, so that a run would be written elsewhere.
    """
    names = {"name": datamodule.name, **({"category": datamodule.category} if datamodule.category else {})}
    for setting, name in names.items():
        if PATH_PARTS.search(str(name)) or str(name) in {"", ".", ".."}:
            message = (
                f"data.init_args.{setting} must be the name of a folder, because runs are written into one of that "
                f"name, but is {name!r}. Give a name without / and \\; default_root_dir says where runs go."
            )
            raise ConfigurationError(message)
    return [str(name) for name in names.values()]
