"""Wrong arguments and configurations; each message comes from jsonargparse itself, and is known by its words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.cli.options import fit_parser
from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.seams import SeamSmoother

Parse = Callable[..., Settings]
Install = Callable[..., None]

TWIN = """
from anomalib_tiled import Scorer, hookimpl


class Twin(Scorer):
    def score(self, tile_scores, maps):
        return tile_scores.amin(dim=0)


@hookimpl
def register_scorers():
    return [Twin]
"""
LOPSIDED = '''
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from anomalib_tiled import SeamSmoother, hookimpl


class Side(Enum):
    ROWS = "rows"
    COLUMNS = "columns"


@dataclass
class Window:
    height: int = 3
    width: int = 5


class Lopsided(SeamSmoother):
    """Smooths one side."""

    def __init__(self, side: Side = Side.ROWS, window: Window = Window(), table: Path = Path("a.csv")) -> None:
        self.side, self.window, self.table = side, window, table

    def smooth(self, maps, grid):
        return maps


@hookimpl
def register_seam_smoothers():
    return [Lopsided]
'''
LOPSIDED_PATH = "--seam_smoothing=lopsided_factory.Lopsided"
MESSAGES = {
    "no number": (
        "--tiling.tile_size=big",
        "tiling.tile_size must be a whole number or a list, but is big.",
    ),
    "none of three": (
        "--normalization.stage=both",
        "normalization.stage must be one of 'tile', 'image', 'none', but is both.",
    ),
    "a setting": (
        "--tilling.stride=3",
        "There is no setting 'tilling'. Did you mean 'tiling'? Allowed: accelerate, alignment, assignment",
    ),
    "in a group": ("--tiling.strides=3", "tiling has no setting 'strides'. Did you mean 'stride'? Allowed: image_size"),
    "a group": (
        "--normalization=none",
        "is a group of settings. Give one of normalization.method, normalization.stage.",
    ),
    "of anomalib": ("--seed=3", "'seed' of anomalib's own tiled ensemble is called seed_everything here. Give that"),
    "abbreviated": ("--visual=false", "There is no setting 'visual'. Did you mean 'visualize'?"),
    "a class": (
        "--merging=Meen",
        "There is no 'Meen' for merging. Did you mean 'Mean'? Allowed: Gaussian, Hann",
    ),
    "a model": ("--model=Patchcor", "There is no 'Patchcor' for model. Did you mean 'Patchcore'? Allowed: AiVad, Ano"),
    "data": ("--data=DemoBoard", "There is no 'DemoBoard' for data. Did you mean 'DemoBoards'? Allowed: ADAM3D"),
    "a module": (
        "--scoring=no.such.Module",
        "class_path 'no.such.Module':\nNo module named 'no'\nGiven value: no.such",
    ),
    "another kind": ("--merging=anomalib_tiled.stages.scoring.TopK", "does not correspond to a subclass of Merger"),
    "a callback": (
        "--trainer.callbacks=[{class_path: Stopping}]",
        "trainer.callbacks:\n- Expected a dot import path string: Stopping",
    ),
    "an argument": (
        "--model.n_feature=3",
        "model:\n- Padim has no setting 'n_feature'. Did you mean 'n_features'? Allowed: b",
    ),
    "a value": (
        "--merging={class_path: Gaussian, init_args: {sigma: wide}}",
        "merging:\n- sigma must be a number, but is wide.",
    ),
    "no arguments": ("--scoring.share=1", "scoring:\n- Max takes no arguments, but 'share' is given. Leave it out."),
    "a class in a class": (
        "--model.pre_processor=Foo",
        "must be the dotted path of a class or true or false, but is Foo.",
    ),
    "a missing argument": ("--thresholding.method=ManualThreshold", "Option 'value' is required but not provided"),
    "no file": ("--config=nowhere.yaml", "nowhere.yaml"),
    "no settings": ("--config=[a]", "A configuration must hold settings by name, but holds [a]."),
    "in a configuration": (
        "--config={tiling: {strides: 3}}",
        "tiling has no setting 'strides'. Did you mean 'stride'?",
    ),
    "a class in a configuration": ("--config={model: {class_path: Padimm}}", "There is no 'Padimm' for model. Did you"),
}


@pytest.mark.parametrize(("given", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_wrong_argument_is_explained(parse: Parse, given: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(given)
    said = str(raised.value)
    assert message in said
    for inner in (
        "Traceback",
        "Parser key",
        "<class",
        "NoneType",
        "Namespace(",
        "NestedArg(",
        "Union subtypes",
        "\n\n",
    ):
        assert inner not in said


def test_a_short_name_is_never_one_of_several_classes(install: Install, needed: list[str]) -> None:
    install("twin_one", TWIN)
    install("twin_two", TWIN)
    parser = fit_parser("fit")
    with pytest.raises(ConfigurationError, match=r"name Twin\. Give the full class .*twin_one\.Twin, twin_two\.T"):
        parser.parse_args([*needed, "--scoring=Twin"])
    assert parser.parse_args([*needed, "--scoring=twin_two.Twin"]).scoring.class_path == "twin_two.Twin"


def test_a_plugin_that_cannot_be_loaded_is_named(install: Install, parse: Parse) -> None:
    install("halfway", "import nowhere\n")
    message = r"no 'Halve' for scoring\. Allowed: .* These plugins cannot be loaded: halfway 1\.2 .*No module named"
    with pytest.raises(ConfigurationError, match=message):
        parse("--scoring=Halve")


@pytest.fixture
def lopsided(install: Install) -> None:
    """A stage of another package, whose arguments have types of all kinds."""
    install("lopsided_factory", LOPSIDED)


def test_arguments_of_other_types_are_read_saved_and_restored(parse: Parse, lopsided: None) -> None:
    given = {"side": "COLUMNS", "window.height": "7", "table": "scores.csv"}
    settings = parse(LOPSIDED_PATH, *(f"--seam_smoothing.{name}={each}" for name, each in given.items()))
    spec = Settings.from_mapping(yaml.safe_load(settings.to_yaml())).stages["seam_smoothing"]
    assert spec.init_args == {"side": "COLUMNS", "window": {"height": 7, "width": 5}, "table": "scores.csv"}
    stage = spec.build(SeamSmoother)
    assert (stage.side.value, stage.window.height, stage.window.width) == ("columns", 7, 5)
    assert stage.table == Path("scores.csv")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("side=DIAGONAL", "seam_smoothing:\n- side must be one of ROWS,COLUMNS, but is DIAGONAL."),
        ("window.hight=3", "window has no setting 'hight'. Did you mean 'height'? Allowed: height, width."),
    ],
)
def test_arguments_of_other_types_are_explained_too(parse: Parse, lopsided: None, given: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(LOPSIDED_PATH, f"--seam_smoothing.{given}")
    assert message in str(raised.value)
