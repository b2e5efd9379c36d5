"""Nothing in a run folder is run, and what was altered is used only if that is asked for."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.errors import RunFolderError
from anomalib_tiled.system.checksums import Checksum

SWITCH = "--allow_altered with test, predict or export, allow_altered=True in Python"
STDLIB = ("os.system", "subprocess.Popen", "builtins.eval")


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run; a test replaces files, and writes into none that is there."""
    shutil.copytree(finished_run, tmp_path / "run", copy_function=os.link)
    return tmp_path / "run"


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file that is there if something was run."""
    return tmp_path / "was run"


def rewrite(path: Path, content: bytes | str) -> None:
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def checksum_again(run: Path, tile: str) -> None:
    """Note that a checkpoint is what it is now, as somebody who knows the format would."""
    record = run / "tiles" / f"{tile}.json"
    content = json.loads(record.read_text())
    rewrite(record, json.dumps(content | {"checkpoint": vars(Checksum.of(run / "tiles" / f"{tile}.ckpt"))}))


def predicted(run: Path, photographs: Path, *options: str) -> int:
    image = str(photographs / "bad" / "000.png")
    output = run.parent / "-".join(["out", *options])
    return main(["predict", "--ckpt_dir", str(run), "--data", image, "--output", str(output), *options])


def alter_checkpoint(run: Path) -> str:
    path = run / "tiles" / "r01_c01.ckpt"
    content = torch.load(path, weights_only=True)
    name = next(name for name, value in content["state_dict"].items() if name.endswith("mean") and value.ndim > 1)
    content["state_dict"][name] = content["state_dict"][name] + 0.25
    path.unlink()
    torch.save(content, path)
    return "tiles/r01_c01.ckpt"


def alter_calibration(run: Path) -> str:
    path = run / "calibration.json"
    content = json.loads(path.read_text())
    content["image"]["scores"]["threshold"] += 1.0
    rewrite(path, json.dumps(content, indent=2))
    return path.name


def alter_split(run: Path) -> str:
    path = run / "split.csv"
    rewrite(path, "".join(path.read_text().splitlines(keepends=True)[:-1]))
    return path.name


def alter_shared_weights(run: Path) -> str:
    [path] = (run / "tiles").glob("shared-*.ckpt")
    weights = {name: value + 0.25 if value.is_floating_point() else value for name, value in torch.load(path).items()}
    path.unlink()
    torch.save(weights, path)
    return f"tiles/{path.name}"


@pytest.mark.parametrize("alter", [alter_checkpoint, alter_calibration, alter_split, alter_shared_weights])
def test_what_was_altered_is_used_only_if_that_is_asked_for(
    run: Path,
    photographs: Path,
    capsys: pytest.CaptureFixture[str],
    alter: Callable[[Path], str],
) -> None:
    name = alter(run)
    assert predicted(run, photographs) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"{run / name} " in message
    assert SWITCH in message
    assert predicted(run, photographs, "--allow_altered") == 0
    assert f"warning: {run / name} " in capsys.readouterr().err


def test_measuring_an_altered_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alter_calibration(run)
    configuration = (run / "config.yaml").read_text()
    rewrite(run / "config.yaml", configuration.replace("scoring.Max", "scoring.Mean"))
    assert main(["test", "--ckpt_dir", str(run), "--output", str(run.parent / "out")]) == 2
    assert main(["test", "--ckpt_dir", str(run), "--output", str(run.parent / "out"), "--allow_altered"]) == 0
    assert capsys.readouterr().err.count("warning: ") == 2, "it was altered, and is that of another configuration"
    rewrite(run / "config.yaml", configuration.replace("n_features: 20", "n_features: 20.0"))
    assert main(["test", "--ckpt_dir", str(run), "--output", str(run.parent / "out")]) == 2
    assert "was trained with another configuration than its config.yaml. Restore" in capsys.readouterr().err


def test_thresholds_of_an_altered_configuration(
    run: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run / "config.yaml", (run / "config.yaml").read_text().replace("scoring.Max", "scoring.Mean"))
    assert predicted(run, photographs, "--threshold", "q0.9") == 2
    assert predicted(run, photographs, "--threshold", "q0.9", "--allow_altered") == 0
    assert "config.yaml is not the configuration that calibration.json was made with" in capsys.readouterr().err


def test_an_altered_run_from_python(run: Path) -> None:
    images = torch.rand(1, 3, 112, 150)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = TiledEnsemble.load(run, allow_altered=True)(images).anomaly_map
    alter_checkpoint(run)
    with pytest.raises(RunFolderError, match=r"r01_c01\.ckpt (had|was changed) .*allow_altered=True in Python"):
        TiledEnsemble.load(run)(images)
    with pytest.warns(UserWarning, match=r"r01_c01\.ckpt (had|was changed)"):
        ensemble = TiledEnsemble.load(run, allow_altered=True)
    assert not torch.equal(ensemble(images).anomaly_map, before)


def test_missing_checksums_are_reported(run: Path) -> None:
    rewrite(run / "seals.json", "{}")
    (run / "tiles" / "r00_c00.json").unlink()
    (run / "tiles" / "r00_c00.json").write_text("{}")
    with pytest.warns(UserWarning, match="There is no checksum of") as warned:
        TiledEnsemble.load(run, allow_altered=True)
    said = " ".join(str(each.message) for each in warned)
    for name in ("split.csv", "calibration.json", "validation_scores.npz"):
        assert f"There is no checksum of {run / name}." in said
    assert "r00_c00.json has no checksum of r00_c00.ckpt" in said


def test_fit_goes_on_with_nothing_that_was_altered(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--ckpt_dir", str(run), "--allow_altered"]) == 2
    assert "There is no setting 'allow_altered'" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--allow_altered",)])
def test_a_file_that_was_cut_short_is_refused(
    run: Path, photographs: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    path = run / "tiles" / "r01_c00.ckpt"
    whole = path.read_bytes()
    rewrite(path, whole[:4096])
    assert predicted(run, photographs, *options) == 2
    message = capsys.readouterr().err
    assert ("r01_c00.ckpt cannot be loaded" if options else "r01_c00.ckpt had") in message
    assert "Train the tile again" in message
    rewrite(path, whole)
    rewrite(run / "calibration.json", (run / "calibration.json").read_text()[:40])
    assert predicted(run, photographs, *options) == 2
    assert "calibration.json" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--allow_altered",)])
@pytest.mark.parametrize("checksum", [lambda *_: None, checksum_again], ids=["old checksum", "new checksum"])
@pytest.mark.parametrize("kind", ["within a checkpoint", "a plain pickle", "as weights"])
def test_code_in_a_checkpoint_is_not_run(
    run: Path, photographs: Path, trap: Path, kind: str, options: tuple[str, ...], checksum: Callable[[Path, str], None]
) -> None:
    path = run / "tiles" / "r00_c00.ckpt"
    content = torch.load(path, weights_only=True)
    path.unlink()
    if kind == "a plain pickle":
        path.write_bytes(pickle.dumps(Touches(trap)))
    elif kind == "as weights":
        torch.save({**content, "state_dict": Touches(trap)}, path)
    else:
        torch.save({**content, "more": Touches(trap)}, path)
    checksum(run, "r00_c00")
    assert predicted(run, photographs, *options) == 2
    assert not trap.exists()


def test_a_checkpoint_names_nothing_that_is_made(run: Path, photographs: Path, trap: Path) -> None:
    path = run / "tiles" / "r00_c00.ckpt"
    content = torch.load(path, weights_only=True)
    made = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(trap)]}}
    content["hyper_parameters"] |= {
        "_instantiator": "lightning.pytorch.cli.instantiate_module",
        "_class_path": "anomalib.models.image.padim.lightning_model.Padim",
        "pre_processor": made,
        "visualizer": made,
    }
    path.unlink()
    torch.save(content, path)
    checksum_again(run, "r00_c00")
    assert predicted(run, photographs) == 0, "what the configuration says is made"
    assert not trap.exists()


@pytest.mark.parametrize("options", [(), ("--allow_altered",)])
def test_code_in_the_scores_is_not_run(
    run: Path, photographs: Path, trap: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    path = run / "validation_scores.npz"
    with np.load(path) as found:
        content = dict(found)
    path.unlink()
    np.savez(path, **{**content, "image_scores": np.array([Touches(trap)], dtype=object)})
    assert predicted(run, photographs, "--threshold", "q0.9", *options) == 2
    assert "validation_scores.npz" in capsys.readouterr().err
    assert not trap.exists()


@pytest.mark.parametrize("tag", ["object/apply:os.system", "object/new:os.system", "name:os.system", "module:os"])
def test_code_in_a_configuration_is_not_run(
    run: Path, trap: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    path = run / "config.yaml"
    rewrite(path, f"more: !!python/{tag} [touch '{trap}']\n{path.read_text()}")
    for options in ([], ["--allow_altered"]):
        assert main(["test", "--ckpt_dir", str(run), *options]) == 2
        assert (
            "config.yaml cannot be used any more: it cannot be read as YAML: could not determine a constructor"
            in capsys.readouterr().err
        )
    assert main(["fit", "--config", str(path)]) == 2
    assert not trap.exists()


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        *(("model", path) for path in STDLIB),
        *((setting, STDLIB[0]) for setting in ("data", "merging", "scoring", "seam_smoothing", "metrics.image")),
        *((setting, STDLIB[1]) for setting in ("normalization.method", "thresholding.method", "workers")),
        *((setting, STDLIB[1]) for setting in ("data.init_args.augmentations", "model.init_args.pre_processor")),
        *((setting, STDLIB[1]) for setting in ("trainer.callbacks", "trainer.logger")),
    ],
)
def test_a_configuration_names_nothing_else_that_is_made(
    run: Path, photographs: Path, trap: Path, capsys: pytest.CaptureFixture[str], setting: str, path: str
) -> None:
    file = run / "config.yaml"
    configuration = yaml.safe_load(file.read_text())
    arguments = {"os.system": {"command": f"touch '{trap}'"}, "subprocess.Popen": {"args": ["touch", str(trap)]}}
    made: object = {"class_path": path, "init_args": arguments.get(path, {"source": f"open({str(trap)!r}, 'w')"})}
    *groups, last = setting.split(".")
    mapping = configuration
    for group in groups:
        mapping = mapping[group]
    mapping[last] = [made] if setting in {"trainer.callbacks", "metrics.image"} else made
    rewrite(file, yaml.safe_dump(configuration))
    new = run.parent / "new.yaml"
    new.write_text(yaml.safe_dump(configuration | {"default_root_dir": str(run.parent / "results"), "cache": None}))
    assert main(["fit", "--config", str(new)]) == 2
    assert path.rpartition(".")[2] in capsys.readouterr().err
    used = not setting.startswith(("trainer", "workers", "metrics"))  # which predictions do not need
    assert predicted(run, photographs, "--allow_altered") == (2 if used else 0)
    assert not trap.exists()


def test_a_class_in_the_run_folder_is_not_imported(
    run: Path, trap: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "own_scoring.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    path = run / "config.yaml"
    rewrite(path, path.read_text().replace("anomalib_tiled.stages.scoring.Max", "own_scoring.Own"))
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(run)
    for options in ([], ["--allow_altered"]):
        assert main(["test", "--ckpt_dir", str(run), *options]) == 2
        message = "classes must come from installed packages, but own_scoring.Own is in the run folder itself"
        assert message in capsys.readouterr().err
    assert "own_scoring" not in sys.modules
    assert not trap.exists()


@pytest.mark.parametrize("package", ["ev-il", "results.run.evil", "results.run.ev-il"])
@pytest.mark.parametrize("setting", ["metrics", "model", "trainer", "text", "file"])
def test_a_class_in_the_run_folder_is_not_imported_by_any_name(
    run: Path, trap: Path, monkeypatch: pytest.MonkeyPatch, package: str, setting: str
) -> None:
    (run.parent / "results").mkdir()
    run = run.rename(run.parent / "results" / "run")
    for name in ("evil", "ev-il"):
        (run / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    (run / "more.yaml").write_text(f"class_path: {package}.Own")
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    own = {"class_path": f"{package}.Own"}
    if setting == "metrics":
        configuration["metrics"]["image"] = [f"{package}.Own"]
    elif setting == "trainer":
        configuration["trainer"]["callbacks"] = [own]
    else:
        given = {"model": own, "text": json.dumps(own), "file": str(run / "more.yaml")}
        configuration["model"]["init_args"]["pre_processor"] = given[setting]
    rewrite(run / "config.yaml", yaml.safe_dump(configuration))
    monkeypatch.syspath_prepend(run if package == "ev-il" else run.parents[1])
    with pytest.raises(RunFolderError, match="is in the run folder itself"):
        TiledEnsemble.load(run, allow_altered=True)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        '{"model": 5}',
        '{"model": {}}',
        '{"model": {"class_path": "", "package": null}}',
        '{"model": {"class_path": "", "package": null, "version": null}}',
        '{"model": {"class_path": "anomalib.models.Padim", "package": "anomalib", "version": "1\\ncommand"}}',
    ],
)
def test_altered_origins_are_refused(run: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    rewrite(run / "origins.json", content)
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    assert "origins.json" in capsys.readouterr().err
    assert "command" not in (run / "logs" / "run.log").read_text().splitlines()


@pytest.mark.parametrize("log", ["logs/run.log", "predictions/logs/run.log"])
def test_no_file_of_the_user_is_added_to(
    run: Path, photographs: Path, capsys: pytest.CaptureFixture[str], log: str
) -> None:
    victim = run.parent / "victim"
    victim.write_text("mine")
    (run / log).parent.mkdir(parents=True, exist_ok=True)
    (run / log).unlink(missing_ok=True)
    (run / log).symlink_to(victim)
    image = str(photographs / "bad" / "000.png")
    commands = [["predict", "--data", image]] if "predictions" in log else [["test"], ["fit"]]
    for name, *options in commands:
        assert main([name, "--ckpt_dir", str(run), *options]) == 2
        assert f"{run / log} must not be a link, but leads to {victim}." in capsys.readouterr().err
    assert victim.read_text() == "mine"


def test_a_folder_of_the_user_is_not_tidied(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = (run / "tiles").rename(run.parent / "home")
    (home / ".ssh").mkdir()
    (run / "tiles").symlink_to(home)
    for command in ("fit", "test"):
        assert main([command, "--ckpt_dir", str(run)]) == 2
        assert f"{run / 'tiles'} must be a folder, but is a link that leads out of the run" in capsys.readouterr().err
    assert (home / ".ssh").is_dir()
