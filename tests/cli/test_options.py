"""From what the user typed, and what stands in files, to settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.cli import options
from anomalib_tiled.cli.options import (
    predict_parser,
    settings_from,
    test_parser,
)
from anomalib_tiled.cli.parser import Parser, run_parser
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

test_parser.__test__ = False  # its name is that of the command

Parse = Callable[..., Settings]


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


def test_a_class_has_a_short_name_and_a_dotted_one(parse: Parse) -> None:
    padim, stages = "anomalib.models.Padim", "anomalib_tiled.stages"
    dotted = [f"--model={padim}", f"--merging={stages}.merging.Max", f"--scoring={stages}.scoring.Max"]
    seeded = ("--seed_everything=1", "--normalization.method.class_path=Quantile")
    short = parse(*seeded, "--model", "Padim", "--merging", "Max", "--scoring={class_path: Max}")
    assert short == parse(*seeded, *dotted)
    paths = [short.model.class_path, *(short.stages[kind].class_path for kind in ("merging", "scoring"))]
    assert paths == [padim, f"{stages}.merging.Max", f"{stages}.scoring.Max"]
    assert short.stages["normalization"].class_path == f"{stages}.normalization.Quantile"


def test_arguments_of_a_class_follow_its_name(parse: Parse) -> None:
    settings = parse(
        "--thresholding.method", "ManualThreshold", "--thresholding.method.value=0.7", "--thresholding.stage", "tile"
    )
    expected = ClassSpec("anomalib_tiled.stages.thresholding.ManualThreshold", {"value": 0.7})
    assert (settings.thresholding, settings.stages["thresholding"]) == (ThresholdingSettings("tile"), expected)


def test_sensitivities_of_a_models_post_processor_are_read_and_said(
    parse: Parse, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parse("--model.post_processor=PostProcessor", "--model.post_processor.image_sensitivity=0.3")
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


@pytest.mark.parametrize(
    "given", [["--seam_smoothing=null", "--cache=null"], ["--config={seam_smoothing: null, cache: null}"]]
)
def test_null_leaves_out_smoothing_and_cache(parse: Parse, given: list[str]) -> None:
    settings = parse(*given)
    assert "seam_smoothing" not in settings.stages
    assert settings.cache is None
    assert settings.cache_directory is None


@pytest.mark.parametrize("order", [1, -1])
def test_an_option_wins_over_the_file_wherever_it_stands(parser: Parser, tmp_path: Path, order: int) -> None:
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


def test_of_two_files_the_second_wins(parse: Parse, tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", {"tiling": {"stride": 8}, "visualize": False})
    second = write(tmp_path / "b.yaml", {"tiling": {"stride": 4}})
    settings = parse("-c", first, f"--config={second}")
    assert (sizes(settings)[2], settings.visualize) == (Size(4, 4), False)


def test_what_print_config_prints_is_a_configuration(
    parser: Parser, needed: list[str], parse: Parse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--seam_smoothing=null", "--merging", "Gaussian", "--merging.sigma=0.3", "--seed_everything=3"]
    changes += ["--metrics.pixel", "[AUPRO, {class_path: BinaryFBetaScore, init_args: {beta: 0.5}}]"]
    with pytest.raises(SystemExit) as left:
        parser.parse_args([*needed, *changes, "--print_config"])
    assert left.value.code == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (tmp_path / "printed.yaml").write_text(printed.out)
    again = settings_from(parser, parser.parse_args(["--config", str(tmp_path / "printed.yaml")]))
    assert again == parse(*changes)
    assert again.stages["merging"].init_args == {"sigma": 0.3}


def test_what_a_run_keeps_is_a_configuration(parser: Parser, parse: Parse, tmp_path: Path) -> None:
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
        (["--help"], "Height and width of a tile in pixels"),
    ],
)
def test_help_ends_the_program_well(
    parser: Parser, option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parser.parse_args(option)
    assert left.value.code == 0
    printed = capsys.readouterr()
    assert said in " ".join(printed.out.split())
    assert printed.err == ""


def test_true_draws_a_seed(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([7, 8, 9])
    limits = []
    monkeypatch.setattr(options.secrets, "randbelow", lambda limit: limits.append(limit) or next(drawn))
    seeds = [parse(*given).seed_everything for given in ([], ["--seed_everything=true"], ["--seed_everything", "5"])]
    assert seeds == [7, 8, 5]
    assert set(limits) == {2**32}, "as many as there are seeds of NumPy"


@pytest.mark.parametrize("missing", ["tiling.tile_size", "model", "data"])
def test_what_is_required_is_named(parser: Parser, needed: list[str], missing: str) -> None:
    pairs = [needed[number : number + 2] for number in range(0, len(needed), 2)]
    given = [word for name, value in pairs if not name.startswith(f"--{missing}") for word in (name, value)]
    with pytest.raises(ConfigurationError, match=rf"'{missing}' is required"):
        parser.parse_args(given)


def test_other_images_and_another_folder_for_test() -> None:
    parser = test_parser("anomalib tiled test")
    assert replace_none(parser.parse_args(["--ckpt_dir", "run"])) == {"ckpt_dir": "run", "report": False}
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
def test_a_run_is_required(make: Callable[[str], Parser]) -> None:
    with pytest.raises(ConfigurationError, match="'ckpt_dir' is required"):
        make("anomalib tiled").parse_args([])
