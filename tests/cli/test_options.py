"""From what the user typed, and what stands in files, to settings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.cli import options as arguments
from anomalib_tiled.cli.options import (
    fit_parser,
    plain_parser,
    predict_parser,
    run_parser,
    settings_from,
    test_parser,
)
from anomalib_tiled.config.settings import (
    CacheSettings,
    ClassSpec,
    MetricSettings,
    Settings,
    ThresholdingSettings,
    as_size,
)
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.seams import SeamSmoother

test_parser.__test__ = False  # its name is that of the command

NEEDED = ["--tiling.tile_size", "64", "--model", "Padim", "--data", "Folder"]
NEEDED += ["--data.name", "tiny", "--data.normal_dir", "good"]

Parse = Callable[..., Settings]


@pytest.fixture(scope="module")
def parser() -> arguments.Parser:
    """The parser of ``fit``, slow to make."""
    return fit_parser("anomalib tiled fit")


@pytest.fixture
def parse(parser: arguments.Parser) -> Parse:
    """Give the settings of arguments, those that are always needed put in front."""

    def settings_of(*given: str) -> Settings:
        return settings_from(parser, parser.parse_args([*NEEDED, *given]))

    return settings_of


def write(path: Path, content: object) -> str:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def sizes(settings: Settings) -> tuple[Size | None, ...]:
    """Sizes of tiles, images and strides, however they were written."""
    given = (settings.tiling.tile_size, settings.tiling.image_size, settings.tiling.stride)
    return tuple(None if value is None else as_size(value) for value in given)


def test_what_is_not_given_has_the_documented_value(parse: Parse) -> None:
    settings = parse()
    assert sizes(settings) == (Size(64, 64), None, None)
    assert (settings.model.class_path, settings.data.class_path) == ("anomalib.models.Padim", "anomalib.data.Folder")
    assert settings.default_root_dir == "results"
    assert settings.stages["merging"].class_path == "anomalib_tiled.stages.merging.Mean"
    assert settings.stages["scoring"].class_path == "anomalib_tiled.stages.scoring.Max"
    assert settings.stages["seam_smoothing"] == ClassSpec(
        "anomalib_tiled.stages.seams.GaussianSeams", settings.stages["seam_smoothing"].init_args
    )
    assert (settings.normalization.stage, settings.stages["normalization"].name) == ("image", "MinMax")
    assert (settings.thresholding.stage, settings.stages["thresholding"].name) == ("image", "F1AdaptiveThreshold")
    assert settings.metrics == MetricSettings()
    assert settings.stages["workers"].name == "LocalWorkers"
    assert settings.cache == CacheSettings()
    assert settings.visualize is True


@pytest.mark.parametrize(
    ("setting", "names", "class_path"),
    [
        ("model", ["Padim", "anomalib.models.Padim", "anomalib.models.image.padim.lightning_model.Padim"], ".Padim"),
        ("merging", ["Hann", "anomalib_tiled.stages.merging.Hann"], ".merging.Hann"),
        ("merging", ["Max", "anomalib_tiled.stages.merging.Max"], ".merging.Max"),
        ("scoring", ["Max", "anomalib_tiled.stages.scoring.Max"], ".scoring.Max"),
        ("scoring", ["TopK", "anomalib_tiled.stages.scoring.TopK"], ".scoring.TopK"),
        ("seam_smoothing", ["GaussianSeams", "anomalib_tiled.stages.seams.GaussianSeams"], ".seams.GaussianSeams"),
    ],
)
def test_a_class_has_a_short_name_and_a_dotted_one(
    parse: Parse, setting: str, names: list[str], class_path: str
) -> None:
    settings = [parse(f"--{setting}", name) for name in names]
    found = {(each.model if setting == "model" else each.stages[setting]).class_path for each in settings}
    assert all(path.endswith(class_path) for path in found)


@pytest.mark.parametrize("name", ["ManualThreshold", "anomalib_tiled.stages.thresholding.ManualThreshold"])
def test_arguments_of_a_class_follow_its_name(parse: Parse, name: str) -> None:
    settings = parse("--thresholding.method", name, "--thresholding.method.value=0.7", "--thresholding.stage", "tile")
    expected = ClassSpec("anomalib_tiled.stages.thresholding.ManualThreshold", {"value": 0.7})
    assert (settings.thresholding, settings.stages["thresholding"]) == (ThresholdingSettings("tile"), expected)


def test_sensitivities(parse: Parse) -> None:
    thresholding = parse("--thresholding.image_sensitivity", "0.3", "--thresholding.pixel_sensitivity=1").thresholding
    assert (thresholding.image_sensitivity, thresholding.pixel_sensitivity) == (0.3, 1)


@pytest.mark.parametrize("name", ["PostProcessor", "anomalib.post_processing.PostProcessor"])
def test_sensitivities_of_a_models_post_processor_are_read_and_said(
    parse: Parse, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    settings = parse("--model.post_processor", name, "--model.post_processor.image_sensitivity", "0.3")
    assert settings.thresholding.image_sensitivity == 0.3
    moved = "thresholding.image_sensitivity: 0.3, thresholding.pixel_sensitivity: 0.5"
    assert capsys.readouterr().err == f"model.init_args.post_processor → {moved}\n"


def test_values_of_several_forms(parse: Parse) -> None:
    settings = parse("--tiling.image_size", "[100, 200]", "--tiling.stride=32", "--trainer.max_epochs", "3")
    assert sizes(settings) == (Size(64, 64), Size(100, 200), Size(32, 32))
    assert settings.trainer["max_epochs"] == 3
    settings = parse("--metrics.image", "[AUROC, F1Max]", "--metrics.pixel", "[]", "--visualize", "false")
    assert settings.metrics == MetricSettings(("AUROC", "F1Max"), ())
    assert settings.visualize is False


def test_metrics_with_arguments_from_the_command_line_and_from_a_file(parse: Parse, tmp_path: Path) -> None:
    spec = {"class_path": "torchmetrics.classification.BinaryFBetaScore", "init_args": {"beta": 2.0}, "name": "F2"}
    text = "[AUROC, {class_path: torchmetrics.classification.BinaryFBetaScore, init_args: {beta: 2.0}, name: F2}]"
    expected = MetricSettings(("AUROC", spec))
    assert parse("--metrics.image", text).metrics == expected
    file = write(tmp_path / "metrics.yaml", {"metrics": {"image": ["AUROC", spec]}})
    assert parse("--config", file).metrics == expected


@pytest.mark.parametrize("null", ["null", None])
def test_null_leaves_out_smoothing_and_cache(parser: arguments.Parser, tmp_path: Path, null: str | None) -> None:
    given = ["--seam_smoothing=null", "--cache=null"]
    if null is None:
        given = ["--config", write(tmp_path / "a.yaml", {"seam_smoothing": None, "cache": None})]
    settings = settings_from(parser, parser.parse_args([*NEEDED, *given]))
    assert "seam_smoothing" not in settings.stages
    assert settings.cache is None
    assert settings.cache_directory is None


def test_a_folder_for_the_cache(parse: Parse) -> None:
    assert parse("--cache.directory", "elsewhere").cache_directory == Path("elsewhere")
    assert parse("--default_root_dir", "here").cache_directory == Path("here/cache")


@pytest.mark.parametrize("order", [1, -1])
def test_an_option_wins_over_the_file_wherever_it_stands(parser: arguments.Parser, tmp_path: Path, order: int) -> None:
    file = {
        "seed_everything": 5,
        "tiling": {"tile_size": [32, 48], "stride": 16},
        "model": {"class_path": "Padim", "init_args": {"n_features": 20, "pre_trained": False}},
        "data": {"class_path": "Folder", "init_args": {"name": "tiny", "normal_dir": "good"}},
        "merging": {"class_path": "Gaussian", "init_args": {"sigma": 0.3}},
    }
    config = ["--config", write(tmp_path / "a.yaml", file)]
    options = ["--tiling.stride=8", "--model.n_features=10", "--merging", "Hann"]
    given = [*config, *options] if order == 1 else [*options, *config]
    settings = settings_from(parser, parser.parse_args(given))
    assert sizes(settings) == (Size(32, 48), None, Size(8, 8))
    assert settings.seed_everything == 5
    assert settings.model.init_args["n_features"] == 10
    assert settings.model.init_args["pre_trained"] is False
    assert settings.stages["merging"].name == "Hann"
    assert "sigma" not in settings.stages["merging"].init_args


def test_of_two_files_the_second_wins(parser: arguments.Parser, tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", {"tiling": {"stride": 8}, "visualize": False})
    second = write(tmp_path / "b.yaml", {"tiling": {"stride": 4}})
    settings = settings_from(parser, parser.parse_args([*NEEDED, "-c", first, f"--config={second}"]))
    assert (sizes(settings)[2], settings.visualize) == (Size(4, 4), False)


def test_what_print_config_prints_is_a_configuration(
    parser: arguments.Parser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--seam_smoothing=null", "--merging", "Gaussian", "--merging.sigma=0.3", "--seed_everything=3"]
    changes += ["--metrics.pixel", "[AUPRO, {class_path: BinaryFBetaScore, init_args: {beta: 0.5}}]"]
    with pytest.raises(SystemExit) as left:
        parser.parse_args([*NEEDED, *changes, "--print_config"])
    assert left.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (tmp_path / "printed.yaml").write_text(printed.out)
    again = settings_from(parser, parser.parse_args(["--config", str(tmp_path / "printed.yaml")]))
    assert again == settings_from(parser, parser.parse_args([*NEEDED, *changes]))
    assert again.stages["merging"].init_args == {"sigma": 0.3}


def test_what_a_run_keeps_is_a_configuration(parser: arguments.Parser, parse: Parse, tmp_path: Path) -> None:
    metrics = "[{class_path: AUPRO, init_args: {fpr_limit: 0.1}, name: low}, PRO]"
    settings = parse("--cache=null", "--tiling.stride", "[32, 16]", "--metrics.pixel", metrics)
    (tmp_path / "config.yaml").write_text(settings.to_yaml())
    again = settings_from(parser, parser.parse_args(["--config", str(tmp_path / "config.yaml")]))
    assert again == settings


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--model.help", "Padim"], "--model.n_features"),
        (["--merging.help", "Gaussian"], "Standard deviation as a fraction of the tile side"),
        (["--data.help", "Folder"], "--data.normal_dir"),
        (["--help"], "Height and width of a tile in pixels"),
    ],
)
def test_help_ends_the_program_well(
    parser: arguments.Parser, option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser.parse_args(option)
    assert left.value.code == 0
    printed = capsys.readouterr()
    assert said in " ".join(printed.out.split())
    assert printed.err == ""


def test_every_setting_is_explained(parser: arguments.Parser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    printed = capsys.readouterr().out
    for name in ("tiling.tile_size", "tiling.image_size", "tiling.stride", "metrics.image", "seed_everything"):
        line = printed[printed.index(f"--{name} ") :].partition("\n  --")[0]
        assert len(re.sub(r"\(.*?\)", "", line, flags=re.DOTALL).split()) > 6, name


def test_true_draws_a_seed(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 8, 9])
    limits = []
    monkeypatch.setattr(arguments.secrets, "randbelow", lambda limit: limits.append(limit) or next(drawn))
    seeds = [parse(*given).seed_everything for given in ([], ["--seed_everything=true"], ["--seed_everything", "5"])]
    assert seeds == [7, 8, 5]
    assert set(limits) == {2**32}, "as many as there are seeds of NumPy"


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_that_is_given_is_kept(parse: Parse, seed: int) -> None:
    kept = parse(f"--seed_everything={seed}").seed_everything
    assert kept == seed
    assert type(kept) is int


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
        ["--tiling.tile_size=big"],
        "tiling.tile_size: Expected a int; or Expected a tuple. Given: big.",
    ),
    "three numbers": (["--tiling.stride=[1, 2, 3]"], "tiling.stride: Expected a int; or Expected a tuple"),
    "neither of three": (["--normalization.stage=both"], "normalization.stage: Expected a one of ['tile', 'image', "),
    "neither of two": (["--thresholding.stage=none"], "thresholding.stage: Expected a one of ['tile', 'image']"),
    "no truth": (["--visualize=perhaps"], "visualize: "),
    "an unknown setting": (["--tilling.stride=3"], "There is no setting 'tilling'. Did you mean 'tiling'? Allowed: "),
    "an unknown one in a group": (["--tiling.strides=3"], "tiling has no setting 'strides'. Did you mean 'stride'?"),
    "an unknown class": (["--merging=Meen"], "There is no 'Meen' for merging. Did you mean 'Mean'? Allowed: Gaussian"),
    "an unknown model": (
        ["--model=Patchcor"],
        "model: Expected a class: Patchcor. Did you mean 'Patchcore'? Allowed",
    ),
    "a missing module": (
        ["--scoring=no.such.Module"],
        "scoring: Problem with given class_path 'no.such.Module': No module named 'no'. Allowed: Max, Mean, To",
    ),
    "a missing class": (
        ["--scoring=anomalib_tiled.stages.scoring.Topk"],
        "module 'anomalib_tiled.stages.scoring' has no attribute 'Topk'. Allowed: Max, Mean, TopK. Or give a dotted",
    ),
    "a class of another kind": (
        ["--merging=anomalib_tiled.stages.scoring.TopK"],
        "merging: Import path does not correspond to a subclass of Merger. Given: anomalib_tiled.stages.scoring.TopK.",
    ),
    "a value of another type": (
        ["--merging=Gaussian", "--merging.sigma=wide"],
        "merging: sigma: Expected a float. Got value: wide.",
    ),
    "an argument of a class": (["--model.n_feature=3"], "There is no setting"),
    "a missing argument": (["--thresholding.method=ManualThreshold"], "method: Option 'value' is required but not"),
    "an unknown worker": (["--workers=LocalWorker"], "Did you mean 'LocalWorkers'?"),
    "no file": (["--config=nowhere.yaml"], "nowhere.yaml"),
}


@pytest.mark.parametrize(("given", "message"), MESSAGES.values(), ids=MESSAGES)
def test_a_wrong_argument_is_explained_in_a_line(parse: Parse, given: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(*given)
    said = str(raised.value)
    assert message in said
    for inner in ("Traceback", "<class", "NoneType", "Namespace(", "NestedArg(", "typing.", "Union subtypes"):
        assert inner not in said


@pytest.fixture
def lopsided(install: Callable[..., None]) -> None:
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
        ("side=DIAGONAL", "side: Expected a member of <enum 'Side'>: {ROWS,COLUMNS}. Got value: DIAGONAL."),
        ("window.height=high", "window.height: Expected a int. Got value: high."),
        ("window.hight=3", "window has no setting 'hight'. Did you mean 'height'? Allowed: height, width."),
        ("table=[1]", "table: Not of type Path: expected str, bytes or os.PathLike object, not list."),
    ],
)
def test_arguments_of_other_types_are_explained_too(parse: Parse, lopsided: None, given: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse(LOPSIDED_PATH, f"--seam_smoothing.{given}")
    assert str(raised.value) == f"seam_smoothing: {message}"


@pytest.mark.parametrize("given", ["--tiling.strid=3", "--ckpt=v0", "--conf=a.yaml", "--visual=false"])
def test_names_are_written_out_in_full(parse: Parse, given: str) -> None:
    name = given.lstrip("-").partition("=")[0].rpartition(".")[2]
    with pytest.raises(ConfigurationError, match=rf"no setting '{name}'\. Did you mean '{name}\w+'\?"):
        parse(given)


@pytest.mark.parametrize("missing", ["tiling.tile_size", "model", "data"])
def test_what_is_required_is_named(parser: arguments.Parser, missing: str) -> None:
    pairs = [NEEDED[number : number + 2] for number in range(0, len(NEEDED), 2)]
    given = [word for name, value in pairs if not name.startswith(f"--{missing}") for word in (name, value)]
    with pytest.raises(ConfigurationError, match=rf"'{missing}' is required"):
        parser.parse_args(given)


def test_other_images_and_another_folder_for_test() -> None:
    parser = test_parser("anomalib tiled test")
    assert replace_none(parser.parse_args(["--ckpt_dir", "run"])) == {"ckpt_dir": "run"}
    given = ["--ckpt_dir=run", "--output=there", "--data=Folder", "--data.name=n", "--data.normal_dir=good"]
    parsed = parser.parse_args(given)
    assert (parsed.output, parsed.data.class_path) == ("there", "anomalib.data.Folder")
    assert parsed.data.init_args.normal_dir == "good"


def test_data_of_predict_add_up() -> None:
    parser = predict_parser("anomalib tiled predict")
    given = ["--ckpt_dir=run", "--data", "a", "1", "--masks", "--data=null", "--data", "-"]
    assert parser.parse_args(given).data == ["a", "1", "null", "-"]
    assert parser.parse_args(["--ckpt_dir=run"]).data is None
    with pytest.raises(ConfigurationError, match="--data: expected at least one argument"):
        parser.parse_args(["--ckpt_dir=run", "--data"])


def replace_none(parsed: object) -> dict[str, object]:
    return {name: value for name, value in vars(parsed).items() if value is not None}


@pytest.mark.parametrize("make", [test_parser, lambda prog: run_parser(prog, "Show.")])
def test_a_run_is_required(make: Callable[[str], arguments.Parser]) -> None:
    with pytest.raises(ConfigurationError, match="'ckpt_dir' is required"):
        make("anomalib tiled").parse_args([])


def test_a_command_without_options_takes_none() -> None:
    with pytest.raises(ConfigurationError, match=r"There is no setting 'ckpt_dir'\. None is allowed\.$"):
        plain_parser("anomalib tiled plugins", "List.").parse_args(["--ckpt_dir", "x"])


def test_settings_of_a_file_and_of_options_are_the_same(parser: arguments.Parser, parse: Parse, tmp_path: Path) -> None:
    file = {
        "tiling": {"tile_size": 64},
        "model": "Padim",
        "data": {"class_path": "Folder", "init_args": {"name": "tiny", "normal_dir": "good"}},
        "seed_everything": 1,
    }
    of_file = settings_from(parser, parser.parse_args(["--config", write(tmp_path / "a.yaml", file)]))
    assert of_file == replace(parse(), seed_everything=1)
