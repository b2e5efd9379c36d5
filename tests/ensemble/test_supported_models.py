"""Every model of anomalib is known to work with tiles or refused, and docs/models.md says the same."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import runpy
from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path

import anomalib.models
import pytest
import yaml
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.models import CFM, EfficientAd, Padim, WinClip
from anomalib.models.components import AnomalibModule

import anomalib_tiled
from anomalib_tiled.config.settings import ClassSpec, Settings
from anomalib_tiled.ensemble import supported_models
from anomalib_tiled.ensemble.supported_models import SUPPORT, check_model, reason_against
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size
from anomalib_tiled.training import preparation

PACKAGE = Path(anomalib_tiled.__file__).parent
DOCS = PACKAGE.parent / "docs"
TRIALS = yaml.safe_load((PACKAGE.parent / "tests" / "commands" / "model_trials.yaml").read_text(encoding="utf-8"))
EXPORTED = [getattr(anomalib.models, name) for name in anomalib.models.__all__]
REFUSED = {model_class.__name__: reason for model_class in EXPORTED if (reason := reason_against(model_class))}

NOT_OF_TILES = {"AnomalyDINO", "Dfkde", "Dfm", "Fastflow", "Padim", "Patchcore"}
"""Their rules are about numbers of images, shares, and backbones that are not the default."""


class Smaller(EfficientAd):
    """A third party's class made from one with rules."""


class Teaching(WinClip):
    """A third party's class that adds what its parent lacks."""

    def training_step(self, batch: ImageBatch) -> None:
        return None


class Flat(CFM):
    """A third party's class made from one that the table refuses."""


class Csflow(AnomalibModule):
    """Of the same name as one with rules, but another."""

    trainer_arguments = {}  # noqa: RUF012  # a property in anomalib
    learning_type = LearningType.ONE_CLASS

    def training_step(self, batch: ImageBatch) -> None:
        return None


def all_classes(base: type) -> Iterator[type]:
    for each in base.__subclasses__():
        yield each
        yield from all_classes(each)


def test_every_model_that_anomalib_has_is_tried_or_refused() -> None:
    for module in pkgutil.walk_packages(anomalib.models.__path__, "anomalib.models."):
        importlib.import_module(module.name)
    found = {each for each in all_classes(AnomalibModule) if each.__module__.startswith("anomalib.models")}
    assert found == set(EXPORTED), "models that are not exported can be named too"
    assert {each.__name__ for each in found if not reason_against(each)} == set(TRIALS)
    assert {each.__name__ for each in found} >= set(SUPPORT), "the table names a class that does not exist"


def test_the_page_says_what_the_table_says() -> None:
    page = runpy.run_path(str(DOCS / "write_models.py"))["page"]()
    assert (DOCS / "models.md").read_text(encoding="utf-8") == page, "run `python docs/write_models.py`"


def test_every_model_has_a_row() -> None:
    rows = [line for line in (DOCS / "models.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == sorted(anomalib.models.__all__, key=str.lower)


def test_which_models_are_refused() -> None:
    untrained, video = "it is not trained", "it looks at the frames of a video"
    expected = {"AiVad": video, "AnomalyVFM": untrained, "CFM": "it needs a point cloud or a depth map"}
    expected |= {"Fuvas": video, "VlmAd": untrained, "WinClip": untrained}
    assert {name: reason[: len(expected[name])] for name, reason in REFUSED.items()} == expected


@pytest.fixture
def settings(configuration: dict[str, object], tmp_path: Path) -> Settings:
    """Settings of a run whose images are not there."""
    data = {"name": "none", "root": str(tmp_path / "nowhere"), "normal_dir": "good"}
    changes = {
        "default_root_dir": str(tmp_path / "results"),
        "data": {"class_path": "anomalib.data.Folder", "init_args": data},
        "trainer": {"accelerator": "cpu"},
    }
    return Settings.from_mapping(configuration | changes)


def refusal(spec: ClassSpec, tile_size: Size, **images: int) -> str | None:
    """What is said against a model; ``None`` if nothing is."""
    try:
        check_model(spec, tile_size, **images)
    except ConfigurationError as error:
        return str(error)
    return None


def test_a_model_is_refused_before_images_are_looked_for(settings: Settings, tmp_path: Path) -> None:
    message = f"^CFM cannot be used with tiles: {REFUSED['CFM']}. Choose another model.$"
    with pytest.raises(ConfigurationError, match=message):
        preparation.prepare(replace(settings, model=ClassSpec("anomalib.models.CFM")))
    assert not (tmp_path / "results").exists()


def test_tiles_that_a_model_cannot_take_are_refused_before_images_are_looked_for(settings: Settings) -> None:
    tiling = replace(settings.tiling, image_size=(64, 64), tile_size=(17, 19), stride=None)
    with pytest.raises(ConfigurationError, match=r"^Dinomaly needs tiles whose sides are multiples of the patch side"):
        preparation.prepare(replace(settings, model=ClassSpec("anomalib.models.Dinomaly"), tiling=tiling))


def test_rules_about_tiles_are_kept_by_none_of_odd_sides() -> None:
    for name in {name for name, each in SUPPORT.items() if each.rules} - NOT_OF_TILES:
        refused = refusal(ClassSpec(f"anomalib.models.{name}"), Size(17, 19), train_batch_size=4)
        assert str(refused).startswith(f"{name} needs "), name


def test_a_model_is_not_made_to_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    @wraps(Padim.__init__)  # rules read its parameters
    def fail(*_: object, **__: object) -> None:
        pytest.fail("it was made")

    monkeypatch.setattr(Padim, "__init__", fail)
    assert refusal(ClassSpec("anomalib.models.Padim"), Size(64, 64), train_batch_size=4) is None


def test_trials_keep_the_rules() -> None:
    for name, trial in TRIALS.items():
        spec = ClassSpec(f"anomalib.models.{name}", trial.get("init_args", {}))
        batches = trial.get("train_batch_size", 4)
        assert refusal(spec, Size(*trial["tile_size"]), train_batch_size=batches, train_images=4) is None


def test_a_class_made_from_a_listed_one_inherits_what_is_known() -> None:
    with pytest.raises(ConfigurationError, match="Smaller needs `train_batch_size: 1` of the data module, but it is 4"):
        check_model(ClassSpec(f"{__name__}.Smaller"), Size(256, 256), train_batch_size=4)
    assert reason_against(Flat) == reason_against(CFM)
    assert reason_against(Teaching) is None, "what is seen from the class is seen from this one"


def test_a_class_of_the_same_name_is_another() -> None:
    assert SUPPORT["Csflow"].rules
    assert refusal(ClassSpec("anomalib.models.Csflow"), Size(64, 64), train_batch_size=4) is not None
    assert refusal(ClassSpec(f"{__name__}.Csflow"), Size(64, 64), train_batch_size=4) is None


def test_few_training_images_are_refused_when_they_are_counted(settings: Settings) -> None:
    dfkde = ClassSpec("anomalib.models.Dfkde")
    assert refusal(dfkde, Size(64, 64), train_batch_size=4) is None
    with pytest.raises(ConfigurationError, match="more than `n_pca_components` training images, but that is 16, and"):
        check_model(dfkde, Size(64, 64), train_batch_size=4, train_images=16)


def test_models_are_named_in_one_place() -> None:
    names = set(anomalib.models.__all__)
    for path in PACKAGE.rglob("*.py"):
        if path == Path(supported_models.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "value", None)}
            words = {str(each).rpartition(".")[2] for each in named if isinstance(each, str)}
            assert not words & names, path
