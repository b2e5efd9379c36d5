"""Fitting from Python objects."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.models import Padim
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from torchvision.transforms.v2 import Lambda

from anomalib_tiled import Size, TileGrid, api, fit_ensemble
from anomalib_tiled.config.settings import Settings, TilingSettings
from anomalib_tiled.data import DemoBoards
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.merging import Gaussian, Mean
from anomalib_tiled.stages.normalization import Quantile
from anomalib_tiled.stages.seams import GaussianSeams
from anomalib_tiled.stages.thresholding import F1AdaptiveThreshold, ManualThreshold
from anomalib_tiled.workers.local import LocalWorkers

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

    monkeypatch.setattr(api, "prepare", stop)
    monkeypatch.setattr(api, "STOP", StopError, raising=False)
    return settings


def fit(*arguments: object, **settings: object) -> None:
    with pytest.raises(api.STOP):
        fit_ensemble(*arguments, **settings)


def test_all_tiles_are_tried_where_that_is_asked_for(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class TriedError(Exception):
        pass

    def note(*_: object, keep_going: bool) -> None:
        raise TriedError(keep_going)

    monkeypatch.setattr(
        api, "prepare", lambda settings: SimpleNamespace(close=lambda: None, settings=SimpleNamespace(loggers=()))
    )
    monkeypatch.setattr(api.pipeline, "fit", note)
    for settings in ({}, {"keep_going": True}):
        with pytest.raises(TriedError) as raised:
            fit_ensemble("Padim", folder(photographs), 64, **settings)
        assert raised.value.args == (bool(settings),)


@pytest.mark.slow
def test_objects_fit_what_a_configuration_fits(photographs: Path, finished_run: Path, tmp_path: Path) -> None:
    ensemble = fit_ensemble(
        Padim(**PADIM),
        folder(photographs),
        {"tile_size": [64, 72], "stride": [40, 56]},
        merging=Mean(),
        seam_smoothing=GaussianSeams(),
        thresholding=F1AdaptiveThreshold(),
        workers=LocalWorkers(1),
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
    assert settings.stages["merging"].name == "Gaussian"
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


def test_a_data_module_may_be_set_up_already(prepared: list[Settings], photographs: Path) -> None:
    given = folder(photographs)
    given.setup(TrainerFn.FITTING)
    fit("Padim", given, 64)
    fit("Padim", folder(photographs), 64)
    assert prepared[0].data == prepared[1].data


def test_what_cannot_be_written_is_refused(photographs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Secretive: it does not keep its argument secret\. Give data as"):
        fit_ensemble(Padim, Secretive("x", secret=2), 64)
    changed = folder(photographs)
    changed.test_augmentations = Lambda(print)
    with pytest.raises(ConfigurationError, match=r"Folder: its test_augmentations is a Lambda, .*\. Give data as"):
        fit_ensemble(Padim, changed, 64)


def test_objects_are_settings_too(prepared: list[Settings], photographs: Path) -> None:
    fit(
        Padim(**PADIM),
        folder(photographs),
        64,
        merging=Gaussian(0.3),
        seam_smoothing=GaussianSeams(3.0),
        normalization={"stage": "tile", "method": Quantile(0.1)},
        thresholding=ManualThreshold(2.0),
        workers=LocalWorkers(3),
        trainer={"callbacks": [EarlyStopping("image_AUROC", mode="max")]},
        default_root_dir=Path("somewhere"),
    )
    (settings,) = prepared
    assert PADIM.items() <= settings.model.init_args.items()
    assert settings.stages["merging"].init_args == {"sigma": 0.3}
    assert settings.stages["seam_smoothing"].init_args["sigma"] == 3.0
    assert (settings.normalization.stage, settings.stages["normalization"].init_args["lower"]) == ("tile", 0.1)
    assert (settings.thresholding.stage, settings.stages["thresholding"].init_args) == ("image", {"value": 2.0})
    assert settings.stages["workers"].init_args["processes"] == 3
    assert settings.trainer["callbacks"][0]["init_args"]["mode"] == "max"
    assert settings.default_root_dir == "somewhere"


def test_a_model_may_be_a_class_or_a_mapping(prepared: list[Settings], photographs: Path) -> None:
    fit(Padim, folder(photographs), 64, model_args=PADIM, merging=Gaussian)
    fit({"class_path": "Padim", "init_args": PADIM}, folder(photographs), 64, merging="Gaussian")
    one, other = prepared
    assert one.model.init_args == other.model.init_args
    assert one.stages["merging"] == other.stages["merging"]


@pytest.mark.parametrize(
    ("tiling", "expected"),
    [
        (64, TilingSettings(64)),
        ((64, 72), TilingSettings((64, 72))),
        (Size(64, 72), TilingSettings((64, 72))),
        ([64, 72], TilingSettings((64, 72))),
        ({"tile_size": Size(64, 72), "stride": (40, 56)}, TilingSettings((64, 72), stride=(40, 56))),
        (TilingSettings(64, stride=32), TilingSettings(64, stride=32)),
        (
            TileGrid(image_size=Size(112, 150), tile_size=Size(64, 72), stride=Size(40, 56)),
            TilingSettings((64, 72), (112, 150), (40, 56)),
        ),
    ],
)
def test_tiling_has_several_forms(
    prepared: list[Settings], photographs: Path, tiling: object, expected: TilingSettings
) -> None:
    fit("Padim", folder(photographs), tiling)
    assert prepared[0].tiling == expected


@pytest.mark.parametrize("tiling", [(64, 64, 3), 64.5, None, "wide"])
def test_another_form_of_tiling_is_refused(photographs: Path, tiling: object) -> None:
    with pytest.raises(ConfigurationError, match=r"tiling\.tile_size"):
        fit_ensemble("Padim", folder(photographs), tiling)  # type: ignore[arg-type]


def test_wrong_models_are_refused(photographs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"model must be a model of anomalib, .* but is a Mean\."):
        fit_ensemble(Mean(), folder(photographs), 64)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"model_args are for a model given as a class"):
        fit_ensemble(Padim(**PADIM), folder(photographs), 64, model_args=PADIM)


def test_wrong_settings_are_explained(photographs: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no setting 'mergin'\. Did you mean 'merging'\?"):
        fit_ensemble(Padim, folder(photographs), 64, mergin="Mean")
    with pytest.raises(ConfigurationError, match=r"no 'Padimm' for model\. Did you mean 'Padim'"):
        fit_ensemble("Padimm", folder(photographs), 64)
