"""Stages of another package: chosen by name, saved, restored, missing, broken."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from anomalib_tiled.cli.main import main
from anomalib_tiled.plugins.hookspecs import hook_specifications

FACTORY = '''
"""A factory's own stages."""

from concurrent.futures import Future
from functools import wraps
from pathlib import Path

import numpy as np
import torch

from anomalib_tiled import Aligner, Alignment, Assignment, GlobalModel, Merger, Normalizer, Place, Reference, Regions
from anomalib_tiled import RegionMap, Scorer, SeamSmoother, Thresholder, Workers
from anomalib_tiled import hookimpl as hook_of_the_package

CALLED = Path(__file__).with_name("called.txt")
HEARD = Path(__file__).with_name("heard.txt")


def hookimpl(function):
    @wraps(function)
    def noted(*arguments):
        with CALLED.open("a") as file:
            print(function.__name__, file=file)
        return function(*arguments)

    return hook_of_the_package(noted)


class LowestTile(Merger):
    """Lowest score of all tiles that cover a pixel."""

    def start(self, grid, batch, *, device=None):
        self.maps = torch.full((batch, 1, *grid.image_size), float("inf"), device=device)

    def add(self, tile, maps):
        area = self.maps[..., tile.rows, tile.columns]
        torch.minimum(area, maps, out=area)

    def finish(self):
        return self.maps


class HighestPixel(Scorer):
    """Highest pixel of the map."""

    def score(self, tile_scores, maps):
        return tile_scores.amax(dim=0) if maps is None else maps.amax(dim=(1, 2, 3))


class Bilateral(SeamSmoother):
    """Changes nothing.

    Args:
        radius: Reach in pixels.
    """

    def __init__(self, radius: int = 3) -> None:
        self.radius = radius

    def smooth(self, maps, grid):
        return maps


class Sigmoid(Normalizer):
    """Logistic function around the threshold."""

    def learn(self, scores, threshold):
        return {"threshold": threshold, "span": scores.maximum - scores.minimum}

    def apply(self, scores, learned):
        return torch.sigmoid((scores - learned["threshold"]) / (learned["span"] or 1))


class Midrange(Thresholder):
    """Middle between the lowest and the highest score."""

    def learn(self, scores):
        return (scores.minimum + scores.maximum) / 2


class Desk(Place):
    """A part of this process."""

    name, threads = "the desk", 1

    def submit(self, task):
        future = Future()
        future.set_result(task())
        return future

    def end(self):
        pass


class Desks(Workers):
    """One tile at a time."""

    def __init__(self):
        self.desks = [Desk()]

    def supply(self, wanted):
        return [self.desks.pop()] if self.desks else []

    def close(self):
        hear("closed")


class Still(Aligner):
    """Parts do not move."""

    def learn(self, images):
        return Reference(next(iter(images))[..., 0])

    def align(self, image, reference):
        return Alignment((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), 1.0)


class Frame(Regions):
    """Ignores the outermost pixels."""

    def __init__(self):
        pass

    def read(self, size, of_files=None):
        ignored = np.ones(size, bool)
        ignored[1:-1, 1:-1] = False
        return RegionMap(ignored)


class Rows(Assignment):
    """One model for each row of tiles."""

    def groups(self, grid, look):
        return [[tile.name for tile in grid.tiles if tile.row == row] for row in range(grid.shape[0])]


class Sum(GlobalModel):
    """Adds both scores."""

    def fuse(self, tiles, whole):
        return tiles + whole


@hookimpl
def register_aligners():
    return [Still]


@hookimpl
def register_regions():
    return [Frame]


@hookimpl
def register_assignments():
    return [Rows]


@hookimpl
def register_global_models():
    return [Sum]


@hookimpl
def register_mergers():
    return [LowestTile]


@hookimpl
def register_scorers():
    return [HighestPixel]


@hookimpl
def register_seam_smoothers():
    return [Bilateral]


@hookimpl
def register_normalizers():
    return [Sigmoid]


@hookimpl
def register_thresholders():
    return [Midrange]


@hookimpl
def register_workers():
    return [Desks]


def hear(*words):
    with HEARD.open("a") as file:
        print(*words, file=file)


@hookimpl
def tile_trained(run_folder, tile, seconds, epochs):
    hear("trained", tile.name, epochs, seconds > 0, (run_folder / "tiles" / f"{tile.name}.ckpt").is_file())


@hookimpl
def run_calibrated(run_folder, calibration):
    hear("calibrated", sorted(calibration.image.scores.normalization), (run_folder / "calibration.json").is_file())


@hookimpl
def image_predicted(run_folder, prediction):
    hear("predicted", Path(prediction.image_path).name, 0 <= float(prediction.pred_score) <= 1, prediction.gt_label)


@hookimpl
def run_tested(run_folder, output, metrics):
    hear("tested", sorted(metrics)[0], (output / "metrics.json").is_file())
'''
STAGES = {
    "merging": "LowestTile",
    "scoring": "HighestPixel",
    "seam_smoothing": {"class_path": "Bilateral", "init_args": {"radius": 5}},
    "normalization": {"stage": "image", "method": "Sigmoid"},
    "thresholding": {"stage": "image", "method": "Midrange"},
    "workers": "Desks",
}
OF_REAL_PARTS = {
    "alignment": "Still",
    "regions": "Frame",
    "assignment": "Rows",
    "global_model": {"class_path": "Sum", "init_args": {"image_size": [75, 150]}},
}
BROKEN = {
    "fails on import": ("1 / 0", "ZeroDivisionError: division by zero"),
    "lacks a method": (
        FACTORY.replace("def smooth(", "def smoothe("),
        "Bilateral of register_seam_smoothers must implement",
    ),
}
WRONG = {
    "shape": (
        "return maps\n",
        "return maps[..., 1:]\n",
        "Bilateral ({0}.Bilateral of {0} 1.2) must return",
    ),
    "raises": (
        "return maps\n",
        "return maps.nope\n",
        "failed: AttributeError: 'Tensor' object has no",
    ),
    "infinite": ("/ 2", "* float('inf')", "must learn finite numbers, but learned threshold = inf"),
}
LOUD = 'prediction.anomaly_map.zero_(); torch.rand(1); raise ValueError("no network")'
Install = Callable[..., None]
Configure = Callable[..., Path]
Captured = pytest.CaptureFixture[str]


@pytest.mark.slow
def test_stages_of_another_package_are_chosen_told_and_restored(
    install: Install, configure: Configure, tmp_path: Path, capsys: Captured
) -> None:
    install("factory", FACTORY)
    two_tiles = {"tiling": {"image_size": [75, 150], "tile_size": 75}, "model__init_args__layers": ["layer1"]}
    assert main(["train", "--config", str(configure(**STAGES, **OF_REAL_PARTS, **two_tiles))]) == 0
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    chosen = yaml.safe_load((run / "config.yaml").read_text())
    assert chosen["seam_smoothing"] == {"class_path": "factory.Bilateral", "init_args": {"radius": 5}}
    origins = json.loads((run / "origins.json").read_text())
    assert origins["thresholding"] == {"class_path": "factory.Midrange", "package": "factory", "version": "1.2"}
    heard = (tmp_path / "installed" / "heard.txt").read_text().splitlines()
    assert heard[:2] == [f"trained {tile} 1 True True" for tile in ("r00_c00", "whole")]
    assert heard[2] == "calibrated ['span', 'threshold'] True"
    assert sorted(heard[3:11]) == sorted(
        [f"predicted {n:03d}.png True tensor({truth})" for n in range(4) for truth in ("False", "True")]
    )
    assert heard[11:] == ["tested image_AUROC True", "closed"]
    called = (tmp_path / "installed" / "called.txt").read_text().split()
    assert set(called) == {name for name in dir(hook_specifications()) if not name.startswith("_")}, (
        "every hook was tried out"
    )
    captured = capsys.readouterr()
    assert "warning" not in captured.err
    log = (run / "logs" / "run.log").read_text()
    assert "Tile r00_c00: trained in" in log
    assert "Calibrated: Level(" in log
    assert "000.png: normal, score 0." in log
    assert "Results in " in log

    scores = (run / "scores.csv").read_text()
    del sys.modules["factory"]  # as in another process
    assert main(["test", "--ckpt_dir", str(run)]) == 0
    assert (run / "scores.csv").read_text() == scores

    install("factory", FACTORY, "1.3")
    assert main(["status", "--ckpt_dir", str(run)]) == 0
    assert main(["test", "--ckpt_dir", str(run), "--output", str(tmp_path / "more")]) == 0
    assert "The run was made with factory 1.2, but 1.3 is installed now; results may" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "installed" / "factory-1.3.dist-info")
    assert main(["test", "--ckpt_dir", str(run)]) == 2
    message = "came from factory 1.2, which is not installed now. Install it: pip install factory==1.2"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_named_when_its_stage_is_chosen(
    install: Install, configure: Configure, capsys: Captured, name: str
) -> None:
    source, error = BROKEN[name]
    install("broken_factory", source.replace("Bilateral", "Unfinished"))
    assert main(["fit", "--config", str(configure()), "--seam_smoothing", "Unfinished"]) == 2
    said = capsys.readouterr().err
    assert "There is no 'Unfinished' for seam_smoothing." in said
    assert "These plugins cannot be loaded: broken_factory 1.2 (entry point my_broken_factory): " in said
    assert error.replace("Bilateral", "Unfinished") in said


def test_a_broken_plugin_that_is_not_chosen_is_a_warning(
    install: Install, finished_run: Path, tmp_path: Path, capsys: Captured
) -> None:
    install("broken_factory", "1 / 0")
    assert main(["test", "--ckpt_dir", str(finished_run), "--output", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().err
    assert said.startswith("warning: a plugin cannot be loaded and is ignored: broken_factory 1.2 (entry")


@pytest.mark.slow
def test_installing_a_plugin_changes_no_numbers(
    install: Install, finished_run: Path, tmp_path: Path, capsys: Captured
) -> None:
    install("loud_factory", FACTORY.replace('    hear("predicted"', f'    {LOUD}\n    hear("predicted"'))
    assert main(["test", "--ckpt_dir", str(finished_run), "--output", str(tmp_path / "results")]) == 0
    for name in ("metrics.json", "scores.csv"):
        assert (tmp_path / "results" / name).read_text() == (finished_run / name).read_text()
    said = capsys.readouterr().err
    assert said.count("warning: image_predicted of loud_factory 1.2 failed and is not called again: Val") == 1


@pytest.mark.parametrize("name", WRONG)
def test_a_stage_that_breaks_its_contract_is_found_before_training(
    install: Install, configure: Configure, tmp_path: Path, capsys: Captured, name: str
) -> None:
    right, wrong, message = WRONG[name]
    package = f"wrong_factory_{name.lower()}"
    install(package, FACTORY.replace(right, wrong, 1))
    chosen = json.loads(json.dumps(STAGES))
    chosen["seam_smoothing"]["class_path"] = f"{package}.Bilateral"
    chosen["normalization"]["method"] = f"{package}.Sigmoid"
    chosen["thresholding"]["method"] = f"{package}.Midrange"
    dotted = {"merging": "Mean", "scoring": "Max", "workers": "LocalWorkers"}
    assert main(["fit", "--config", str(configure(**{**chosen, **dotted}))]) == 2
    said = capsys.readouterr().err
    assert message.format(package) in said
    assert "before any training.)" in said
    assert not (tmp_path / "results").exists()


def test_plugins_are_listed(install: Install, capsys: Captured) -> None:
    install("listed_factory", FACTORY.replace("Bilateral", "Listed"))
    install("unloadable_factory", "1 / 0")
    assert main(["plugins"]) == 0
    shown = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    rows = [[cell.strip() for cell in row] for row in shown]
    assert ["seam_smoothing", "Listed", "listed_factory 1.2", "my_listed_factory", "Changes nothing."] in rows
    assert ["hook", "run_tested", "listed_factory 1.2", "my_listed_factory", ""] in rows
    broken = ["broken", "", "unloadable_factory 1.2", "my_unloadable_factory", "ZeroDivisionError: division by zero"]
    assert broken in rows
