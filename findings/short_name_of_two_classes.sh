#!/usr/bin/env bash
# A short class name that jsonargparse resolves stops working as soon as any imported module has a second such subclass.
#
# Behaviour: `--merger Mean` finds the only subclass of that name, wherever it was defined. After the import of a module that
#   defines another subclass called Mean, even one that nothing uses, the same argument is an ArgumentError that asks for
#   the full class path. It stays one after the module is removed from sys.modules and its last name is deleted, because
#   classes refer to themselves: only gc.collect() makes the name work again.
# Versions: jsonargparse 4.46.0 on Python 3.11.
# Wrong guess: the class that was defined or registered first, or the one next to the base class, wins.
# Matters to: programs with plugins that take short names, and their tests: a stand-in class of one test breaks the next.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --quiet --disable-pip-version-check 'jsonargparse[signatures]==4.46.0'
cat > "$folder/stages.py" <<'PYTHON'
class Merger: ...


class Mean(Merger): ...
PYTHON
cat > "$folder/elsewhere.py" <<'PYTHON'
from stages import Merger


class Mean(Merger): ...
PYTHON
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import gc
import importlib
import sys

import jsonargparse

sys.path.insert(0, ".")
stages = importlib.import_module("stages")


def parse():
    """Give the class path that the short name means, or the error."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--merger", type=stages.Merger)
    try:
        return parser.parse_args(["--merger", "Mean"]).merger.class_path
    except jsonargparse.ArgumentError as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


gc.disable()
found = {"one class": parse()}
importlib.import_module("elsewhere")
found["a second class was imported"] = parse()
del sys.modules["elsewhere"]
found["its module was removed"] = parse()
gc.collect()
found["garbage was collected"] = parse()
print(f"jsonargparse {jsonargparse.__version__}, Python {sys.version.split()[0]}")
for name, value in found.items():
    print(f"{name}: {value}")
first, second, third, fourth = found.values()
as_described = first == fourth == "stages.Mean" and second == third and "Multiple subclasses with name Mean" in second
sys.exit(0 if as_described else "the behaviour has changed")
PYTHON
