"""The program beside a file of PyTorch loads what was exported, and refuses images that it would score wrongly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from anomalib_tiled.export.load_script import load
from anomalib_tiled.export.manifest import checksums_of


class Brightness(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor([2.0]))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pred_score": self.factor * images.mean(dim=(1, 2, 3))}


def describe(folder: Path) -> None:
    image = {"shape": ["any", 3, 4, 6], "dtype": "float32", "range": [0, 1]}
    files = checksums_of(folder, [folder / "model.pt2"])
    manifest = {"inputs": [image], "files": files, "packages": {"torch": torch.__version__}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small model, and a manifest."""
    folder = tmp_path_factory.mktemp("exported")
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Brightness(), (torch.rand(2, 3, 4, 6),), dynamic_shapes=shapes)
    torch.export.save(program, folder / "model.pt2")
    describe(folder)
    return folder


def test_the_model_predicts(exported: Path) -> None:
    images = torch.rand(3, 3, 4, 6)
    torch.testing.assert_close(load(exported)(images)["pred_score"], 2 * images.mean(dim=(1, 2, 3)))


IMAGES = torch.full((2, 3, 4, 6), 0.5)
WRONG = {
    "bytes": (IMAGES.byte(), r"must be float32 of shape \['any', 3, 4, 6\], but are torch.uint8, \(2, 3, 4, 6\)"),
    "another size": (IMAGES[..., 1:], r"but are torch.float32, \(2, 3, 4, 5\)"),
    "0 to 255": (IMAGES * 255, r"must have values from 0 to 1, but have values from 127\.5 to 127\.5\."),
    "none": (IMAGES[:0], "but have none"),
}


@pytest.mark.parametrize(("images", "message"), WRONG.values(), ids=WRONG)
def test_images_of_another_kind_are_refused(exported: Path, images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(exported)(images)


def test_rounding_may_take_white_beyond_1(exported: Path) -> None:
    model, white = load(str(exported)), torch.ones_like(IMAGES)
    assert torch.equal(model(white + 1e-6)["pred_score"], model(white)["pred_score"])
    with pytest.raises(ValueError, match=r"from 0 to 1, but have values from 1\.0001"):
        model(white + 1e-4)


def test_a_file_that_has_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "model.pt2").open("ab") as file:
        file.write(b"1")
    with pytest.raises(ValueError, match=r"model\.pt2 has changed since its export\. Export it again\."):
        load(tmp_path)


def test_a_version_that_cannot_read_the_files_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = torch.__version__
    monkeypatch.setattr(torch, "__version__", type(wanted)("2.8.0+cpu"))
    with pytest.raises(ImportError) as caught:
        load(exported)
    assert str(caught.value) == f"load.py needs PyTorch 2.9 or newer, preferably {wanted}, but this is 2.8.0+cpu."


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_a_pickle_among_the_weights_is_not_run(exported: Path, tmp_path: Path) -> None:
    torch.save(Touches(tmp_path / "was run"), tmp_path / "pickle")
    with ZipFile(exported / "model.pt2") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    settings = next(name for name in files if name.endswith("model_weights_config.json"))
    assert b'"use_pickle": false' in files[settings]
    files[settings] = files[settings].replace(b'"use_pickle": false', b'"use_pickle": true')
    files[next(name for name in files if name.endswith("weight_0"))] = (tmp_path / "pickle").read_bytes()
    with ZipFile(tmp_path / "model.pt2", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    describe(tmp_path)
    with pytest.raises(Exception, match="Weights only load failed"):
        load(tmp_path)
    assert not (tmp_path / "was run").exists()
    torch.export.load(tmp_path / "model.pt2")
    assert (tmp_path / "was run").exists(), "PyTorch alone runs it"
