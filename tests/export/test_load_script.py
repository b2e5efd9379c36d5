"""The program beside a file of PyTorch loads what was exported, and nothing that holds code."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from anomalib_tiled.ensemble.ensemble import EnsembleModel
from anomalib_tiled.export.formats import TorchFormat
from anomalib_tiled.export.load_script import check, checksum, load
from anomalib_tiled.export.manifest import checksums_of
from anomalib_tiled.export.whole import Whole, ensemble_graph
from anomalib_tiled.export.writers import LOADER

Change = Callable[[dict[str, bytes]], None]


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small model, and a manifest."""
    folder = tmp_path_factory.mktemp("exported")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.ReLU())
    batch = torch.export.Dim("batch")
    program = torch.export.export(model.eval(), (torch.rand(2, 3, 4, 6),), dynamic_shapes=({0: batch},))
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    torch.export.save(program, folder / "model.pt2")
    image = {"shape": ["any", 3, 4, 6], "dtype": "float32", "range": [0, 1]}
    files = checksums_of(folder, [folder / "model.pt2"])
    (folder / "manifest.json").write_text(json.dumps({"inputs": [image], "files": files}))
    return folder


def changed(path: Path, target: Path, change: Change) -> Path:
    """Write an archive again, with other content."""
    with ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with ZipFile(target, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target


def replaced(end: str, old: str, new: str) -> Change:
    """Replace text in the file whose name ends so."""

    def change(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.endswith(end))
        assert old in files[name].decode()
        files[name] = files[name].decode().replace(old, new, 1).encode()

    return change


def test_an_ensemble_is_loaded(
    make_ensemble: Callable[..., EnsembleModel],
    whole_of: Callable[..., Whole],
    images: torch.Tensor,
    tmp_path: Path,
) -> None:
    ensemble = make_ensemble(normalize_at="tile", threshold_at="tile")
    TorchFormat().write(ensemble_graph(whole_of(ensemble)), tmp_path / "model.pt2")
    image = {"shape": ["any", 3, *images.shape[2:]], "dtype": "float32", "range": [0, 1]}
    files = checksums_of(tmp_path, [tmp_path / "model.pt2"])
    (tmp_path / "manifest.json").write_text(json.dumps({"inputs": [image], "files": files}))
    model = load(tmp_path)
    torch.testing.assert_close(model(images)["pred_score"], ensemble(images).pred_score)
    with pytest.raises(ValueError, match=r"Images must be float32 of shape \['any', 3, 8, 12\], but are torch.uint8, "):
        model(images.byte())
    with pytest.raises(ValueError, match=r"must have values from 0 to 1, but have values from 0\.\d+ to 25\d\."):
        model(images * 255)
    with pytest.raises(ValueError, match="but have none"):
        model(images[:0])
    white = torch.ones_like(images)
    assert torch.equal(load(str(tmp_path))(white + 1e-6)["pred_score"], model(white)["pred_score"])
    with pytest.raises(ValueError, match=r"must have values from 0 to 1, but have values from 1\.0001\d* to 1\.0001"):
        model(white + 1e-4)
    with (tmp_path / "model.pt2").open("ab") as file:
        file.write(b"1")
    with pytest.raises(ValueError, match=r"model\.pt2 has changed since its export\. .* allow_altered=True"):
        load(tmp_path)
    assert checksum(tmp_path / "model.pt2") != files["model.pt2"]["sha256"]


@pytest.mark.parametrize("without", ["a version", "the module"])
def test_a_version_that_cannot_read_the_files_is_named(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    if without == "a version":
        monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    else:
        monkeypatch.setitem(sys.modules, "torch.export.pt2_archive._package", None)
    with pytest.raises(ImportError, match=r"load\.py needs PyTorch 2\.9 or newer, .* but this is 2\.\d+\.\d"):
        runpy.run_path(str(LOADER))


ATTACKS: dict[str, Change] = {
    "an operator": replaced("model.json", "torch.ops.aten.relu.default", "torch.hub.load"),
    "another module": replaced("model.json", "torch.ops.aten.relu.default", "math.__loader__.load_module"),
    "an operator of files": replaced("model.json", "torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"),
    "a size": replaced("model.json", "positive=True", "positive=print(1)"),
    "a size made of letters": replaced(
        "model.json", "Symbol('", "S('getattr')(S('__import__')('os'),'system')(S('chr')(105))+Symbol('"
    ),
    "a size in quotes": replaced("model.json", "Symbol('", "Max('"),
    "a guard": replaced("model.json", '"guards_code": []', '"guards_code": ["print(1)"]'),
    "an argument": replaced("model.json", '"input"', '"input=print(1)"'),
    "pickled weights": replaced("weights_config.json", '"use_pickle": false', '"use_pickle": true'),
    "other weights": replaced("weights_config.json", '"weight_0"', '"../weight_0"'),
    "a container": replaced("model.json", "builtins.tuple", "collections.defaultdict"),
    "another file": lambda files: files.update({"model/data/constants/custom_obj_0": b""}),
    "weights of earlier versions": lambda files: files.update({"model/data/weights/model.pt": b""}),
}


@pytest.mark.parametrize("change", ATTACKS.values(), ids=ATTACKS)
def test_an_archive_with_code_is_refused(exported: Path, tmp_path: Path, change: Change) -> None:
    path = changed(exported / "model.pt2", tmp_path / "model.pt2", change)
    (tmp_path / "manifest.json").write_text((exported / "manifest.json").read_text())
    with pytest.raises(ValueError, match="must hold only tensors and operators of PyTorch, but holds"):
        load(tmp_path, allow_altered=True)
    with pytest.raises(ValueError, match="but holds"):
        check(path)


def test_an_archive_without_a_model_is_refused(exported: Path, tmp_path: Path) -> None:
    """PyTorch would go on with what earlier versions wrote, pickles among it."""

    def remove(files: dict[str, bytes]) -> None:
        del files[next(name for name in files if name.endswith("model.json"))]

    path = changed(exported / "model.pt2", tmp_path / "model.pt2", remove)
    with pytest.raises(ValueError, match="but holds no model"):
        check(path)


class Conditional(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch._check((images.shape[0] + 1) // 2 * 3 >= 2)
        return images.repeat(images.shape[0] % 3 + max(images.shape[0], 5), 1, 1, 1)


def test_arithmetic_of_sizes_is_let_through(tmp_path: Path) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Conditional(), (torch.rand(4, 3, 4, 6),), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    torch.export.save(program, tmp_path / "model.pt2")
    check(tmp_path / "model.pt2")
    with ZipFile(tmp_path / "model.pt2") as archive:
        content = b"".join(archive.read(name) for name in archive.namelist() if name.endswith("model.json"))
    assert all(arithmetic in content for arithmetic in (b"Mod(", b"Max(", b"Mul(")), "there was something to check"


def test_a_file_that_is_there_twice_is_refused(exported: Path, tmp_path: Path) -> None:
    path = changed(exported / "model.pt2", tmp_path / "model.pt2", lambda _: None)
    with ZipFile(path, "a") as archive:
        name = next(name for name in archive.namelist() if name.endswith("model.json"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, archive.read(name))
    with pytest.raises(ValueError, match=r"but holds two files models/model\.json"):
        check(path)


def test_a_pickle_among_the_examples_is_not_run(exported: Path, tmp_path: Path) -> None:
    torch.save(Touches(tmp_path / "was run"), tmp_path / "pickle")

    def change(files: dict[str, bytes]) -> None:
        name = next(name for name in files if name.endswith("sample_inputs/model.pt"))
        files[name] = (tmp_path / "pickle").read_bytes()

    with pytest.raises(Exception, match="Weights only load failed"):
        check(changed(exported / "model.pt2", tmp_path / "model.pt2", change))
    assert not (tmp_path / "was run").exists()
