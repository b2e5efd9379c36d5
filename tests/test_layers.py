"""Rooms and floors: few entries at the top, imports that point downwards, no circles; the docstring is the table."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import anomalib_tiled

PACKAGE = Path(anomalib_tiled.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
MOST_ENTRIES = 20
MOST_LINES = 450
MOST_LINES_OF_A_FUNCTION = 60


def entry_of(path: Path) -> str:
    """Name in the table: of the module, or of the folder that it is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ENTRIES = {entry_of(path) for path in MODULES}


def table() -> list[str]:
    lines = [line for line in anomalib_tiled.__doc__.splitlines() if line.startswith("    ")]
    return [line.split()[0] for line in lines]


def name_of(path: Path) -> str:
    parts = ["anomalib_tiled", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names that a statement imports, those given to `import_module` among them."""
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            assert node.level == 0, "imports are written out in full"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in NAMES else str(node.module)
        case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=name), *_]):
            yield name


def modules_imported_by(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {name for node in ast.walk(tree) for name in imported(node)}
    return {name for name in names if name.startswith("anomalib_tiled.")}


def circle_in(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules of a circle of imports, the first one again at the end; empty if there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_entry_stands_in_the_table_once() -> None:
    assert sorted(table()) == sorted(ENTRIES)


def test_the_top_level_can_be_taken_in_at_a_glance() -> None:
    assert len(ENTRIES | {"__init__"}) <= MOST_ENTRIES


def test_folders_are_one_level_deep() -> None:
    assert all(len(path.relative_to(PACKAGE).parts) <= 2 for path in MODULES)


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "def f():\n    from anomalib_tiled import pipeline\n    import_module('anomalib_tiled.data.cache')\n"
    )
    assert modules_imported_by(source) == {"anomalib_tiled.pipeline", "anomalib_tiled.data.cache"}


def test_modules_import_from_their_own_folder_or_from_below() -> None:
    above = {entry: set(table()[:place]) for place, entry in enumerate(table())}
    assert not {
        (name_of(path), name)
        for path in MODULES
        for name in modules_imported_by(path)
        if name.split(".")[1] in above[entry_of(path)]
    }


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    assert not circle_in({name_of(path): modules_imported_by(path) - {name_of(path)} for path in MODULES})


def test_a_circle_is_found() -> None:
    assert sorted(set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}))) == ["a", "b", "c"]


def test_files_and_functions_can_be_read_in_one_go() -> None:
    long = []
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        lengths = {
            node.name: (node.end_lineno or 0) - node.lineno + 1
            for node in ast.walk(ast.parse(source))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        long += [name_of(path)] if len(source.splitlines()) > MOST_LINES else []
        long += [f"{name_of(path)}.{name}" for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION]
    assert not long
