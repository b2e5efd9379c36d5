from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.config.settings import ClassSpec, Settings, as_size, changeable, differences
from anomalib_tiled.errors import ConfigurationError
from anomalib_tiled.grid import Size
from anomalib_tiled.stages.merging import Gaussian, Merger
from anomalib_tiled.stages.scoring import Max, Scorer, TopK

Change = Callable[[str, object], Settings]


class Chain(Scorer):
    """A scorer made of another one."""

    def __init__(self, inner: Scorer, size: tuple[int, int], names: tuple[str, ...] = ()) -> None:
        self.inner, self.size, self.names = inner, size, names

    def score(self, tile_scores: object, maps: object) -> None: ...


def test_settings_survive_being_written_and_read(configuration: dict[str, object]) -> None:
    settings = Settings.from_mapping(configuration)
    again = Settings.from_mapping(yaml.safe_load(settings.to_yaml()))
    assert again == settings
    assert again.training_hash == settings.training_hash
    assert again.to_yaml() == settings.to_yaml()


def test_what_is_written_is_in_the_order_of_the_settings(configuration: dict[str, object]) -> None:
    assert list(yaml.safe_load(Settings.from_mapping(configuration).to_yaml())) == list(configuration)


def test_values_are_read(configuration: dict[str, object]) -> None:
    settings = Settings.from_mapping(configuration)
    assert settings.tiling.image_size == (8, 12)
    assert settings.tiling.tile_size == 4
    assert settings.model == ClassSpec("anomalib.models.Padim", {"layers": ["layer1"]})
    assert settings.model.name == "Padim"
    assert "seam_smoothing" not in settings.stages
    assert settings.thresholding.stage == "tile"
    assert settings.metrics.image == ("AUROC",)
    assert settings.metrics.pixel == ()


def test_an_unknown_setting(changed: Change) -> None:
    message = r"no setting 'tilling'. Did you mean 'tiling'\? Allowed: accelerate, alignment, assignment, cache,"
    with pytest.raises(ConfigurationError, match=message):
        changed("tilling", {})


def test_a_missing_setting(configuration: dict[str, object]) -> None:
    del configuration["model"], configuration["data"]
    with pytest.raises(ConfigurationError, match="The configuration lacks data, model"):
        Settings.from_mapping(configuration)


@pytest.mark.parametrize(
    ("cache", "folder"),
    [(None, None), ({"directory": None}, Path("results/cache")), ({"directory": "/fast"}, Path("/fast"))],
)
def test_where_the_cache_is(changed: Change, cache: object, folder: Path | None) -> None:
    assert changed("cache", cache).cache_directory == folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed_everything", 8),
        ("tiling.stride", 3),
        ("model.init_args", {"layers": ["layer2"]}),
        ("trainer.max_epochs", 2),
        ("precision", "bfloat16"),
    ],
)
def test_the_training_hash_changes_with_what_decides_training(
    configuration: dict[str, object], changed: Change, key: str, value: object
) -> None:
    before = Settings.from_mapping(configuration).training_hash
    assert changed(key, value).training_hash != before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("default_root_dir", "elsewhere"),
        ("merging", {"class_path": "anomalib_tiled.stages.merging.Mean"}),
        ("thresholding.stage", "image"),
        ("workers.init_args", {"processes": 2}),
    ],
)
def test_the_training_hash_does_not_change_with_anything_else(
    configuration: dict[str, object], changed: Change, key: str, value: object
) -> None:
    before = Settings.from_mapping(configuration).training_hash
    assert changed(key, value).training_hash == before


def test_runs_of_earlier_versions_compute_in_single_precision_and_keep_their_hashes(
    configuration: dict[str, object],
) -> None:
    now = Settings.from_mapping(configuration)
    earlier = Settings.from_mapping({name: value for name, value in configuration.items() if name != "precision"})
    assert earlier.precision == "float32"
    assert (earlier.training_hash, earlier.calibration_hash) == (now.training_hash, now.calibration_hash)
    assert now.training_hash == "9b2fb2f223b710e9"
    assert "precision" not in changeable()


@pytest.mark.parametrize("name", ["image_sensitivity", "pixel_sensitivity"])
def test_sensitivities_decide_but_nothing_is_learned_from_them(
    configuration: dict[str, object], changed: Change, name: str
) -> None:
    before = Settings.from_mapping(configuration)
    after = changed(f"thresholding.{name}", 0.3)
    assert (getattr(before.thresholding, name), getattr(after.thresholding, name)) == (0.5, 0.3)
    assert after.calibration_hash == before.calibration_hash
    assert Settings.from_mapping(yaml.safe_load(after.to_yaml())) == after


@pytest.mark.parametrize("key", ["thresholding.stage", "normalization.stage", "seam_smoothing", "tiling.stride"])
def test_the_calibration_hash_changes_with_what_decides_what_is_learned(
    configuration: dict[str, object], changed: Change, key: str
) -> None:
    value = {"seam_smoothing": {"class_path": "anomalib_tiled.stages.seams.GaussianSeams"}, "tiling.stride": 2}
    before = Settings.from_mapping(configuration).calibration_hash
    assert changed(key, value.get(key, "none")).calibration_hash != before


def test_a_class_is_built_with_its_arguments() -> None:
    merger = ClassSpec("anomalib_tiled.stages.merging.Gaussian", {"sigma": 0.5}).build(Merger)
    assert isinstance(merger, Gaussian)
    assert merger.sigma == 0.5


def test_nested_classes_are_built_as_the_types_say() -> None:
    inner = {"class_path": "anomalib_tiled.stages.scoring.TopK", "init_args": {"k": 5}}
    chain = ClassSpec(f"{__name__}.Chain", {"inner": inner, "size": [3, 4], "names": ["a"]}).build(Scorer)
    assert isinstance(chain.inner, TopK)
    assert chain.inner.k == 5
    assert chain.size == (3, 4)
    assert chain.names == ("a",)


def test_a_class_may_be_made_by_another_callable() -> None:
    marked, asked = Max(), []

    def make(scorer_class: type[Scorer], **arguments: object) -> Scorer:
        asked.append((scorer_class, arguments))
        return marked

    assert ClassSpec("anomalib_tiled.stages.scoring.TopK", {"k": 5}).build(Scorer, make) is marked
    assert asked == [(TopK, {"k": 5})]


def test_a_class_that_refuses_its_values() -> None:
    spec = ClassSpec("anomalib_tiled.stages.scoring.TopK", {"k": 0})
    message = f"{spec.class_path} cannot be made with {{'k': 0}}: TopK scoring needs k of at least 1, got 0."
    with pytest.raises(ConfigurationError) as raised:
        spec.build(Scorer)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("scoring.TopK", {"q": 1}, "Option 'q' is not accepted"),
        ("scoring.TopK", {"k": "x"}, "Expected a <class 'int'>. Got value: x"),
        ("scoring.Nope", {}, "has no attribute 'Nope'"),
        ("merging.Mean", {}, "does not correspond to a subclass of Scorer"),
    ],
)
def test_a_class_or_argument_that_is_not_there(name: str, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^anomalib_tiled.stages.{name} cannot be made with .*: ") as raised:
        ClassSpec(f"anomalib_tiled.stages.{name}", arguments).build(Scorer)
    assert reason in str(raised.value)


@pytest.mark.parametrize(("value", "size"), [(4, Size(4, 4)), ([3, 4], Size(3, 4)), ((3, 4), Size(3, 4))])
def test_sizes(value: int | list[int], size: Size) -> None:
    assert as_size(value) == size


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tiling.stride", 3, "tiling.stride is None, not [3, 3]"),
        ("metrics.image", ["AUPR"], "metrics.image is ['AUROC'], not ['AUPR']"),
        ("thresholding.image_sensitivity", 0.3, "thresholding.image_sensitivity is 0.5, not 0.3"),
        ("merging.init_args", {}, "merging.init_args.sigma is 0.5, not None"),
    ],
)
def test_a_difference_is_said(
    configuration: dict[str, object], changed: Change, key: str, value: object, said: str
) -> None:
    assert differences(Settings.from_mapping(configuration), changed(key, value)) == [said]


def test_arguments_that_have_gone_with_their_class_do_not_count(changed: Change) -> None:
    before = changed("workers", {"class_path": "a.Far", "init_args": {"cpus": 4, "name": "x"}})
    after = changed("workers", {"class_path": "a.Near", "init_args": {"processes": 2, "name": "y"}})
    assert differences(after, before) == [
        "workers.class_path is a.Near, not a.Far",
        "workers.init_args.processes is 2, not None",
        "workers.init_args.name is y, not x",
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tiling.tile_size", [4, 4]),
        ("default_root_dir", "elsewhere"),
        ("cache.directory", "/fast"),
        ("thresholding.pixel_sensitivity", 0.5),
    ],
)
def test_the_same_written_otherwise_and_folders_do_not_count(
    configuration: dict[str, object], changed: Change, key: str, value: object
) -> None:
    assert not differences(Settings.from_mapping(configuration), changed(key, value))


def test_what_is_no_number_is_the_same_again(changed: Change) -> None:
    first, second = (changed("merging.init_args", {"sigma": float("nan")}) for _ in range(2))
    assert not differences(first, second)
    assert differences(first, changed("merging.init_args", {"sigma": 1.0})) == [
        "merging.init_args.sigma is nan, not 1.0",
    ]


def test_the_global_model_needs_a_size(changed: Callable[[str, object], Settings]) -> None:
    spec = {"class_path": "anomalib_tiled.GlobalModel", "init_args": {"image_size": None}}
    message = r"^global_model\.image_size must be a number of pixels, or \[height, width\], but is null\. Change it\.$"
    with pytest.raises(ConfigurationError, match=message):
        _ = changed("global_model", spec).whole_size


def test_loggers_are_names_or_classes_and_change_no_tile(changed: Callable[[str, object], Settings]) -> None:
    mlflow = {"class_path": "MLFlowLogger", "init_args": {"tracking_uri": "http://server"}}
    settings, none = changed("loggers", ["TensorBoardLogger", mlflow]), changed("loggers", None)
    assert settings.loggers == (ClassSpec("TensorBoardLogger"), ClassSpec("MLFlowLogger", mlflow["init_args"]))
    assert none.loggers == ()
    assert (settings.training_hash, settings.calibration_hash) == (none.training_hash, none.calibration_hash)
    assert Settings.from_mapping(yaml.safe_load(settings.to_yaml())) == settings
    assert "loggers" in changeable()
