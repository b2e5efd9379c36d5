"""Fitting from Python objects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.models import Padim
from torchvision.transforms.v2 import Identity

from anomalib_tiled import fit_ensemble, fitting
from anomalib_tiled.config import Settings
from anomalib_tiled.data import DemoBoards
from anomalib_tiled.errors import ConfigurationError

PADIM = {"pre_trained": False, "layers": ["layer1", "layer2"], "n_features": 20}


class Secretive(AnomalibDataModule):
    def __init__(self, root: str, secret: int = 1) -> None:
        super().__init__(train_batch_size=1, eval_batch_size=1, num_workers=0)
        self.root, self.revealed = root, secret

    def _setup(self, _stage: str | None = None) -> None:
        pass


def folder(photographs: Path) -> Folder:
    return Folder(
        name="photographs",
        root=photographs,
        normal_dir="good",
        normal_test_dir="good_test",
        abnormal_dir="bad",
        mask_dir="mask",
        val_split_mode="same_as_test",
        train_batch_size=4,
        num_workers=0,
    )


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings that were to be fitted; nothing is."""
    settings: list[Settings] = []

    class StopError(Exception):
        pass

    def stop(given: Settings) -> None:
        settings.append(given)
        raise StopError

    monkeypatch.setattr(fitting, "prepare", stop)
    monkeypatch.setattr(fitting, "STOP", StopError, raising=False)
    return settings


def fit(*arguments: object, **settings: object) -> None:
    with pytest.raises(fitting.STOP):
        fit_ensemble(*arguments, **settings)


@pytest.mark.slow
def test_objects_fit_what_a_configuration_fits(photographs: Path, finished_run: Path, tmp_path: Path) -> None:
    ensemble = fit_ensemble(
        Padim,
        folder(photographs),
        {"tile_size": [64, 72], "stride": [40, 56]},
        model_args=PADIM,
        seed_everything=1,
        default_root_dir=str(tmp_path),
        metrics={"image": ["AUROC", "F1Score"], "pixel": ["AUROC", "F1Score", "AUPRO"]},
    )
    learned = [json.loads((run / "calibration.json").read_text()) for run in (ensemble.run_folder, finished_run)]
    assert [learned[0][name] for name in ("grid", "image", "notes")] == [
        learned[1][name] for name in ("grid", "image", "notes")
    ]
    ours, theirs = (yaml.safe_load((run / "config.yaml").read_text()) for run in (ensemble.run_folder, finished_run))
    assert ours["tiling"] == theirs["tiling"]
    assert ours["model"]["init_args"] == theirs["model"]["init_args"]
    assert ensemble.predict(photographs / "bad" / "002.png").label


def test_a_number_is_the_side_of_square_tiles(prepared: list[Settings], photographs: Path) -> None:
    fit("Padim", folder(photographs), 64, merging="Gaussian", cache=None, trainer={"max_epochs": 2})
    (settings,) = prepared
    assert (settings.tiling.tile_size, settings.tiling.stride) == (64, None)
    assert settings.model.name == "Padim"
    assert settings.merging.name == "Gaussian"
    assert settings.cache is None
    assert settings.trainer["max_epochs"] == 2


@pytest.mark.parametrize("kind", ["folder", "mvtec", "boards", "mapping"])
def test_a_data_module_is_written_down_as_it_was_made(
    prepared: list[Settings], photographs: Path, tmp_path: Path, kind: str
) -> None:
    made: dict[str, AnomalibDataModule] = {
        "folder": folder(photographs),
        "mvtec": MVTecAD(root=tmp_path, category="grid", eval_batch_size=3, val_split_mode="none"),
        "boards": DemoBoards(root=tmp_path, image_size=(512, 768), train_images=3, seed=5),
    }
    given = made.get(kind) or {"class_path": "DemoBoards", "init_args": {"train_images": 3}}
    fit(Padim, given, 64)
    again = prepared[0].data.build(AnomalibDataModule)
    if kind == "mapping":
        assert again.settings.train_images == 3
        return
    for name in ("name", "category", "train_batch_size", "eval_batch_size", "val_split_mode", "seed"):
        assert getattr(again, name) == getattr(given, name)
    assert str(again.root) == str(given.root)
    if kind == "boards":
        assert again.settings == given.settings


def test_what_an_object_does_not_tell_is_refused(photographs: Path) -> None:
    message = r"but {} of the {} cannot be told from the object\. Give data="
    with pytest.raises(ConfigurationError, match=message.format("revealed", "Secretive")):
        fit_ensemble(Padim, Secretive("x", secret=2), 64)
    changed = folder(photographs)
    changed.test_augmentations = Identity()
    with pytest.raises(ConfigurationError, match=message.format("test_augmentations", "Folder")):
        fit_ensemble(Padim, changed, 64)


def test_wrong_settings_are_explained(photographs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no setting 'mergin'\. Did you mean 'merging'\?"):
        fit_ensemble(Padim, folder(photographs), 64, mergin="Mean")
    with pytest.raises(ConfigurationError, match=r"There is no 'Padimm' for model\. Did you mean 'Padim'"):
        fit_ensemble("Padimm", folder(photographs), 64)
