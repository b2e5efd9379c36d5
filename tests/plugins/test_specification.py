"""Every hook is documented, belongs to a kind of stage, and is used by the built-in stages themselves."""

from __future__ import annotations

import inspect

import pluggy
import pytest

from anomalib_tiled import builtin, hookimpl
from anomalib_tiled.plugins.discovery import KINDS
from anomalib_tiled.plugins.specification import GROUP, Hooks

NAMES = [name for name in vars(Hooks) if not name.startswith("_")]
EACH = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    manager.register(builtin)
    manager.check_pending()
    return manager


@EACH
def test_a_hook_is_documented(name: str) -> None:
    documentation = inspect.getdoc(getattr(Hooks, name))
    assert documentation
    assert documentation.startswith("Give classes that ")


@EACH
def test_a_hook_belongs_to_a_kind(name: str) -> None:
    assert list(KINDS.values()).count(name) == 1


def test_every_kind_has_a_hook() -> None:
    assert set(KINDS.values()) == set(NAMES)


@EACH
def test_a_hook_is_used_by_the_built_in_stages(name: str, manager: pluggy.PluginManager) -> None:
    (classes,) = getattr(manager.hook, name)()
    assert classes
    assert all(inspect.isclass(each) for each in classes)
    assert len({each.__name__ for each in classes}) == len(classes), "a name stands for one class"


@EACH
def test_a_built_in_hook_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(builtin, name))


def test_the_example_is_what_the_package_offers() -> None:
    assert isinstance(hookimpl, pluggy.HookimplMarker)
    assert hookimpl.project_name == GROUP
