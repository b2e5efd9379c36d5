"""A run that stops because of a setting is corrected as the errors say, and goes on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from anomalib_tiled.cli.main import main


class Spoiling(Callback):
    """Stands for a callback that does not get on with some tiles."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if "r00" not in str(trainer.default_root_dir):
            message = "this callback is of no use here"
            raise ValueError(message)


def advised(said: str, option: str) -> list[str]:
    """Give the arguments of the command that an error advises, the one with an option."""
    [command] = {each for each in re.findall(r"`anomalib tiled (fit [^`]*)`", said) if each.endswith(option)}
    return shlex.split(command)


@pytest.mark.slow
def test_a_run_whose_tiles_are_partly_done_is_corrected_by_what_the_errors_advise(
    configure: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [{"class_path": f"{__name__}.Spoiling"}]
    assert main(["fit", "--config", str(configure(trainer={"callbacks": callbacks}))]) == 2
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    said = capsys.readouterr().err
    assert "2 tiles could not be trained. Training stopped, because 2 failed for the same reason" in said
    assert "3 of 9 tiles are done, 6 are left." in said
    assert f"r01_c00, r01_c01: ValueError: this callback is of no use here (log: {run}/logs/r01_c00.log)" in said
    assert "Traceback" not in said
    assert main(advised(said, "--keep_going")) == 2
    assert "6 tiles could not be trained; all others are done." in capsys.readouterr().err
    configuration = yaml.safe_load((run / "config.yaml").read_text())
    configuration["trainer"]["callbacks"] = None
    (run / "config.yaml").write_text(yaml.safe_dump(configuration))
    assert main(advised(said, str(run))) == 2
    refused = capsys.readouterr().err
    assert "Restore config.yaml, or train all tiles of the other configuration again" in refused
    again = advised(refused, "--tiles r00_c00,r00_c01,r00_c02")
    assert again == advised(said, "--tiles r00_c00,r00_c01,r00_c02")
    assert main(again) == 0
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    assert "9 of 9 tiles done, calibrated." in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_without_a_tile_goes_on_as_soon_as_it_is_corrected(
    configure: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = {"class_path": "Ganomaly", "init_args": {"beta1": 5.0, "n_features": 4}}
    configuration = configure(model=rate, tiling={"image_size": 64, "tile_size": 32}, trainer={"max_epochs": 1})
    assert main(["fit", "--config", str(configuration)]) == 2
    said = capsys.readouterr().err
    assert "r00_c00, r00_c01: Ganomaly cannot be fitted on these tiles: ValueError: Invalid beta parameter" in said
    run = tmp_path / "results" / "Ganomaly" / "photographs" / "v0"
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("beta1: 5.0", "beta1: 0.5"))
    assert main(advised(said, str(run))) == 0
