"""Load model.pt2 of this folder, after checking its content: PyTorch alone would run code in the file.

    from load import load
    found = load()(images)

Needs PyTorch 2.9 or newer, and the files beside it. Images: RGB, channels first, shape (batch, 3, height, width), of
the type in manifest.json. Returns the outputs that manifest.json lists, by name.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import torch

OLDEST = (2, 9)
try:
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST:
        raise ImportError  # noqa: TRY301  # one message for both
    from torch.export.pt2_archive._package import load_pt2
except ImportError as error:
    found = f"but this is {torch.__version__}, which cannot read the files. Install another version."
    needed = f"load.py needs PyTorch 2.9 or newer, preferably the version that manifest.json names, {found}"
    raise ImportError(needed) from error

FOLDER = Path(__file__).resolve().parent
ROUNDING = 1e-5  # how far beyond black and white resizing may take a pixel
NAME = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/\w+"
)
TARGET = re.compile(
    r"torch\.ops\.(aten\.(?!from_file|save)\w+(\.\w+)?|prims\.\w+(\.\w+)?)"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast|cond|map_impl|scan|while_loop)"
    r"|torch\._?sym_\w+|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|ge|gt|le|lt|eq|ne|and_|or_|not_|getitem)"
)
PLAIN = re.compile(r"[\w.:+-]*")
SIZE = re.compile(
    r"(Symbol\('\w+'|Float\('[\d.e+-]+'|precision=\d+|(positive|integer|nonnegative|finite)=True"
    r"|(Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|IntTrueDiv|FloatTrueDiv)\("
    r"|(CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|ToFloat|FloatPow|PowByNatural)\("
    r"|(Equality|Unequality|(Strict)?(Greater|Less)Than|And|Or|Not|OpaqueUnaryFn_(sqrt|ceil|floor|trunc))\("
    r"|(s|u)\d+|\d+\.\d+|[-+*/(),\d ])+"
)
TREE = {"builtins.dict", "builtins.list", "builtins.tuple", None}
"""All that an export may contain: files, operators, names, sizes (which Python evaluates) and containers."""


def load(
    folder: str | Path = FOLDER, *, allow_altered: bool = False
) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """Load the model.

    Args:
        folder: Folder of manifest.json.
        allow_altered: Whether to load a file that has changed; code in it is still refused.
    """
    path = Path(folder) / "model.pt2"
    manifest = json.loads(path.with_name("manifest.json").read_text(encoding="utf-8"))
    if not allow_altered and checksum(path) != manifest["files"]["model.pt2"]["sha256"]:
        message = f"{path} has changed since its export. Export it again, or load it with allow_altered=True."
        raise ValueError(message)
    check(path)
    model = load_pt2(str(path)).exported_programs["model"].module()  # torch.export.load may read unchecked files
    shape, dtype = manifest["inputs"][0]["shape"], manifest["inputs"][0]["dtype"]

    def predict(images: torch.Tensor) -> dict[str, torch.Tensor]:
        batch = images.shape[0] if shape[0] == "any" else shape[0]
        if images.dtype != getattr(torch, dtype) or [*images.shape] != [batch, *shape[1:]]:
            message = f"Images must be {dtype} of shape {shape}, but are {images.dtype}, {tuple(images.shape)}."
            raise ValueError(message)
        lowest, highest = manifest["inputs"][0]["range"]
        if not (len(images) and images.min() >= lowest - ROUNDING and images.max() <= highest + ROUNDING):
            given = f"values from {images.min()} to {images.max()}" if len(images) else "none: the batch is empty"
            message = f"Images must have values from {lowest} to {highest}, but have {given}."
            raise ValueError(message)
        with torch.no_grad():
            found: dict[str, torch.Tensor] = model(images.clamp(lowest, highest))
        return found

    return predict


def checksum(path: Path) -> str:
    """Compute the SHA-256 checksum of a file, as in manifest.json."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()


def check(path: Path) -> None:
    """Refuse an archive that holds more than tensors and operators of PyTorch.

    Raises:
        ValueError: The archive holds something else.
    """
    archive = torch._C.PyTorchFileReader(str(path))  # noqa: SLF001  # loads the file too, so both see the same in it
    names = archive.get_all_records()
    if "models/model.json" not in names:
        _refuse(path, "no model")
    for name in names:
        if not NAME.fullmatch(name):
            _refuse(path, f"the file {name}")
        if names.count(name) > 1:
            _refuse(path, f"two files {name}")
        if name.endswith(".json"):
            for key, value in _settings(json.loads(archive.get_record(name))):
                _check_setting(path, key, value)
        if name.endswith(".pt"):
            torch.load(io.BytesIO(archive.get_record(name)), weights_only=True)


def _check_setting(path: Path, key: str, value: object) -> None:
    if key in {"in_spec", "out_spec"}:
        for inner, kind in _settings(json.loads(str(value))):
            if (inner == "type" and kind not in TREE) or (inner == "context" and "module" in str(kind)):
                _refuse(path, f"the container {kind}")
    elif isinstance(value, str) and key != "as_string":  # operators take that string as data
        form = TARGET if key == "target" else SIZE if key == "expr_str" else PLAIN
        if not form.fullmatch(value):
            _refuse(path, f"the {key} {value!r}")
    if (key == "use_pickle" and value is not False) or (key == "guards_code" and value):
        _refuse(path, f"{key} {value!r}")
    if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
        _refuse(path, f"the weights {value!r}")
    if not PLAIN.fullmatch(key):
        _refuse(path, f"the name {key!r}")


def _settings(content: object) -> Iterator[tuple[str, object]]:
    values = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in values:
        yield str(key), value
        yield from _settings(value)


def _refuse(path: Path, what: str) -> None:
    message = f"{path} must hold only tensors and operators of PyTorch, but holds {what}. Export it again."
    raise ValueError(message)
