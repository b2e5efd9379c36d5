"""Objects as class path and arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, Folder, MVTecAD
from anomalib.metrics import AUROC, Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip

from anomalib_tiled.config.objects import to_plain
from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.data import DemoBoards
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.assignment import Groups
from anomalib_tiled.stages.merging import Gaussian
from anomalib_tiled.stages.scoring import Max
from anomalib_tiled.stages.thresholding import QuantileThreshold


class Kind(Enum):
    """Known to jsonargparse by the names of its members."""

    ROUND = "round"


class Tiny(AnomalibModule):
    """A model that is made at once."""

    def __init__(
        self,
        size: int = 3,
        kind: Kind = Kind.ROUND,
        head: nn.Module | None = None,
        pre_processor: nn.Module | bool = True,  # noqa: FBT001, FBT002  # as in anomalib
        post_processor: nn.Module | bool = True,  # noqa: FBT001, FBT002
        evaluator: Evaluator | bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        super().__init__(pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator)
        self.model, self.size, self.kind, self.head = nn.Linear(size, size), size, kind, head or nn.Linear(3, 3)

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS


@dataclass
class AtLeast(Max):
    """A stage whose arguments are fields."""

    lowest: float
    names: tuple[str, ...] = ()


class Forgetful(Max):
    """A stage that keeps its argument in another form."""

    def __init__(self, percent: int = 50) -> None:
        self.share = percent / 100


class Doubling(Max):
    """A stage that keeps something else under the name of its argument."""

    def __init__(self, factor: int) -> None:
        self.factor = factor * 2


class Named(Max):
    """A stage with arguments of any name."""

    def __init__(self, **options: str) -> None:
        self.given = options


class Refusing(Max):
    """A stage that cannot be made twice."""

    def __init__(self, number: int) -> None:
        if number > 2:
            raise ValueError
        self.number = number + 2


OBJECTS = {
    "stage": (lambda: Gaussian(0.3), {"sigma": 0.3}),
    "keyword argument": (lambda: QuantileThreshold(0.9, every_pixel=True), {"quantile": 0.9, "every_pixel": True}),
    "lists": (lambda: Groups([["r00_*"], ["r01_c00"]]), {"groups": [["r00_*"], ["r01_c00"]]}),
    "dataclass": (lambda: AtLeast(0.5, ("a", "b")), {"lowest": 0.5, "names": ["a", "b"]}),
    "callback": (lambda: EarlyStopping("image_AUROC", mode="max", patience=7), {"mode": "max", "patience": 7}),
    "private attributes": (
        lambda: ModelCheckpoint(train_time_interval=timedelta(minutes=5)),
        {"train_time_interval": "0:05:00", "every_n_epochs": 0},
    ),
    "property": (lambda: CSVLogger("logs", name="brick"), {"save_dir": "logs", "name": "brick"}),
    "transform": (
        lambda: MVTecAD(root=Path("data"), train_augmentations=Compose([RandomHorizontalFlip(0.3)])),
        {
            "root": "data",
            "train_augmentations": {
                "class_path": "torchvision.transforms.v2._container.Compose",
                "init_args": {
                    "transforms": [
                        {
                            "class_path": "torchvision.transforms.v2._geometry.RandomHorizontalFlip",
                            "init_args": {"p": 0.3},
                        }
                    ]
                },
            },
        },
    ),
    "model": (lambda: Tiny(4), {"size": 4, "kind": "ROUND", "head": None}),
    "model without a part": (lambda: Tiny(pre_processor=False, evaluator=False), {"pre_processor": False}),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_written_down_and_read_again(name: str) -> None:
    make, arguments = OBJECTS[name]
    given = make()
    written = to_plain("setting", given)
    assert written["class_path"] == f"{type(given).__module__}.{type(given).__qualname__}"
    assert arguments.items() <= written["init_args"].items()
    again = ClassSpec(**written).build(type(given))
    assert to_plain("setting", again) == written


def test_a_path_may_be_written_in_several_ways() -> None:
    given = Folder(name="photographs", normal_dir="good", root="./data")  # which is read as the path "data"
    assert to_plain("data", given)["init_args"]["root"] == "./data"


@pytest.mark.parametrize("datamodule", [MVTecAD, DemoBoards])
def test_augmentations_of_all_images_are_kept(datamodule: type[AnomalibDataModule]) -> None:
    given = datamodule(augmentations=RandomHorizontalFlip(0.3))
    again = ClassSpec(**to_plain("data", given)).build(datamodule)
    for name in ("train_augmentations", "val_augmentations", "test_augmentations"):
        assert getattr(again, name).p == 0.3


def test_objects_are_found_wherever_they_stand() -> None:
    trainer = {"max_epochs": 3, "callbacks": [EarlyStopping("loss")], "max_time": timedelta(hours=1)}
    written = to_plain("trainer", trainer)
    assert written["callbacks"][0]["init_args"]["monitor"] == "loss"
    assert (written["max_epochs"], written["max_time"]) == (3, "1:00:00")
    assert to_plain("merging", Gaussian) == "anomalib_tiled.stages.merging.Gaussian"
    assert to_plain("size", (np.int64(3), Path("a"), None, Kind.ROUND)) == [3, "a", None, "round"]


CANNOT_BE_WRITTEN = {
    "forgotten": (lambda: Forgetful(30), "cannot do so for this Forgetful: it does not keep its argument percent"),
    "another meaning": (
        lambda: Doubling(2),
        "cannot do so for this Doubling: its factor is not the argument: one that is built with 4 has 8",
    ),
    "sign": (
        lambda: EarlyStopping("loss", min_delta=0.1),
        "its min_delta is not the argument: one that is",
    ),
    "not made again": (lambda: Refusing(1), "none can be built with the arguments that it keeps, {'number': 3}"),
    "function": (lambda: StochasticWeightAveraging(0.01), "its avg_fn is a function, which cannot be written"),
    "arguments by name": (lambda: Named(colour="red"), "it does not keep its argument options"),
    "tensors": (lambda: nn.Linear(2, 3), "cannot do so for this Linear: it holds tensors"),
    "anything": (lambda: range(3), "scoring must be a value that YAML can hold, .* but is of the type range"),
    "lambda": (lambda: print, "but is of the type builtin_function_or_method"),
}


@pytest.mark.parametrize("name", CANNOT_BE_WRITTEN)
def test_what_an_object_does_not_keep_is_refused(name: str) -> None:
    make, message = CANNOT_BE_WRITTEN[name]
    with pytest.raises(ConfigurationError, match=message):
        to_plain("scoring", make())


def test_a_refusal_shows_the_other_form() -> None:
    form = r'Give scoring as \{"class_path": "[\w.]*test_objects\.Forgetful", "init_args": \{\.\.\.\}\} instead'
    with pytest.raises(ConfigurationError, match=rf"does not keep its argument percent\. {form}"):
        to_plain("scoring", Forgetful(30))


def test_a_class_that_cannot_be_found_again_is_refused() -> None:
    class Hidden(Max):
        pass

    with pytest.raises(ConfigurationError, match=r"<locals>\.Hidden is not in the module .* outside of functions"):
        to_plain("scoring", Hidden())


def test_a_trainer_is_given_by_its_arguments() -> None:
    with pytest.raises(ConfigurationError, match=r'of the type Trainer\. Give .* such as trainer=\{"max_epochs": 10\}'):
        to_plain("trainer", Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False))


def test_a_model_that_was_trained_is_refused() -> None:
    model = Tiny()
    model._trainer = object()  # type: ignore[assignment]  # what a training leaves
    with pytest.raises(
        ConfigurationError, match=r"trains a new Tiny for each tile, but the given one is already trained"
    ):
        to_plain("model", model)


PARTS = {
    "pre_processor": (PreProcessor(Normalize([0.5], [0.5])), "Give the class of the model, and its pre_processor in"),
    "post_processor": (PostProcessor(image_sensitivity=0.3), "`normalization` and `thresholding` are set instead"),
    "evaluator": (Evaluator(test_metrics=[AUROC(fields=["pred_score", "gt_label"])]), "metrics={.*} are set instead"),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_are_not_the_model_s_own_are_refused(name: str) -> None:
    part, advice = PARTS[name]
    with pytest.raises(ConfigurationError, match=f"The {name} of the Tiny is not the model's own. .*{advice}"):
        to_plain("model", Tiny(**{name: part}))


def test_a_model_that_was_given_weights_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="for this Tiny: its head is a Linear, which cannot be written"):
        to_plain("model", Tiny(head=nn.Linear(3, 3)))
