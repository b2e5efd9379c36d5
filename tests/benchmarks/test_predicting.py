"""The smallest comparison of ways to predict, from the command line to the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.predicting import check_numbers, chosen_ways, reasons

ROOT = Path(__file__).parent.parent.parent
SAME = ("`TiledEnsemble.predict`", "`anomalib tiled predict`", "export, PyTorch")


def test_ways_come_in_one_order() -> None:
    assert chosen_ways("shrunk,python") == ["python", "shrunk"]
    assert len(chosen_ways("")) == 8


@pytest.mark.parametrize("refused", [lambda: chosen_ways("python,fast"), lambda: reasons(["fast=too fast"])])
def test_an_unknown_way_is_refused(refused: object) -> None:
    with pytest.raises(ValueError, match=r"Ways are python, command, .*, shrunk, found 'fast'"):
        refused()


def test_what_is_left_out_needs_a_reason() -> None:
    assert reasons(["whole=2 x = too much", "onnx=slow"]) == {"whole": "2 x = too much", "onnx": "slow"}
    with pytest.raises(ValueError, match="must give a reason, found 'whole' alone"):
        reasons(["whole"])


@pytest.mark.parametrize(
    ("repeats", "rate", "message"), [(0, 0.1, "repeats must be at least 1, found 0"), (1, 1.0, "rate must be .* 1.0")]
)
def test_numbers_that_measure_nothing_are_refused(repeats: int, rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_numbers(repeats, rate)


@pytest.mark.slow
def test_ways_predict_the_same_images_and_are_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n")
    sizes = ["--image_size", "128", "--tile_size", "64", "--train", "2", "--test", "2", "--repeats", "1"]
    ways = ["--ways", "python,command,engine,torch,onnx,whole,shrunk", "--leave_out", "onnx=not here"]
    command = [sys.executable, "-m", "benchmarks.predicting", *sizes, *ways]
    done = subprocess.run(
        [*command, "--output", str(tmp_path), "--markdown", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    folder = tmp_path / "predicting-Padim-128-64-2-2"
    content = json.loads((folder / "results.json").read_text())
    found = {row["title"]: row["measured"] for row in content["rows"]}
    assert len(found) == 7
    assert [row["reason"] for row in content["rows"] if row["measured"] is None] == ["not here"]
    measured = [each for each in found.values() if each is not None]
    assert len({each["quality"]["defects"] for each in measured}) == 1
    for each in measured:
        assert each["peak_memory"] > 100_000_000
        assert each["timing"]["first"] > 0.5
    rates = {title: each["timing"]["images_per_second"] for title, each in found.items() if each is not None}
    rates.pop("`anomalib tiled predict`")  # two images may be too few to tell them from the start of the command
    assert all(0 < rate < 1000 for rate in rates.values())
    areas = {title: each["quality"]["pixel_auroc"] for title, each in found.items() if each is not None}
    assert [areas[title] for title in SAME] == pytest.approx([areas[SAME[0]]] * len(SAME), abs=1e-3)
    assert areas["tile after tile, `Engine.predict`"] == pytest.approx(areas[SAME[0]], abs=0.02)  # seams as they are
    assert found["export, PyTorch"]["peak_memory"] < found[SAME[0]]["peak_memory"], "without anomalib"
    assert content["prepared"][0]["title"] == "tiled ensemble: fit"
    assert (folder / "results.png").is_file()
    assert not (folder / "work").exists()
    assert page.read_text().count("| one model, shrunk image | ") == 1
