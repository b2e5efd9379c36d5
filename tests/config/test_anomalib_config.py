from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import EarlyStopping

from anomalib_tiled.cli.options import settings_from
from anomalib_tiled.cli.parser import Parser
from anomalib_tiled.config.anomalib_config import HEADING, is_reference, read_post_processor, translate
from anomalib_tiled.config.settings import Settings
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.stages.thresholding import ManualThreshold, Thresholder
from anomalib_tiled.training.trainer import trainer_arguments

FIRST, SECOND = (Path(__file__).parents[1] / "reference" / f"anomalib_{number}.yaml" for number in (1, 2))

Write = Callable[[object], str]
Parsed = Callable[..., Settings]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration, and give the name of its file."""

    def write_to(configuration: object) -> str:
        path = tmp_path / "configuration.yaml"
        path.write_text(yaml.safe_dump(configuration), encoding="utf-8")
        return str(path)

    return write_to


def content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def parsed(parser: Parser) -> Parsed:
    return lambda *arguments: settings_from(parser, parser.parse_args(arguments))


def settings_of(configuration: dict[str, Any]) -> dict[str, Any]:
    return translate(configuration)[0]


def test_the_first_generation_is_read_whole() -> None:
    assert settings_of(content(FIRST)) == {
        "seed_everything": 42,
        "default_root_dir": "results",
        "tiling": {"image_size": [256, 256], "tile_size": 128, "stride": 128},
        "data": {
            "class_path": "anomalib.data.MVTecAD",
            "init_args": {
                "root": "./datasets/MVTec",
                "category": "bottle",
                "train_batch_size": 32,
                "eval_batch_size": 32,
                "num_workers": 8,
                "test_split_mode": "from_dir",
                "test_split_ratio": 0.2,
                "val_split_mode": "same_as_test",
                "val_split_ratio": 0.5,
            },
        },
        "normalization": {"stage": "image"},
        "thresholding": {"stage": "image", "method": {"class_path": "F1AdaptiveThreshold"}},
        "seam_smoothing": {"class_path": "GaussianSeams", "init_args": {"sigma": 2, "width": 0.1}},
        "model": {"class_path": "Fastflow"},
        "metrics": {"pixel": ["AUROC"], "image": ["AUROC"]},
        "trainer": {"accelerator": "gpu", **content(FIRST)["TrainModels"]["trainer"]},
    }


def test_the_second_generation_is_read_whole() -> None:
    given = content(SECOND)
    assert settings_of(given) == {
        "seed_everything": 42,
        "default_root_dir": "results",
        "tiling": given["tiling"],
        "data": given["data"],
        "normalization": {"stage": "image"},
        "thresholding": {"stage": "image"},
        "seam_smoothing": {"class_path": "GaussianSeams", "init_args": {"sigma": 2, "width": 0.1}},
        "model": {"class_path": "Padim"},
        "trainer": {"accelerator": "cuda"},
    }


def test_the_parser_reads_the_first_generation(parsed: Parsed) -> None:
    settings = parsed("--config", str(FIRST))
    assert settings.model.class_path == "anomalib.models.Fastflow"
    assert settings.data.class_path == "anomalib.data.MVTecAD"
    assert settings.tiling.image_size == (256, 256)
    assert settings.metrics.pixel == ("AUROC",)
    assert settings.trainer["max_epochs"] == 500
    assert settings.stages["merging"].name == "Mean"
    assert settings.stages["scoring"].name == "Max"


def test_the_parser_reads_the_second_generation(parsed: Parsed) -> None:
    settings = parsed("--config", str(SECOND))
    assert settings.model.class_path == "anomalib.models.Padim"
    assert settings.metrics.image == settings.metrics.pixel == ("AUROC", "F1Score")
    assert settings.stages["seam_smoothing"].init_args == {"sigma": 2.0, "width": 0.1}


def test_callbacks_are_made(parsed: Parsed) -> None:
    arguments = trainer_arguments({**parsed("--config", str(FIRST)).trainer, "accelerator": "cpu"})
    (stopping,) = arguments["callbacks"]
    assert isinstance(stopping, EarlyStopping)
    assert (stopping.monitor, stopping.patience, stopping.mode) == ("pixel_AUROC", 42, "max")


KEYS = {
    "accelerator above that of the trainer": (
        {"accelerator": "cpu", "TrainModels": {"trainer": {"accelerator": "gpu", "max_epochs": 2}}},
        {"trainer": {"accelerator": "cpu", "max_epochs": 2}},
    ),
    "threshold by path": (
        {"thresholding": {"method": "anomalib.metrics.F1AdaptiveThreshold"}},
        {"thresholding": {"method": {"class_path": "F1AdaptiveThreshold"}}},
    ),
    "start of an adaptive threshold": (
        {"thresholding": {"method": {"class_path": "F1AdaptiveThreshold", "init_args": {"default_value": 0.3}}}},
        {"thresholding": {"method": {"class_path": "F1AdaptiveThreshold"}}},
    ),
    "manual threshold": (
        {
            "thresholding": {
                "method": {"class_path": "anomalib.metrics.ManualThreshold", "init_args": {"default_value": 3.5}}
            },
            "thresholding_stage": "image",
        },
        {
            "thresholding": {
                "stage": "image",
                "method": {"class_path": "ManualThreshold", "init_args": {"value": 3.5}},
            }
        },
    ),
    "no seam smoothing": ({"SeamSmoothing": {"apply": False, "sigma": 2}}, {"seam_smoothing": None}),
    "seam smoothing": (
        {"SeamSmoothing": {"apply": True, "width": 0.2}},
        {"seam_smoothing": {"class_path": "GaussianSeams", "init_args": {"width": 0.2}}},
    ),
    "metrics of images only": (
        {"TrainModels": {"metrics": {"pixel": None, "image": "AUPR"}}},
        {"metrics": {"image": ["AUPR"]}},
    ),
    "one metric with arguments": (
        {"TrainModels": {"metrics": {"pixel": {"class_path": "a.B", "init_args": {"c": 1}}}}},
        {"metrics": {"pixel": [{"class_path": "a.B", "init_args": {"c": 1}}]}},
    ),
    "metrics by names of their own": (
        {"TrainModels": {"metrics": {"image": {"F": {"class_path": "a.B", "init_args": {}}, "AUROC": {}, "G": "c.D"}}}},
        {
            "metrics": {
                "image": [
                    {"class_path": "a.B", "init_args": {}, "name": "F"},
                    {"class_path": "AUROC", "name": "AUROC"},
                    {"class_path": "c.D", "name": "G"},
                ]
            }
        },
    ),
    "nothing": ({"SeamSmoothing": None, "TrainModels": None, "tiling": None, "data": None}, {}),
}


@pytest.mark.parametrize(("given", "expected"), KEYS.values(), ids=KEYS)
def test_a_key_alone(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert settings_of(given) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("anomalib.data.MVTec", "anomalib.data.MVTecAD"),
        ("anomalib.data.image.mvtec.MVTec", "anomalib.data.MVTecAD"),
        ("Kolektor", "Kolektor"),
        ("anomalib_tiled.data.boards.DemoBoards", "anomalib_tiled.data.boards.DemoBoards"),
    ],
)
def test_data_modules_by_their_old_names(old: str, new: str) -> None:
    assert settings_of({"data": {"class_path": old}})["data"] == {"class_path": new}


def test_arguments_that_data_modules_had_are_left_out() -> None:
    old = dict.fromkeys(["transform", "train_transform", "eval_transform", "image_size"]) | {"task": "segmentation"}
    data = {"class_path": "Folder", "init_args": {"root": "there", **old}}
    assert settings_of({"seed": 1, "data": data})["data"] == {"class_path": "Folder", "init_args": {"root": "there"}}


def test_data_modules_of_others_keep_their_arguments() -> None:
    data = {"class_path": "elsewhere.Boards", "init_args": {"image_size": 512, "task": "x"}}
    assert settings_of({"data": data, "tiling": {"image_size": 256}})["data"] == data


def test_the_size_of_images() -> None:
    data = {"class_path": "Folder", "init_args": {"image_size": 512}}
    expected = {"tile_size": 128, "image_size": 512}
    assert settings_of({"data": data, "tiling": {"tile_size": 128}})["tiling"] == expected
    assert settings_of({"data": data, "tiling": {"tile_size": 128, "image_size": 512}})["tiling"] == expected


def test_f1_scores_that_are_monitored() -> None:
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "image_F1Score", "mode": "max"}}
    others = [{"class_path": "Timer"}, {"class_path": "EarlyStopping", "init_args": {"monitor": "train_loss"}}]
    trainer = {"callbacks": [stopping, *others]}
    callbacks = settings_of({"TrainModels": {"trainer": trainer}})["trainer"]["callbacks"]
    assert callbacks[0]["init_args"] == {"monitor": "image_F1Max", "mode": "max"}
    assert callbacks[1:] == others


def test_a_manual_threshold_is_made(write: Write, parsed: Parsed) -> None:
    method = {"class_path": "anomalib.metrics.ManualThreshold", "init_args": {"default_value": 3.5}}
    given = {**content(FIRST), "thresholding": {"method": method, "stage": "tile"}}
    settings = parsed("--config", write(given))
    made = settings.stages["thresholding"].build(Thresholder)
    assert isinstance(made, ManualThreshold)
    assert (made.value, settings.thresholding.stage) == (3.5, "tile")


def test_what_is_given_stays_as_it_is() -> None:
    given = content(FIRST)
    given["TrainModels"]["trainer"]["callbacks"][0]["init_args"]["monitor"] = "image_F1Score"
    before = copy.deepcopy(given)
    translate(given)
    assert given == before


REFUSED = {
    "a key": ({"sed": 1}, "anomalib's own tiled ensemble has no key 'sed'. Did you mean 'seed'? Allowed: SeamSm"),
    "a key of tiling": (
        {"tiling": {"tile_sise": 1}},
        "tiling of anomalib's own tiled ensemble has no key 'tile_sise'. Did you mean 'tile_size'? Allowed: image",
    ),
    "a key of metrics": (
        {"TrainModels": {"metrics": {"imag": 1}}},
        "metrics of .* no key 'imag'. Did you mean 'image'",
    ),
    "two places for thresholds": (
        {"thresholding": {"stage": "tile"}, "thresholding_stage": "image"},
        "thresholding.stage must be given once, but thresholding.stage is tile and thresholding_stage is image. Rem",
    ),
    "a threshold": (
        {"thresholding": {"method": "anomalib.metrics.ManuelThreshold"}},
        "no 'ManuelThreshold' for thresholding.method. Did you mean 'ManualThreshold'? Allowed: F1Ad",
    ),
    "two sizes": (
        {"tiling": {"image_size": 256}, "data": {"class_path": "Folder", "init_args": {"image_size": 512}}},
        "must be given once, but tiling.image_size is 256 and data.init_args.image_size is 512. Remove one of them.",
    ),
    "a transform": (
        {"data": {"class_path": "Folder", "init_args": {"eval_transform": {"class_path": "x.Resize"}}}},
        "eval_transform is called val_augmentations and test_augmentations since anomalib 2, and holds augmentations",
    ),
    "no group": ({"SeamSmoothing": True}, "SeamSmoothing must be a mapping, but is True."),
}


@pytest.mark.parametrize(("given", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    pattern = message.replace("?", r"\?").replace("{", r"\{").replace("}", r"\}")
    with pytest.raises(ConfigurationError, match=pattern):
        translate({"seed": 1, **given})


def test_a_mixture_of_both_forms(configuration: dict[str, object], write: Write, parsed: Parsed) -> None:
    message = (
        "^A configuration must be in one form, but model, scoring stands beside seed, TrainModels of anomalib's own "
        "tiled ensemble. Rename: seed is seed_everything here, TrainModels is model, metrics and trainer here.$"
    )
    mixture = {"seed": 1, "model": "Padim", "TrainModels": {}, "scoring": "Mean"}
    with pytest.raises(ConfigurationError, match=message):
        translate(mixture)
    with pytest.raises(ConfigurationError, match="seed is seed_everything"):
        parsed("--config", write({**configuration, "seed": 1}))


def test_forms_are_told_apart(configuration: dict[str, object]) -> None:
    assert is_reference(content(FIRST))
    assert is_reference(content(SECOND))
    assert is_reference({"SeamSmoothing": None})
    assert not is_reference(configuration)
    assert not is_reference({})
    assert not is_reference("seed")
    assert not is_reference(["seed"])


@pytest.mark.parametrize("order", [1, -1])
def test_options_win_wherever_they_stand(parsed: Parsed, order: int) -> None:
    options = ["--data.init_args.root=elsewhere", "--trainer.accelerator=cpu", "--model.init_args.backbone=resnet50"]
    options += ["--seam_smoothing", "null", "--seed_everything=9", "--normalization.stage=tile", "--scoring", "Mean"]
    config = ["-c", str(FIRST)]
    settings = parsed(*(word for part in (options, config)[::order] for word in part))
    assert (settings.data.init_args["root"], settings.model.init_args["backbone"]) == ("elsewhere", "resnet50")
    assert (settings.trainer["accelerator"], settings.trainer["max_epochs"]) == ("cpu", 500)
    assert (settings.seed_everything, settings.normalization.stage) == (9, "tile")
    assert settings.stages["scoring"].name == "Mean"
    assert "seam_smoothing" not in settings.stages


@pytest.mark.parametrize("path", [FIRST, SECOND], ids=["first", "second"])
def test_printed_in_our_form_it_means_the_same(
    parsed: Parsed, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        parsed("--config", str(path), "--print_config")
    assert exited.value.code == 0
    printed = capsys.readouterr()
    assert HEADING in printed.err
    assert not is_reference(yaml.safe_load(printed.out))
    again = tmp_path / "again.yaml"
    again.write_text(printed.out, encoding="utf-8")
    assert parsed("--config", str(again)) == parsed("--config", str(path))


def test_the_notes_are_printed_once_and_only_for_the_reference(
    configuration: dict[str, object], write: Write, parsed: Parsed, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed("--config", str(FIRST))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "Configuration of anomalib's own tiled ensemble, read as (--print_config shows all of it):",
        "  seed → seed_everything",
        "  data.init_args.image_size → tiling.image_size",
        "  normalization_stage → normalization.stage",
        "  SeamSmoothing → seam_smoothing",
        "  TrainModels.model → model",
        "  TrainModels.metrics.image → metrics.image",
        "  TrainModels.metrics.pixel → metrics.pixel",
        "  TrainModels.trainer → trainer",
        "  accelerator → trainer.accelerator",
        "  anomalib.data.MVTec → anomalib.data.MVTecAD",
        "  mean over tiles → scoring: Max; with more tiles, a defect changes the mean less (--scoring Mean keeps it)",
        "Images are split once for all tiles, none is padded with black, and an error ends the command.",
    ]
    parsed("--config", write(configuration | {"data": {"class_path": "DemoBoards"}}))
    assert capsys.readouterr() == ("", "")


def test_a_note_on_thresholds_of_tiles() -> None:
    note = "Thresholds of tiles are learned on the scale of their scores, not fixed at 0.5."
    assert note in translate({"thresholding_stage": "tile", "normalization_stage": "image"})[1]
    assert note not in translate({"thresholding_stage": "tile", "normalization_stage": "tile"})[1]
    assert note not in translate({"thresholding_stage": "image", "normalization_stage": "image"})[1]


PROCESSOR = "anomalib.post_processing.PostProcessor"


def with_processor(configuration: dict[str, object], given: object, **thresholding: float) -> Settings:
    model = {"class_path": "anomalib.models.Padim", "init_args": {"layers": ["layer1"], "post_processor": given}}
    thresholding = {**configuration["thresholding"], **thresholding}
    return Settings.from_mapping(configuration | {"model": model, "thresholding": thresholding})


@pytest.mark.parametrize("class_path", ["PostProcessor", PROCESSOR])
def test_sensitivities_are_moved_to_thresholding(configuration: dict[str, object], class_path: str) -> None:
    arguments = {"image_sensitivity": 0.3, "pixel_sensitivity": 0.7, "enable_normalization": True}
    given = with_processor(configuration, {"class_path": class_path, "init_args": arguments}, image_sensitivity=0.3)
    read, note = read_post_processor(given)
    assert (read.thresholding.image_sensitivity, read.thresholding.pixel_sensitivity) == (0.3, 0.7)
    assert read.model.init_args == {"layers": ["layer1"], "post_processor": True}
    assert note == (
        "model.init_args.post_processor → thresholding.image_sensitivity: 0.3, thresholding.pixel_sensitivity: 0.7"
    )


@pytest.mark.parametrize("given", [None, True, False])
def test_nothing_is_read_where_no_post_processor_is_given(configuration: dict[str, object], given: object) -> None:
    before = with_processor(configuration, given)
    assert read_post_processor(before) == (before, None)


def test_two_sensitivities_are_refused(configuration: dict[str, object]) -> None:
    given = {"class_path": PROCESSOR, "init_args": {"image_sensitivity": 0.3}}
    message = r"given once, but thresholding\.image_sensitivity is 0\.4, .*post_processor is 0\.3\. Remove the post"
    with pytest.raises(ConfigurationError, match=message):
        read_post_processor(with_processor(configuration, given, image_sensitivity=0.4))


@pytest.mark.parametrize(
    ("class_path", "arguments", "found"),
    [
        (PROCESSOR, {"enable_normalization": False}, f"{PROCESSOR} with enable_normalization: false"),
        ("anomalib.post_processing.MEBinPostProcessor", {}, "anomalib.post_processing.MEBinPostProcessor"),
        ("mine.PostProcessor", {}, "mine.PostProcessor"),
    ],
)
def test_another_post_processor_is_refused(
    configuration: dict[str, object], class_path: str, arguments: dict[str, object], found: str
) -> None:
    message = f"must be anomalib's PostProcessor with all of its steps, but is {found}. Remove it: stages normalize and"
    with pytest.raises(ConfigurationError, match=message):
        read_post_processor(with_processor(configuration, {"class_path": class_path, "init_args": arguments}))
