"""The configuration of a run, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import check_sizes
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.system.bounds import parse_yaml, read_bytes
from anomalib_tiled.system.os_errors import readable
from anomalib_tiled.system.packages import refuse_code_in

if TYPE_CHECKING:
    from pathlib import Path


def read_settings(config_file: Path) -> Settings:
    """Read the configuration that a run was made with.

    Args:
        config_file: The file in the run folder.

    Raises:
        RunFolderError: The file cannot be read, is not usable after a change by hand, or names a module in the
            folder.
    """
    try:
        with readable(config_file):
            text = read_bytes(config_file).decode()
        return settings_of(text, config_file.parent)
    except (ConfigurationError, TypeError, KeyError, AttributeError, ValueError) as error:
        message = f"{config_file} cannot be used any more: {error}. Restore it, or fit a new run."
        raise RunFolderError(message) from error


def settings_of(text: str, folder: Path | None = None) -> Settings:
    """Parse and check the text of a run's configuration.

    Args:
        text: The text.
        folder: The run folder, in which no module may lie that the text names; ``None`` for a run that is made.
    """
    content = parse_yaml(text, "it")
    if not isinstance(content, Mapping):
        message = f"it must hold settings by their names, but holds {'nothing' if content is None else repr(content)}"
        raise ConfigurationError(message)
    if folder is not None:
        refuse_code_in(folder, content)
    settings = Settings.from_mapping(content)
    check_sizes(settings.tiling)
    return settings
