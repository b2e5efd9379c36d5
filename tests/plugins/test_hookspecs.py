"""Every hook is documented, and used by the package itself. A plugin tries all of them out in a whole command."""

from __future__ import annotations

import inspect
from pathlib import Path

import pluggy
import pytest

from anomalib_tiled import hookimpl
from anomalib_tiled.plugins import builtin
from anomalib_tiled.plugins.hookspecs import EVENT_HOOKS, hook_specifications
from anomalib_tiled.stages.kinds import STAGE_KINDS
from anomalib_tiled.system.packages import GROUP

Hooks = hook_specifications()
NAMES = [name for name in dir(Hooks) if not name.startswith("_")]
EACH = pytest.mark.parametrize("name", NAMES)
PAGE = Path(__file__).parents[2] / "docs" / "write-a-stage.md"


@pytest.fixture
def manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    manager.register(builtin)
    manager.check_pending()
    return manager


@EACH
def test_a_hook_is_documented(name: str) -> None:
    documentation = inspect.getdoc(getattr(Hooks, name)) or ""
    if name in EVENT_HOOKS:
        assert list(inspect.signature(getattr(Hooks, name)).parameters)[:2] == ["self", "run_folder"]
        for argument in list(inspect.signature(getattr(Hooks, name)).parameters)[1:]:
            assert f"    {argument}: " in documentation
    else:
        assert documentation.startswith("Give subclasses of ")


def test_a_hook_registers_a_kind_or_is_told_what_happened() -> None:
    assert sorted([*(kind.hook for kind in STAGE_KINDS), *EVENT_HOOKS]) == sorted(NAMES)


@EACH
def test_a_hook_is_implemented_and_documented_by_the_package(name: str, manager: pluggy.PluginManager) -> None:
    (implementation,) = getattr(manager.hook, name).get_hookimpls()
    assert inspect.getdoc(implementation.function)


@EACH
def test_a_hook_has_a_section_with_its_signature_and_an_example(name: str) -> None:
    _, heading, rest = PAGE.read_text(encoding="utf-8").partition(f"\n### {name}\n")
    assert heading, f"docs/write-a-stage.md needs a section ### {name}"
    section = rest.partition("\n##")[0]
    signature = (
        str(inspect.signature(getattr(Hooks, name))).replace("'", "").replace("(self, ", "(").replace("self", "")
    )
    assert f"`{name}{signature.removesuffix(' -> None')}`: " in section
    assert f"\n@hookimpl\ndef {name}(" in section


def test_the_marker_is_what_the_package_offers() -> None:
    assert isinstance(hookimpl, pluggy.HookimplMarker)
    assert hookimpl.project_name == GROUP
