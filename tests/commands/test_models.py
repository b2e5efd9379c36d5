"""Every model that is said to work with tiles, through the real command, on images of two small tiles."""

from __future__ import annotations

import csv
import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anomalib.models
import numpy as np
import pytest
import timm
import torch
import torchvision
import yaml
from anomalib.data.utils import DownloadInfo
from anomalib.models.image.draem import lightning_model as draem
from anomalib.models.image.dsr import lightning_model as dsr
from anomalib.models.image.efficient_ad import lightning_model as efficient_ad
from anomalib.models.image.glass import lightning_model as glass
from anomalib.pre_processing import PreProcessor
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.loaded_models import SavedModels, TileModels
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.ensemble.untrained_models import FreshModels
from anomalib_tiled.runs.run_folder import RunFolder

TRIALS = yaml.safe_load(Path(__file__).with_name("model_trials.yaml").read_text(encoding="utf-8"))
TEXTURES = ("dtd_dir", "imagenet_dir", "anomaly_source_path")
NARROWER = {"vit_base_patch14_reg4_dinov2": {"embed_dim": 192, "num_heads": 3}}

Train = Callable[..., tuple[int, Path]]


def paint(root: Path, height: int, width: int) -> None:
    """Write images of one random pattern with a little noise, some with a white square."""
    random = np.random.default_rng(0)
    pattern = random.integers(60, 200, (height, width, 3))
    mask = np.zeros((height, width), np.uint8)
    mask[5:20, 5:20] = 255
    for folder, count in {"good": 4, "good_test": 2, "bad": 2, "mask": 2}.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            noisy = np.clip(pattern + random.normal(0, 5, pattern.shape), 0, 255).astype(np.uint8)
            noisy[mask > 0] = 255 if folder == "bad" else noisy[mask > 0]
            Image.fromarray(mask if folder == "mask" else noisy).save(root / folder / f"{number}.png")


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Random values in place of downloads; gives the names of what was asked for."""
    asked: list[str] = []
    create = timm.create_model

    def create_random(name: str = "", *args: object, pretrained: bool = False, **options: object) -> torch.nn.Module:
        name = name or str(options.pop("model_name"))
        asked.extend([name] if pretrained else [])
        return create(name, *args, pretrained=False, **(NARROWER.get(name, {}) | options))

    def random_state(weights: torchvision.models.WeightsEnum, *args: object, **options: object) -> object:
        name = type(weights).__name__.removesuffix("_Weights").lower()
        asked.append(name)
        return torchvision.models.get_model(name, weights=None).state_dict()

    def random_files(root: Path, info: DownloadInfo) -> None:
        asked.append(info.name)
        if info is efficient_ad.WEIGHTS_DOWNLOAD_INFO:
            teacher = efficient_ad.EfficientAdModel(384, efficient_ad.EfficientAdModelSize.S).teacher
            path = root / "efficientad_pretrained_weights" / "pretrained_teacher_small.pth"
        elif info is dsr.WEIGHTS_DOWNLOAD_INFO:
            teacher, path = dsr.DsrModel(0.2).discrete_latent_model, root / "vq_model_pretrained_128_4096.pckl"
        else:
            paint(root, 64, 64)
            return
        path.parent.mkdir(parents=True)
        torch.save(teacher.state_dict(), path)

    monkeypatch.setattr(timm, "create_model", create_random)
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", random_state)
    for module in (draem, dsr, efficient_ad, glass):
        monkeypatch.setattr(module, "download_and_extract", random_files)
        monkeypatch.setattr(module, "get_pretrained_weights_dir", lambda: tmp_path / "weights", raising=False)
    return asked


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Train]:
    """Train with a model on images of two tiles; gives exit status and run folder, which is removed at the end."""

    def run(model: str, tile_size: list[int], init_args: dict[str, object], batch: int = 4) -> tuple[int, Path]:
        height, width = tile_size
        paint(tmp_path / "images", height, 2 * width)
        folders = {"normal_dir": "good", "normal_test_dir": "good_test", "abnormal_dir": "bad", "mask_dir": "mask"}
        settings = {"name": "two", "root": str(tmp_path / "images"), **folders, "val_split_mode": "same_as_test"}
        settings |= {"train_batch_size": batch, "eval_batch_size": 2, "num_workers": 0}
        configuration = {
            "default_root_dir": str(tmp_path / "results"),
            "tiling": {"tile_size": tile_size},
            "model": {"class_path": model if "." in model else f"anomalib.models.{model}", "init_args": init_args},
            "data": {"class_path": "Folder", "init_args": settings},
            "trainer": {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 2},
            "visualize": False,
            "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        }
        path = tmp_path / "configuration.yaml"
        path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        status = main(["train", "--config", str(path)])
        return status, tmp_path / "results" / model.rpartition(".")[2] / "two" / "v0"

    yield run
    shutil.rmtree(tmp_path / "results", ignore_errors=True)


def scores_of(run: Path) -> list[float]:
    with (run / "scores.csv").open() as file:
        return [float(row["pred_score"]) for row in csv.DictReader(file)]


def loaded_scores(run: Path) -> list[float]:
    """Scores of the test images by an ensemble that is loaded anew."""
    opened = Run.open(RunFolder.open(run))
    ensemble = opened.calibrated_ensemble()
    return [float(score) for batch in opened.images("test") for score in ensemble(batch.image).pred_score]


def folders_of_images(model_class: type, root: Path) -> dict[str, str]:
    names = model_class.__init__.__annotations__
    return {name: str(root / name) for name in TEXTURES if name in names}


def assert_copies_are_as_new(run: Run) -> None:
    """Compare the model that a second tile starts from to one that is made for it."""
    run.job.fresh_models.model()
    each = FreshModels(run.settings.model, run.grid.tile_size, seed=run.settings.seed_everything, copied=False)
    copy, new, another = (model.state_dict() for model in (run.job.fresh_models.model(), each.model(), each.model()))
    assert list(copy) == list(new)
    unset = {key for key in new if not torch.equal(new[key], another[key])}  # as some models leave them at first
    assert all(torch.equal(copy[key], new[key]) for key in set(new) - unset)
    assert len(unset) <= 1
    modes = [[part.training for part in model.modules()] for model in (run.job.fresh_models.model(), each.model())]
    assert modes[0] == modes[1]


def assert_one_model_is_as_good_as_many(run: Run) -> None:
    """Compare one object that is each tile's in turn, from files and then from memory, to one that is made for each."""
    ensemble = run.calibrated_ensemble()
    images = torch.cat([batch.image.as_subclass(torch.Tensor) for batch in run.images("test")])[:2]
    read, kept = ensemble(images), ensemble(images)
    spec, size = run.settings.model, run.grid.tile_size
    ensemble.tile_models = TileModels(SavedModels(run.folder, spec, size, alike=False).load)
    made = ensemble(images)
    for found in (read, kept):
        assert torch.equal(found.pred_score, made.pred_score)
        assert torch.equal(found.anomaly_map, made.anomaly_map)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_a_model_that_is_said_to_work_does(name: str, train: Train, downloaded: list[str], tmp_path: Path) -> None:
    trial, model_class = TRIALS[name], getattr(anomalib.models, name)
    init_args = trial.get("init_args", {}) | folders_of_images(model_class, tmp_path)
    status, run = train(name, trial["tile_size"], init_args, trial.get("train_batch_size", 4))
    assert status == 0
    assert bool(downloaded) == ("substituted" in trial), f"the table has to say that {downloaded} are random"
    scores = scores_of(run)
    assert len(scores) == 4
    assert all(0 <= score <= 1 for score in scores)
    assert loaded_scores(run) == pytest.approx(scores, abs=1e-4)
    assert_one_model_is_as_good_as_many(Run.open(RunFolder.open(run)))
    assert_copies_are_as_new(Run.open(RunFolder.open(run)))
    assert main(["export", "--ckpt_dir", str(run), "--format", "checkpoints"]) == 0
    for tile in ("r00_c00", "r00_c01"):
        path = run / "export" / "checkpoints" / f"{tile}.ckpt"
        own = model_class.load_from_checkpoint(path, pre_processor=PreProcessor(Resize(trial["tile_size"])))
        with torch.serialization.safe_globals(model_class.checkpoint_safe_globals()):
            weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(value, weights[key]) for key, value in own.state_dict().items() if key in weights)


THIRD_PARTY = """
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models.components import AnomalibModule


class Network(torch.nn.Module):
    def __init__(self, says):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(3, 1, 1))
        self.says = says

    def forward(self, images):
        difference = (images - self.mean).abs().mean(dim=1, keepdim=True)
        return InferenceBatch(anomaly_map=difference[..., ::4, ::4]) if self.says == "maps" else (images, difference)


class Own(AnomalibModule):
    def __init__(self, says: str):
        super().__init__()
        self.model = Network(says)

    trainer_arguments = {}
    learning_type = LearningType.ONE_CLASS

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, *args):
        return (batch.image - self.model.mean).square().mean()

    def validation_step(self, batch, *args):
        return batch.update(**self.model(batch.image)._asdict())
"""


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Dotted path of a model in a module of its own."""
    (tmp_path / "third_party_of_tiled.py").write_text(THIRD_PARTY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "third_party_of_tiled.Own"
    sys.modules.pop("third_party_of_tiled", None)


@pytest.mark.slow
def test_a_third_partys_model_works_by_its_dotted_path(third_party: str, train: Train) -> None:
    status, run = train(third_party, [24, 36], {"says": "maps"})
    assert status == 0
    scores = scores_of(run)
    assert all(0 <= score <= 1 for score in scores)
    assert min(scores[:2]) > max(scores[2:]), "the white square is seen"
    assert loaded_scores(run) == pytest.approx(scores, abs=1e-4)
    own = importlib.import_module("third_party_of_tiled").Own.load_from_checkpoint(run / "tiles" / "r00_c01.ckpt")
    assert own.hparams["says"] == "maps"
    assert float(own.model.mean.detach().abs().sum()) > 0


def test_a_third_partys_model_without_what_it_requires(
    third_party: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = train(third_party, [24, 36], {})
    assert status == 2
    assert "says" in capsys.readouterr().err


def test_predictions_of_no_use_are_known_after_one_tile(
    third_party: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = train(third_party, [24, 36], {"says": "a pair"})
    assert status == 2
    message = "Its forward must return an InferenceBatch with pred_score or anomaly_map, but returned tuple."
    assert message in capsys.readouterr().err
    assert not list(run.glob("tiles/*.ckpt"))
    assert [path.name for path in run.glob("logs/r*_c*.log")] == ["r00_c00.log"]
