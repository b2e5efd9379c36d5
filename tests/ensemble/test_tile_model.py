"""Any model as the model of a tile, played by models of a few lines, and by Fastflow."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path

import pytest
import torch
from anomalib import LearningType
from anomalib.data import InferenceBatch
from anomalib.models import Fastflow
from anomalib.models.components import AnomalibModule
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from torchvision.transforms.v2 import CenterCrop, Compose, Grayscale, Normalize, Resize, Transform

from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.ensemble.tile_model import build_tile_model, load_tile_model, predict_tile
from anomalib_tiled.errors import ConfigurationError, RunFolderError
from anomalib_tiled.grid import Size

TILE = Size(64, 96)
IMAGES = torch.rand(2, 3, *TILE, generator=torch.Generator().manual_seed(0))
NORMALIZE = Normalize([0.5] * 3, [0.25] * 3)


class OneClass(AnomalibModule):
    """What every model has to say of itself."""

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


class Weighted(OneClass):
    """One weight; takes the arguments that anomalib's own models take, and keeps what it was asked for."""

    transform: Transform | None = Compose([Resize((256, 256)), CenterCrop((224, 224)), NORMALIZE])
    asked_for: list[object] = []  # noqa: RUF012  # of all of them

    def __init__(
        self,
        weight: float = 1.0,
        pre_trained: bool = True,  # noqa: FBT001, FBT002  # as in anomalib
        pre_processor: PreProcessor | bool = True,  # noqa: FBT001, FBT002
        post_processor: bool = True,  # noqa: FBT001, FBT002
        evaluator: bool = True,  # noqa: FBT001, FBT002
        visualizer: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__(pre_processor, post_processor, evaluator, visualizer)
        self.asked_for.append(pre_trained)
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.model.weight, weight)

    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> PreProcessor:
        return PreProcessor(cls.transform)


class Padded(Transform):
    """Makes images square, as some models' pre-processing does."""

    def transform(self, inpt: torch.Tensor, params: dict[str, object]) -> torch.Tensor:
        height, width = inpt.shape[-2:]
        return torch.nn.functional.pad(inpt, (0, max(height - width, 0), 0, max(width - height, 0)))


class OfInstance(Weighted):
    """Its pre-processor cannot be asked for before there is a model."""

    def configure_pre_processor(self, image_size: tuple[int, int] | None = None) -> PreProcessor:
        return PreProcessor(Compose([Resize((8, 8)), NORMALIZE]))


class OfSize(Weighted):
    """Asks for the size of its input, and remembers what its pre-processor says of it."""

    def __init__(
        self,
        image_size: int | tuple[int, int] = 256,
        input_shape: tuple[int, int] = (288, 288),
        pre_processor: PreProcessor | bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__(pre_processor=pre_processor)
        self.sizes = (image_size, input_shape, self.input_size)


class OfSide(Weighted):
    """Knows squares only."""

    def __init__(self, image_size: int | None = None, **arguments: object) -> None:
        super().__init__(**arguments)
        self.side = image_size


class ThirdParty(OneClass):
    """Takes nothing but what is its own."""

    def __init__(self, depth: int = 1) -> None:
        super().__init__()
        self.model = torch.nn.Linear(depth, 1)


class WithoutPreProcessor(Weighted):
    @classmethod
    def configure_pre_processor(cls, image_size: tuple[int, int] | None = None) -> None:
        return None


class Saying(torch.nn.Module):
    """Says what it was made with, whatever it sees."""

    def __init__(self, **said: torch.Tensor) -> None:
        super().__init__()
        self.said = said

    def forward(self, images: torch.Tensor) -> InferenceBatch:
        return InferenceBatch(**self.said)


def spec(model_class: type[AnomalibModule], **arguments: object) -> ClassSpec:
    return ClassSpec(f"{__name__}.{model_class.__name__}", arguments)


def save(model: AnomalibModule, path: Path) -> Path:
    """Store a model as Lightning does."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path, weights_only=True)
    return path


def kept(transform: Transform | None) -> list[type[Transform]]:
    """Classes of what is left of a transform."""
    if isinstance(transform, Compose):
        return [type(each) for each in transform.transforms]
    return [] if transform is None else [type(transform)]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Compose([Resize((256, 256)), CenterCrop((224, 224)), NORMALIZE]), [Normalize]),
        (Compose([NORMALIZE, Grayscale(3), Padded(), Resize((8, 8))]), [Normalize, Grayscale]),
        (Compose([Resize((256, 256)), CenterCrop((224, 224))]), []),
        (Resize((256, 256)), []),
        (NORMALIZE, [Normalize]),
        (None, []),
    ],
)
def test_whatever_changes_the_size_of_a_tile_is_taken_out(
    transform: Transform | None, expected: list[type[Transform]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Weighted, "transform", transform)
    pre_processor = build_tile_model(spec(Weighted), TILE).pre_processor
    assert kept(pre_processor.transform) == expected
    assert kept(pre_processor.export_transform) == expected, "forward uses this one"
    assert pre_processor(IMAGES).shape == IMAGES.shape


def test_a_model_without_pre_processor_stays_without() -> None:
    assert build_tile_model(spec(WithoutPreProcessor), TILE).pre_processor is None
    assert build_tile_model(spec(Weighted, pre_processor=False), TILE).pre_processor is None


def test_metrics_of_a_model_are_refused_because_nothing_would_use_them() -> None:
    given = {"pre_trained": False, "evaluator": {"class_path": "anomalib.metrics.Evaluator"}}
    with pytest.raises(ConfigurationError, match=r"model\.init_args\.evaluator has no effect with tiles.*by `metrics`"):
        build_tile_model(ClassSpec("anomalib.models.Padim", given), TILE)


def test_the_users_own_pre_processor_is_kept_but_for_resizing() -> None:
    module = "torchvision.transforms.v2"
    resize = {"class_path": f"{module}.Resize", "init_args": {"size": [32, 32]}}
    normalize = {"class_path": f"{module}.Normalize", "init_args": {"mean": [0.1], "std": [0.7]}}
    transform = {"class_path": f"{module}.Compose", "init_args": {"transforms": [resize, normalize]}}
    given = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {"transform": transform}}
    pre_processor = build_tile_model(spec(Weighted, pre_processor=given), TILE).pre_processor
    assert kept(pre_processor.transform) == [Normalize]
    torch.testing.assert_close(pre_processor(IMAGES), (IMAGES - 0.1) / 0.7)


def test_a_pre_processor_of_instances_is_left_to_the_class() -> None:
    assert kept(build_tile_model(spec(OfInstance), TILE).pre_processor.transform) == [Normalize]


@pytest.mark.parametrize("given", [{}, {"image_size": [64, 96]}])
def test_a_model_that_asks_for_the_size_of_its_input_is_given_that_of_a_tile(given: dict[str, object]) -> None:
    model = build_tile_model(spec(OfSize, **given), TILE)
    assert model.sizes == ((64, 96), (64, 96), (64, 96))


def test_a_users_own_pre_processor_says_the_size_of_a_tile() -> None:
    given = {"class_path": "anomalib.pre_processing.PreProcessor", "init_args": {}}
    fastflow = {"pre_trained": False, "backbone": "resnet18", "flow_steps": 1, "pre_processor": given}
    model = build_tile_model(ClassSpec("anomalib.models.Fastflow", fastflow), TILE)
    assert model.model.input_size == (64, 96)
    assert model.pre_processor.transform is None


def test_another_size_than_that_of_a_tile_is_refused() -> None:
    message = r"model\.init_args\.input_shape must be the tile size, 64 x 96, but is .*32.*\. Leave it out\."
    with pytest.raises(ConfigurationError, match=message):
        build_tile_model(spec(OfSize, input_shape=[32, 32]), TILE)


def test_one_number_stands_for_square_tiles() -> None:
    assert build_tile_model(spec(OfSide), Size(64, 64)).side == 64
    message = "OfSide takes one number as image_size, so tiles must be square, but tiling.tile_size is 64 x 96"
    with pytest.raises(ConfigurationError, match=message):
        build_tile_model(spec(OfSide), TILE)


def test_a_third_partys_model_takes_only_its_own_arguments(tmp_path: Path) -> None:
    model = build_tile_model(spec(ThirdParty, depth=3), TILE)
    assert kept(model.pre_processor.transform) == [Normalize]
    loaded = load_tile_model(spec(ThirdParty, depth=3), TILE, save(model, tmp_path / "tile.ckpt"))
    assert torch.equal(loaded.model.weight, model.model.weight)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigurationError, match=rf"{__name__}.Weighted cannot be made with .*'heavy'"):
        build_tile_model(spec(Weighted, weight="heavy"), TILE)


def test_fastflow_is_built_for_the_tile_and_loads_what_lightning_saved(tmp_path: Path) -> None:
    fastflow = ClassSpec("anomalib.models.Fastflow", {"pre_trained": False, "backbone": "resnet18", "flow_steps": 1})
    model = build_tile_model(fastflow, TILE)
    assert isinstance(model, Fastflow)
    assert model.model.input_size == (64, 96)
    loaded = load_tile_model(fastflow, TILE, save(model, tmp_path / "tile.ckpt"))
    assert not loaded.training
    weights, again = model.state_dict(), loaded.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    prediction = predict_tile(loaded, IMAGES)
    torch.testing.assert_close(prediction.maps, predict_tile(model.eval(), IMAGES).maps)
    assert prediction.scores.shape == (2,)
    assert prediction.maps.shape == (2, 1, 64, 96)


def test_weights_that_a_checkpoint_replaces_are_not_asked_for(tmp_path: Path) -> None:
    path = save(build_tile_model(spec(Weighted, weight=3, pre_trained=True), TILE), tmp_path / "tile.ckpt")
    Weighted.asked_for.clear()
    model = load_tile_model(spec(Weighted, weight=3, pre_trained=True), TILE, path)
    assert Weighted.asked_for == [False]
    assert float(model.model.weight.detach()) == 3


def test_a_model_that_cannot_be_made_any_more_is_not_the_fault_of_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NeedsFile(Weighted):
        def __init__(self, file: str) -> None:
            super().__init__(weight=float(Path(file).read_text()))

    monkeypatch.setattr(sys.modules[__name__], "NeedsFile", NeedsFile, raising=False)
    needed = tmp_path / "weight.txt"
    needed.write_text("3")
    model = spec(NeedsFile, file=str(needed))
    path = save(build_tile_model(model, TILE), tmp_path / "tile.ckpt")
    needed.unlink()
    message = r"NeedsFile, the model of the run, cannot be made here; the checkpoints are not the cause\. .*weight\.txt"
    with pytest.raises(RunFolderError, match=message):
        load_tile_model(model, TILE, path)
    path.write_bytes(b"no checkpoint")
    needed.write_text("3")
    with pytest.raises(ConfigurationError, match=r"NeedsFile cannot be loaded from .*tile\.ckpt"):
        load_tile_model(model, TILE, path)


def test_a_loaded_model_is_as_a_built_one(tmp_path: Path) -> None:
    path = save(build_tile_model(spec(Weighted), TILE), tmp_path / "tile.ckpt")
    model = load_tile_model(spec(Weighted), TILE, path)
    assert kept(model.pre_processor.export_transform) == [Normalize]
    assert (model.post_processor, model.evaluator, model.visualizer) == (None, None, None)
    assert not model.training


def test_a_checkpoint_with_more_than_tensors_and_plain_values_is_not_run(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "was run",)

    content = torch.load(save(build_tile_model(spec(Weighted), TILE), tmp_path / "tile.ckpt"), weights_only=True)
    torch.save({**content, "more": Runs()}, tmp_path / "altered.ckpt")
    with pytest.raises(ConfigurationError, match="Weighted cannot be loaded from"):
        load_tile_model(spec(Weighted), TILE, tmp_path / "altered.ckpt")
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("shape", [(2, 16, 24), (2, 1, 64, 96), (2, 1, 100, 100)])
def test_maps_come_in_the_size_of_the_tile(shape: tuple[int, ...]) -> None:
    ramp = torch.linspace(0, 1, shape[-1]).expand(shape).double()
    prediction = predict_tile(Saying(pred_score=torch.zeros(2, 1), anomaly_map=ramp), IMAGES)
    assert prediction.scores.shape == (2,)
    assert prediction.maps.shape == (2, 1, 64, 96)
    assert prediction.maps.dtype == torch.float32
    torch.testing.assert_close(prediction.maps[1, 0, 7], torch.linspace(0, 1, 96), atol=0.05, rtol=0)


def test_scores_are_the_models_own_or_else_its_highest_pixels() -> None:
    maps, scores = torch.zeros(2, 1, *TILE), torch.tensor([[3.0], [4.0]])
    maps[0, 0, 3, 4], maps[1, 0, 63, 95] = 5, 7
    assert predict_tile(Saying(anomaly_map=maps), IMAGES).scores.tolist() == [5, 7]
    assert predict_tile(Saying(anomaly_map=maps, pred_score=scores), IMAGES).scores.tolist() == [3, 4]
    alone = predict_tile(Saying(pred_score=scores), IMAGES)
    assert (alone.scores.tolist(), alone.maps) == ([3, 4], None)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pred_score": torch.zeros(())}, "must give one pred_score for each tile, but gives 1 for 2 tiles"),
        ({"pred_score": torch.zeros(2, 3)}, "must give one pred_score for each tile, but gives 6 for 2 tiles"),
        ({"anomaly_map": torch.zeros(1, 1, 8, 8)}, "must give one anomaly_map for each tile, but gives 1 for 2 tiles"),
        ({"anomaly_map": torch.zeros(2, 3, 8, 8)}, "must give one anomaly_map for each tile, but gives 6 for 2 tiles"),
    ],
)
def test_there_must_be_one_score_and_one_map_for_each_tile(said: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"Saying {message}"):
        predict_tile(Saying(**said), IMAGES)


def test_what_is_no_prediction_is_described() -> None:
    message = "Identity gives neither scores nor anomaly maps, so it cannot be used .*, but returned Tensor."
    with pytest.raises(ConfigurationError, match=message):
        predict_tile(torch.nn.Identity(), IMAGES)


def test_nothing_is_kept_for_gradients() -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> InferenceBatch:
            return InferenceBatch(anomaly_map=images[:, :1] * self.weight)

    assert not predict_tile(Scaled(1, 1), IMAGES).maps.requires_grad


def test_hyperparameters_of_a_checkpoint_are_plain_whatever_pickles_an_enum() -> None:
    spec = ClassSpec("anomalib.models.Dfkde", {"backbone": "resnet18", "pre_trained": False})
    model = build_tile_model(spec, Size(64, 64))
    assert not [value for value in model.hparams.values() if isinstance(value, Enum)]
    assert model.hparams["feature_scaling_method"] == "scale"
