"""Nothing in a run folder is run, and nothing that was changed is used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anomalib_tiled import TiledEnsemble
from anomalib_tiled.cli.main import main
from anomalib_tiled.errors import RunFolderError

Note = Callable[[Path], None]


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


def predicted(run: Path, photographs: Path, *options: str) -> int:
    image = str(photographs / "bad" / "000.png")
    return main(["predict", "--ckpt_dir", str(run), "--data", image, "--output", str(run.parent / "out"), *options])


def change_checkpoint(run: Path) -> str:
    path = run / "tiles" / "r01_c01.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    rewrite(path, bytes(content))
    return "tiles/r01_c01.ckpt was changed after it was finished. Train the tile again: `anomalib tiled fit"


def cut_checkpoint_short(run: Path) -> str:
    path = run / "tiles" / "r01_c00.ckpt"
    rewrite(path, path.read_bytes()[:4096])
    return "has 4096 now. Train the tile again: `anomalib tiled fit"


def change_calibration(run: Path) -> str:
    content = json.loads((run / "calibration.json").read_text())
    content["image"]["scores"]["threshold"] += 1.0
    rewrite(run / "calibration.json", json.dumps(content, indent=2))
    return "calibration.json had"


def change_split(run: Path) -> str:
    path = run / "split.csv"
    rewrite(path, "".join(path.read_text().splitlines(keepends=True)[:-1]))
    return "It lists the training images: restore it, or fit a new run."


def change_shared_weights(run: Path) -> str:
    [path] = (run / "tiles").glob("shared-*.ckpt")
    rewrite(path, path.read_bytes() + b" ")
    return f"tiles/{path.name} was changed after it was finished. It holds weights of all tiles: restore it, or fit"


def change_configuration(run: Path) -> str:
    path = run / "config.yaml"
    rewrite(path, path.read_text().replace("scoring.Max", "scoring.Mean"))
    return "was made with another config.yaml. Restore that, or make calibration.json anew. Calibrate: "


@pytest.mark.parametrize(
    "change",
    [
        change_checkpoint,
        cut_checkpoint_short,
        change_calibration,
        change_split,
        change_shared_weights,
        change_configuration,
    ],
)
def test_a_changed_file_is_refused_with_what_remakes_it(
    run: Path, photographs: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], str]
) -> None:
    message = change(run)
    assert predicted(run, photographs) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kind", ["within a checkpoint", "a plain pickle", "as weights"])
def test_code_in_a_checkpoint_is_not_run(
    run: Path, photographs: Path, trap: Path, capsys: pytest.CaptureFixture[str], noted_again: Note, kind: str
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
    noted_again(run)
    assert predicted(run, photographs) == 2
    assert "r00_c00.ckpt cannot be loaded" in capsys.readouterr().err
    assert not trap.exists()


def test_a_checkpoint_names_nothing_that_is_made(run: Path, photographs: Path, trap: Path, noted_again: Note) -> None:
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
    noted_again(run)
    assert predicted(run, photographs) == 0, "what the configuration says is made"
    assert not trap.exists()


def test_code_in_the_scores_is_not_run(
    run: Path, photographs: Path, trap: Path, capsys: pytest.CaptureFixture[str], noted_again: Note
) -> None:
    path = run / "validation_scores.npz"
    with np.load(path) as found:
        content = dict(found)
    path.unlink()
    np.savez(path, **{**content, "image_scores": np.array([Touches(trap)], dtype=object)})
    noted_again(run)
    assert predicted(run, photographs, "--threshold", "q0.9") == 2
    assert "validation_scores.npz" in capsys.readouterr().err
    assert not trap.exists()


@pytest.mark.parametrize("tag", ["object/apply:os.system", "name:os.system"])
def test_code_in_a_configuration_is_not_run(
    run: Path, trap: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    path = run / "config.yaml"
    rewrite(path, f"more: !!python/{tag} [touch '{trap}']\n{path.read_text()}")
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    reason = "cannot be used any more: it cannot be read as YAML: could not determine a constructor"
    assert reason in capsys.readouterr().err
    assert main(["fit", "--config", str(path)]) == 2
    assert not trap.exists()


@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("model", "os.system"),
        ("data", "subprocess.Popen"),
        ("scoring", "builtins.eval"),
        ("normalization.method", "subprocess.Popen"),
        ("model.init_args.pre_processor", "subprocess.Popen"),
        ("workers", "subprocess.Popen"),
        ("trainer.callbacks", "subprocess.Popen"),
        ("metrics.image", "os.system"),
    ],
)
def test_a_configuration_names_nothing_else_that_is_made(
    run: Path,
    photographs: Path,
    trap: Path,
    capsys: pytest.CaptureFixture[str],
    noted_again: Note,
    setting: str,
    path: str,
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
    if not setting.startswith(("trainer", "workers", "metrics")):  # which predictions do not need
        noted_again(run)
        assert predicted(run, photographs) == 2
    assert not trap.exists()


def test_a_class_in_the_run_folder_is_not_imported(
    run: Path, trap: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "own_scoring.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    path = run / "config.yaml"
    rewrite(path, path.read_text().replace("anomalib_tiled.stages.scoring.Max", "own_scoring.Own"))
    monkeypatch.chdir(run)
    monkeypatch.syspath_prepend(run)
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    message = "classes must come from installed packages, but own_scoring.Own is in the run folder itself"
    assert message in capsys.readouterr().err
    assert "own_scoring" not in sys.modules
    assert not trap.exists()


@pytest.mark.parametrize(
    ("setting", "package"),
    [("metrics", "ev-il"), ("model", "results.run.evil"), ("trainer", "ev-il"), ("text", "results.run.ev-il")],
)
def test_a_class_in_the_run_folder_is_not_imported_by_any_name(
    run: Path, trap: Path, monkeypatch: pytest.MonkeyPatch, setting: str, package: str
) -> None:
    (run.parent / "results").mkdir()
    run = run.rename(run.parent / "results" / "run")
    for name in ("evil", "ev-il"):
        (run / f"{name}.py").write_text(f"open({str(trap)!r}, 'w')\nclass Own: pass\n")
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    own = {"class_path": f"{package}.Own"}
    if setting == "metrics":
        configuration["metrics"]["image"] = [f"{package}.Own"]
    elif setting == "trainer":
        configuration["trainer"]["callbacks"] = [own]
    else:
        configuration["model"]["init_args"]["pre_processor"] = json.dumps(own) if setting == "text" else own
    rewrite(run / "config.yaml", yaml.safe_dump(configuration))
    monkeypatch.syspath_prepend(run if package == "ev-il" else run.parents[1])
    with pytest.raises(RunFolderError, match="is in the run folder itself"):
        TiledEnsemble.load(run)
    assert not trap.exists()


def test_changed_origins_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"class_path": "anomalib.models.Padim", "package": "anomalib", "version": "1\ncommand"}
    rewrite(run / "origins.json", json.dumps({"model": content}))
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    assert "origins.json was changed: model is" in capsys.readouterr().err
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
