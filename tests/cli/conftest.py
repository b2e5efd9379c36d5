"""The parser of ``fit`` with the arguments that it requires."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from anomalib_tiled.cli.options import settings_from
from anomalib_tiled.cli.parser import Parser
from anomalib_tiled.config.settings import Settings


@pytest.fixture(scope="session")
def needed() -> list[str]:
    """The arguments that ``fit`` requires."""
    data = ["--data", "Folder", "--data.name", "tiny", "--data.normal_dir", "good"]
    return ["--tiling.tile_size", "64", "--model", "Padim", *data]


@pytest.fixture(scope="session")
def parse(parser: Parser, needed: list[str]) -> Callable[..., Settings]:
    """Give the settings of arguments, the required ones put in front."""
    return lambda *given: settings_from(parser, parser.parse_args([*needed, *given]))
