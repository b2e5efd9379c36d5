from __future__ import annotations

import inspect

import pytest

from anomalib_tiled import errors
from anomalib_tiled.errors import TiledError, allowed_names

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_in_the_tree_and_drawn(error: type[Exception]) -> None:
    assert issubclass(error, TiledError)
    assert error.__name__ in errors.__doc__


def test_the_nearest_name_is_suggested() -> None:
    sentence = allowed_names("strid", ["tile_size", "stride", "stride"])
    assert sentence == "Did you mean 'stride'? Allowed: stride, tile_size."


def test_capital_letters_do_not_matter_to_the_suggestion() -> None:
    assert allowed_names("auroc", ["AUROC", "F1Score"]).startswith("Did you mean 'AUROC'?")


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert allowed_names("xyz", ["stride"]) == "Allowed: stride."
