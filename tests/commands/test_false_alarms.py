"""The false alarms that a fit announces, on textures without a place of their own and on photographs of one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from anomalib_tiled.cli.main import main
from anomalib_tiled.system.files import read_json

Configure = Callable[..., Path]

pytestmark = pytest.mark.slow

SIZE, SPOT = 96, 6
NOTE = (
    r"Note: Of (\d+) normal validation images, (\d+) are called anomalous by a threshold that was learned without "
    r"them: expect (\d+) to (\d+) % of new normal images to be called anomalous. The threshold does not separate "
    r"normal from anomalous images.\n"
)


def paint(root: Path, places: int, **counts: int) -> None:
    """Write noisy crops of gravel, from so many places in each direction; those in ``bad`` have a small dark spot."""
    random, gravel = np.random.default_rng(0), skimage.data.gravel()
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            top, left = random.integers(0, places, size=2)
            pixels = gravel[top : top + SIZE, left : left + SIZE] + random.normal(0, 3, (SIZE, SIZE))
            if folder == "bad":
                row, column = random.integers(0, SIZE - SPOT, size=2)
                pixels[row : row + SPOT, column : column + SPOT] *= 0.7
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / folder / f"{number:03d}.png")


@pytest.fixture
def command(configure: Configure, tmp_path: Path) -> list[str]:
    """Arguments of a fit of two tiles on ``images``; half of the images of each kind validate."""
    changes = {"tiling": {"tile_size": [SIZE, SIZE // 2]}, "model__init_args__layers": ["layer1"], "visualize": False}
    data = {"data__init_args__val_split_mode": "from_test", "data__init_args__mask_dir": None}
    return ["--config", str(configure(tmp_path / "images", **changes, **data, metrics={"image": ["AUROC"]}))]


def test_a_threshold_that_calls_nearly_everything_anomalous_is_announced(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, output = tmp_path / "images", str(tmp_path / "new")
    paint(images, 512 - SIZE, good=24, good_test=60, bad=60, new=30)
    assert main(["train", *command]) == 0
    fitted, tested = re.findall(NOTE, capfd.readouterr().out)
    assert fitted == tested
    number, called, low, high = map(int, fitted)
    run = tmp_path / "results" / "Padim" / "photographs" / "v0"
    known = read_json(run / "calibration.json")["false_alarms"]
    assert (known["images"], round(known["rate"] * number)) == (number, called) == (30, called)
    assert main(["predict", "--ckpt_dir", str(run), "--data", str(images / "new"), "--output", output]) == 0
    anomalous = int(re.search(r"(\d+) of 30 are anomalous", capfd.readouterr().out).group(1))
    assert anomalous >= 27
    assert low <= 100 * anomalous / 30 <= high


def test_few_false_alarms_are_announced_in_one_line(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paint(tmp_path / "images", 2, good=10, good_test=24, bad=10)
    assert main(["fit", *command]) == 0
    (line,) = re.findall("False alarms to expect: .*", capfd.readouterr().out)
    assert re.fullmatch(
        r"False alarms to expect: \d+ % of new normal images, between \d and \d+ % "
        r"\(from [0-2] of 12 normal validation images\)\.",
        line,
    )
