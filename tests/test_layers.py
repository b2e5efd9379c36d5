"""Modules import downwards only, in the order of the table in the package's docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import anomalib_tiled

PACKAGE = Path(anomalib_tiled.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def entry_of(path: Path) -> str:
    """Name in the table: of the module, or of the folder that it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ENTRIES = {entry_of(path) for path in MODULES}


def layers() -> list[list[str]]:
    lines = [line for line in anomalib_tiled.__doc__.splitlines() if line.startswith("    ")]
    return [re.split(r" {2,}", line.strip())[:-1] for line in lines]


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement imports, those given to `import_module` among them."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            assert node.level == 0, "imports are written out in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=name), *_]):
            yield name


def entries_imported_by(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {name for node in ast.walk(tree) for name in imported(node)}
    parts = [name.split(".") for name in names if name.startswith("anomalib_tiled.")]
    return {second for _, second, *_ in parts} & ENTRIES


def test_every_module_stands_in_the_table_once() -> None:
    assert sorted(name for layer in layers() for name in layer) == sorted(ENTRIES)


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text("def f():\n    from anomalib_tiled import cli\n    import_module('anomalib_tiled.data.cache')\n")
    assert entries_imported_by(source) == {"cli", "data"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_from_its_own_line_or_below(path: Path) -> None:
    table = layers()
    own = next(number for number, layer in enumerate(table) if entry_of(path) in layer)
    above = {name for layer in table[:own] for name in layer}
    assert not entries_imported_by(path) & above
