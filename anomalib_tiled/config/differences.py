"""Compare two configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from anomalib_tiled.config.settings import as_size, plain

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain, Settings

FOLDERS = ("default_root_dir", "cache.directory")
"""Settings that say where files are, not what is in them."""


def differences(own: Settings, given: Settings) -> list[str]:
    """Name each setting that differs, such as ``tiling.stride is [64, 64], not [32, 32]``; folders do not count."""
    ours, theirs = _comparable(own), _comparable(given)
    return [
        f"{name} is {ours.get(name)}, not {theirs.get(name)}"
        for name in ours | theirs
        if name not in FOLDERS and theirs.get(name) != ours.get(name)
    ]


def _comparable(settings: Settings) -> dict[str, Plain]:
    """Give settings by their dotted names; sizes as [height, width], so that 64 equals [64, 64]."""
    flat = _flat(plain(settings.to_mapping()))
    sizes = {name: [*as_size(value)] for name, value in flat.items() if name.startswith("tiling.") and value}
    return flat | sizes


def _flat(value: Plain, name: str = "") -> dict[str, Plain]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        inner: each
        for key, nested in value.items()
        for inner, each in _flat(nested, f"{name}.{key}" if name else key).items()
    }
