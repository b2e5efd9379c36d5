"""Bad input: exit status 2, a message that says what to do, nothing left behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from anomalib_tiled import pipeline
from anomalib_tiled.cli.main import main
from anomalib_tiled.ensemble.calibration import Calibration
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

UNKNOWN = {
    "a setting in a group": ({"tiling__tile_sise": 64}, "tiling has no setting 'tile_sise'. Did you mean 'tile_size'?"),
    "a model": ({"model__class_path": "Padimm"}, "There is no 'Padimm' for model. Did you mean 'Padim'?"),
    "a metric": (
        {"metrics__image": ["AUROCC"]},
        "There is no metric 'AUROCC' for metrics.image. Did you mean 'AUROC'?",
    ),
    "a backbone": ({"model__init_args__backbone": "resnet999"}, "Unknown model (resnet999)"),
    "an accelerator": (
        {"trainer": {"accelerator": "warp"}},
        "The trainer refuses its arguments: You selected an invalid",
    ),
}

MISFITS = {
    "a group": ({"tiling": 5}, "'tiling.tile_size' is required"),
    "a list of trainer arguments": ({"trainer": [1]}, "A setting has a value of the wrong type"),
    "a seed": ({"seed_everything": -5}, "seed_everything must be between 0 and 4294967295, or true, but is -5."),
    "a pixel metric for images": (
        {"metrics__image": ["AUPRO"]},
        "The metric 'AUPRO' in metrics.image measures regions of pixels. Move it to metrics.pixel.",
    ),
    "tile larger than image": (
        {"tiling__tile_size": 120},
        "tile height is 120 pixels, image height is 112 pixels. Lower tiling.tile_size",
    ),
    "stride 0": ({"tiling__stride": 0}, "stride is 0, tile height is 64 pixels. Change tiling.stride."),
    "sigma": ({"merging": {"class_path": "Gaussian", "init_args": {"sigma": -1}}}, "needs a positive sigma"),
    "tiles without number": (
        {"tiling": {"image_size": 10**7, "tile_size": 256}},
        "A grid may have at most 100000 tiles, but would have 39063 x 39063. Raise tiling.tile_size or tiling.stride",
    ),
    "a blur without end": (
        {"seam_smoothing": {"class_path": "GaussianSeams", "init_args": {"sigma": 1e9}}},
        "needs a positive sigma of at most 100 pixels",
    ),
    "processes": (
        {"workers__init_args": {"processes": 0}, "workers__class_path": "LocalWorkers"},
        "must be at least 1",
    ),
    "same folder": ({"data__init_args__normal_test_dir": "good"}, "8 are in train and val, for example"),
    "no name of a folder": ({"default_root_dir": ""}, "default_root_dir must name a folder, but the name is empty."),
    "a name that leads elsewhere": ({"data__init_args__name": "../../evil"}, "must be the name of a folder, because"),
    "batches of nothing": ({"data__init_args__eval_batch_size": 0}, "eval_batch_size must be at least 1, but is 0."),
    "no folder": ({"data__init_args__normal_dir": "nowhere"}, "could not be set up: Path does not exist"),
}


def _refused(configuration: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["fit", "--config", str(configuration)]) == 2
    assert not list(configuration.parent.glob("results/*/*/v*")), "a run folder was left behind"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(("changes", "message"), [*UNKNOWN.values(), *MISFITS.values()], ids=[*UNKNOWN, *MISFITS])
def test_wrong_settings(
    configure: Callable[..., Path], capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    assert message in _refused(configure(**changes), capsys)


def _damage_test_image(root: Path) -> None:
    path = root / "bad" / "001.png"
    path.write_bytes(path.read_bytes()[:2000])


def _no_image(root: Path) -> None:
    (root / "good" / "003.png").write_text("hello")


def _other_size(root: Path) -> None:
    Image.new("RGB", (100, 90)).save(root / "good" / "999.png")


def _other_mask_size(root: Path) -> None:
    Image.new("L", (100, 90)).save(root / "mask" / "002.png")


def _empty(root: Path) -> None:
    for path in (root / "good").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_damage_test_image, "bad/001.png is damaged (image file is truncated)"),
        (_no_image, "good/003.png is no image that can be read. Replace it, or leave it out"),
        (_other_size, "there are 2: 90 x 100 (999.png); 112 x 150"),
        (_other_mask_size, "mask/002.png has 90 x 100 pixels (height x width)"),
        (_empty, "could not be set up"),
    ],
)
def test_wrong_images(
    configure: Callable[..., Path],
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    root = tmp_path / "spoilt"
    shutil.copytree(photographs, root)
    spoil(root)
    assert message in _refused(configure(root), capsys)


def test_without_a_cache_a_damaged_image_is_found_before_training_too(
    configure: Callable[..., Path], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "spoilt"
    shutil.copytree(photographs, root)
    _damage_test_image(root)
    assert "bad/001.png is damaged (image file is truncated)" in _refused(configure(root, cache=None), capsys)


@pytest.mark.slow
def test_images_of_several_sizes_are_resized_where_a_size_is_given(
    configure: Callable[..., Path], photographs: Path, tmp_path: Path
) -> None:
    root = tmp_path / "sizes"
    shutil.copytree(photographs, root)
    _other_size(root)
    configuration = configure(root, tiling__image_size=[80, 128], tiling__tile_size=[80, 64], tiling__stride=None)
    assert main(["fit", "--config", str(configuration)]) == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["predict", "--min_area", "-1"],
            "--min_area must be a number of pixels, 0 for regions of any size, but is -1.",
        ),
        (["predict", "--device", "cuda:777"], "The device must be auto, cpu, or an accelerator of this machine,"),
        (["predict", "--output", "{run}"], "--output must be a folder for results alone, but {run} is the run folder"),
        (["predict", "--output", "{run}/tiles"], "but {run}/tiles belongs to the run folder {run}. Choose another,"),
        (["test", "--output", "{run}"], "--output must be a folder for results alone, but {run} is the run folder"),
        (["export", "--format", "torch", "--output", "{run}"], "but {run} is the run folder {run}."),
        (
            ["export", "--format", "checkpoints", "--output", "{run}/../latest"],
            "is the run folder {run}. Choose another",
        ),
        (["test", "--output", ""], "--output must name a folder, but the name is empty. Is a variable of the shell"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_options_without_sense_change_nothing(
    finished_run: Path, new: Path, capsys: pytest.CaptureFixture[str], command: list[str], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    name, *options = (part.format(run=finished_run) for part in command)
    images = ["--data", str(new)] if name == "predict" else []
    assert main([name, "--ckpt_dir", str(finished_run), *images, *options]) == 2
    printed = capsys.readouterr()
    assert message.format(run=finished_run) in printed.err
    assert "Traceback" not in printed.err
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}


def test_a_closed_input_is_an_empty_list(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    options = ["--data", "-", "--output", str(tmp_path / "output")]
    assert main(["predict", "--ckpt_dir", str(finished_run), *options]) == 2
    assert "one image in each line from standard input, which is empty or closed." in capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "test"])
def test_no_run_folder(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--ckpt_dir", str(tmp_path)]) == 2
    assert f"{tmp_path} has no config.yaml" in capsys.readouterr().err
    assert main([command, "--ckpt_dir", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_run_of_another_configuration(
    configure: Callable[..., Path], finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration = configure(tiling__stride=[64, 72], merging="Hann")
    before = (finished_run / "config.yaml").read_text()
    assert main(["fit", "--config", str(configuration), "--ckpt_dir", str(finished_run)]) == 2
    message = capsys.readouterr().err
    refused = "was made with another configuration: tiling.stride is [40, 56], not [64, 72]. To resume the run, leave"
    assert refused in message
    assert "A run can change only merging, scoring, seam_smoothing, normalization, thresholding, workers, " in message
    assert (finished_run / "config.yaml").read_text() == before


def test_a_setting_that_cannot_be_used_does_not_get_into_a_run(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished_run / "config.yaml").read_text()
    arguments = ["--metrics.image", "[NoMetric]", "--merging", "Hann"]
    assert main(["fit", "--ckpt_dir", str(finished_run), *arguments]) == 2
    assert "NoMetric" in capsys.readouterr().err
    assert (finished_run / "config.yaml").read_text() == before


def test_train_needs_test_images_before_it_trains_and_fit_does_not(
    configure: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted: list[Run] = []
    monkeypatch.setattr(pipeline, "fit", lambda run, *_, **__: fitted.append(run) or Calibration())
    none = dict.fromkeys(["data__init_args__normal_test_dir", "data__init_args__abnormal_dir"])
    none |= {"data__init_args__mask_dir": None, "data__init_args__test_split_mode": "none"}
    configuration = str(configure(**none, data__init_args__val_split_mode="none"))
    assert main(["train", "--config", configuration]) == 2
    message = "`train` fits a run and then measures it on test images, but there are none. Give the data module some"
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "results").rglob("config.yaml"))
    assert main(["fit", "--config", configuration]) == 0
    (run,) = fitted
    assert main(["train", "--ckpt_dir", str(run.folder.path)]) == 2
    assert message in capsys.readouterr().err
    assert fitted == [run]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fitt"],
            "There is no command 'fitt'. Did you mean 'fit'? Allowed: check, export, fit, plugins, predict,",
        ),
        (["fit", "--config", "nowhere.yaml"], "File does not exist"),
        (["fit", "--tilling.stride", "3"], "There is no setting 'tilling'. Did you mean 'tiling'?"),
        (["test"], "'ckpt_dir' is required"),
        (["test", "--ckpt_dir", ".", "--foo", "1"], "There is no setting 'foo'. Allowed: ckpt_dir, data,"),
        (["predict", "--ckpt_dir", ".", "--allow_altered"], "There is no setting 'allow_altered'"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "A configuration must hold settings by name, but holds nothing."),
        (b"\xff\xfe\x00", "A configuration must be text in UTF-8"),
    ],
)
def test_no_configuration(content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "configuration.yaml").write_bytes(content)
    assert main(["fit", "--config", str(tmp_path / "configuration.yaml")]) == 2
    assert message in capsys.readouterr().err


def test_broken_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.yaml").write_text("tiling: [1,\nb")
    assert main(["fit", "--config", str(tmp_path / "broken.yaml")]) == 2
    assert "Problems parsing config" in capsys.readouterr().err


DEEP = "[" * 101 + "]" * 101


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"more: [{'1, ' * 5000}]", "configuration.yaml may hold 5000 values, each counted as often as it is used,"),
        (f"# {'long' * 2**18}", "configuration.yaml may have 1048576 characters, but has more. Shorten it."),
        ("visualize: true\nvisualize: false", "must hold each setting once, but 'visualize' is in line "),
    ],
)
def test_a_configuration_beyond_bounds(
    configure: Callable[..., Path], capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = configure()
    path.write_text(f"{path.read_text()}\n{text}")
    assert message in _refused(path, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.layers", DEEP], "--model.layers may nest 100 levels deep, but nests deeper."),
        (
            ["--scoring", "{class_path: Max, class_path: Mean}"],
            "must hold each setting once, but 'class_path' is in line 1",
        ),
        (["--config", "/dev/zero"], "Path is not a file: '/dev/zero'"),
    ],
)
def test_arguments_beyond_bounds(
    configure: Callable[..., Path], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["fit", "--config", str(configure()), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_configuration_may_come_from_a_pipe(
    configure: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As a shell gives it for ``--config <(program)``."""
    reading, writing = os.pipe()
    os.write(writing, configure(tiling__stride=0).read_bytes())
    os.close(writing)
    try:
        assert main(["fit", "--config", f"/dev/fd/{reading}"]) == 2
    finally:
        os.close(reading)
    assert "stride is 0, tile height is 64 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "split.csv",
            f"subset,image_path,mask_path,label\ntrain,{'a' * 131_073},,0\n",
            "field larger than field limit",
        ),
        ("calibration.json", f'{{"a": {DEEP}}}', "cannot be read as JSON (it nests more than 100 levels deep)"),
        ("tiles/r00_c00.json", f'{{"a": {DEEP}}}', "cannot be read as JSON (it nests more than 100 levels deep)"),
    ],
)
def test_a_run_beyond_bounds(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    shutil.copytree(finished_run, run := tmp_path / "run")
    (run / name).write_text(content)
    if name != "tiles/r00_c00.json":
        RunFolder(run).note_checksum(run / name)
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    said = capsys.readouterr().err
    assert f"{run / name}" in said
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["status"], ["fit"]])
def test_a_run_without_a_name_is_not_the_current_folder(
    arguments: list[str], finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished_run)
    assert main([*arguments, "--ckpt_dir", ""]) == 2
    assert "--ckpt_dir must name a folder, but the name is empty." in capsys.readouterr().err
