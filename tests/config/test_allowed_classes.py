"""A configuration makes models, data modules, stages and their parts, and calls nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from torchvision.transforms.v2 import RandomHorizontalFlip, Transform

from anomalib_tiled.config.allowed_classes import check_classes
from anomalib_tiled.config.settings import ClassSpec
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.scoring import Scorer
from anomalib_tiled.training.trainer import trainer_arguments


class Part:
    """A part of a scorer that is no class of PyTorch."""

    def __init__(self, size: int = 1) -> None:
        self.size = size


class Takes(Scorer):
    """Takes whatever it is given."""

    def __init__(
        self,
        anything=None,  # noqa: ANN001  # without a type, as other packages have them
        call: Callable[..., Any] | None = None,
        kind: type | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.given = [anything, call, kind, transform]

    def score(self, tile_scores: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
        raise NotImplementedError


def makes(folder: str) -> Scorer:
    raise AssertionError(folder)


TAKES = f"{__name__}.Takes"


def takes(**arguments: object) -> Takes:
    return ClassSpec(TAKES, arguments).build(Scorer)


@pytest.fixture
def touch(tmp_path: Path) -> dict[str, object]:
    """What would make a file, if it were called."""
    return {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(tmp_path / "was run")]}}


@pytest.mark.parametrize("base", [AnomalibModule, AnomalibDataModule, Scorer])
@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval"])
def test_a_setting_takes_no_class_of_another_kind(base: type, path: str, tmp_path: Path) -> None:
    arguments = {"args": f"touch {tmp_path}/run", "command": f"touch {tmp_path}/run", "path": str(tmp_path)}
    for init_args in ({}, arguments):
        with pytest.raises(ConfigurationError, match=re.escape(path)):
            ClassSpec(path, init_args).build(base)
    assert not list(tmp_path.iterdir())


def test_a_function_that_returns_what_is_wanted_is_not_called() -> None:
    message = "must name a class, but anomalib.models.get_model is a function. It was not called."
    with pytest.raises(ConfigurationError, match=message):
        ClassSpec("anomalib.models.get_model").build(AnomalibModule)
    with pytest.raises(ConfigurationError, match=r"must name a class, but .*\.makes is a function"):
        ClassSpec(f"{__name__}.makes", {"folder": "a"}).build(Scorer)
    with pytest.raises(ConfigurationError, match=r"must name a class, but .*\.makes is a function"):
        takes(anything={"class_path": f"{__name__}.makes", "init_args": {"folder": "a"}})


@pytest.mark.parametrize("place", ["anything", "call"])
def test_an_argument_takes_no_class_of_another_kind(place: str, touch: dict[str, object], tmp_path: Path) -> None:
    for value in (touch, [touch], {"a": [touch]}) if place == "anything" else (touch,):
        with pytest.raises(ConfigurationError, match=r"subprocess\.Popen"):
            takes(**{place: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["os.system", "torch.load"])
def test_an_argument_is_no_function(path: str) -> None:
    name = path.rpartition(".")[2]
    with pytest.raises(ConfigurationError, match=rf"must be a value or a class, but is the function \w+\.\w*\.?{name}"):
        takes(call=path)
    lambdas = {"class_path": "torchvision.transforms.v2.Lambda", "init_args": {"lambd": path}}
    with pytest.raises(ConfigurationError, match=rf"must be a value or a class, but is the function .*{name}"):
        takes(transform=lambdas)


def test_an_argument_is_no_type_of_another_kind() -> None:
    with pytest.raises(ConfigurationError, match="must name a model, data module, stage or a part of one"):
        takes(kind="subprocess.Popen")
    assert takes(kind="torch.nn.ReLU").given[2] is torch.nn.ReLU


def test_parts_of_models_and_classes_of_the_same_package_are_made() -> None:
    flip = {"class_path": "torchvision.transforms.v2.RandomHorizontalFlip", "init_args": {"p": 0.25}}
    made = takes(anything={"class_path": f"{__name__}.Part", "init_args": {"size": 3}}, transform=flip).given
    assert made[0].size == 3
    assert isinstance(made[3], RandomHorizontalFlip)
    assert takes(anything={"a": 1, "b": ["text", "a.b"]}).given[0] == {"a": 1, "b": ["text", "a.b"]}


@pytest.mark.parametrize("setting", ["callbacks", "logger", "strategy"])
def test_the_trainer_takes_no_class_of_another_kind(setting: str, touch: dict[str, object], tmp_path: Path) -> None:
    for value in (touch, [touch]):
        with pytest.raises(ConfigurationError, match="The trainer refuses its arguments"):
            trainer_arguments({setting: value})
    assert not list(tmp_path.iterdir())


def test_a_callback_gets_no_function() -> None:
    callback = {
        "class_path": "lightning.pytorch.callbacks.LambdaCallback",
        "init_args": {"on_fit_start": "os.system"},
    }
    with pytest.raises(ConfigurationError, match=r"but is the function \w+\.system"):
        trainer_arguments({"callbacks": [callback]})
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "image_AUROC"}}
    (made,) = trainer_arguments({"callbacks": [stopping]})["callbacks"]
    assert made.monitor == "image_AUROC"


def test_a_path_that_leads_nowhere() -> None:
    for path in ("nowhere", "no_such_module.Class", "anomalib.NoSuchClass", ""):
        with pytest.raises(ConfigurationError, match=f"must name a class, but {path} does not exist"):
            check_classes({"class_path": path})


@pytest.mark.usefixtures("ending_modules")
@pytest.mark.parametrize("path", ["ev-il.X", "a.ev-il.X"])
def test_what_is_no_path_of_a_class_is_not_imported(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"must name a class, but {path} does not exist"):
        takes(anything={"class_path": path})


def test_no_file_is_read_for_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flipping.py").write_text("raise SystemExit")
    (tmp_path / "flip.yaml").write_text("class_path: flipping.Flip")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"Unexpected import path format: .*flip\.yaml"):
        takes(transform=str(tmp_path / "flip.yaml"))
