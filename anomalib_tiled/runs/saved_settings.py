"""The configuration of a run, read from its folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

from anomalib_tiled.config.settings import Settings
from anomalib_tiled.config.tiling import check_sizes
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.system.bounds import parse_yaml, read_bytes
from anomalib_tiled.system.os_errors import readable
from anomalib_tiled.system.packages import refuse_code_in


def read_settings(config_file: Path) -> Settings:
    """Read the configuration that a run was made with; the same text is checked only once.

    Args:
        config_file: The file in the run folder.

    Raises:
        RunFolderError: The file cannot be read, is not usable after a change by hand, or names a module in the
            folder.
    """
    try:
        with readable(config_file):
            text = read_bytes(config_file).decode()
        return deepcopy(_settings_of(text, config_file.parent, _places()))
    except (ConfigurationError, TypeError, KeyError, AttributeError, ValueError) as error:
        message = f"{config_file} cannot be used any more: {error}. Restore it, or fit a new run."
        raise RunFolderError(message) from error


def _places() -> tuple[str, ...]:
    """Give the places that Python imports modules from."""
    try:
        return (str(Path.cwd()), *sys.path)
    except OSError:  # the working directory was deleted
        return (*sys.path,)


@lru_cache(maxsize=8)
def _settings_of(text: str, folder: Path, places: tuple[str, ...]) -> Settings:
    """Parse and check a configuration; the places decide where its classes come from."""
    del places
    content = parse_yaml(text, "it")
    if not isinstance(content, Mapping):
        message = f"it must hold settings by their names, but holds {'nothing' if content is None else repr(content)}"
        raise ConfigurationError(message)
    refuse_code_in(folder, content)
    settings = Settings.from_mapping(content)
    check_sizes(settings.tiling)
    return settings
