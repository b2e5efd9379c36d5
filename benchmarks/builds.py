"""Compare this checkout with another one, such as an earlier version: time and memory of `train`, disk, prediction.

    git worktree add ../earlier v0.1.0
    python -m benchmarks.builds ../earlier
    python -m benchmarks.builds ../earlier --train 60 --predict 40 --repeats 3

Both train on the same images from the same first weights, and predict training images again. Each phase is a fresh
process, both checkouts take turns, and the table has medians. Each checkout needs `benchmarks/timing.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.case import MODELS, Case
from benchmarks.machine import describe_machine
from benchmarks.measure import disk_of
from benchmarks.predictors import Job
from benchmarks.programs import TiledAtOnce
from benchmarks.timing import JOB, MAPS, Timing

RATE = re.compile(r"\(([\d.]+) images/s\)")
"""How `predict` says its speed."""

ROWS = {
    "images_per_second": "`predict`, images per second",
    "python_images_per_second": "`predict_images` in Python, images per second",
    "latency": "one image in Python, models in memory, seconds",
    "first": "first image in Python, imports and loading included, seconds",
    "disk": "disk of the run, GB",
}


@dataclass(frozen=True)
class Build:
    """A checkout with a trained run.

    Args:
        checkout: Folder of the checkout.
        folder: Where it runs.
    """

    checkout: Path
    folder: Path

    @property
    def run(self) -> Path:
        """The folder of its run."""
        [found] = self.folder.glob("results/*/*/v0")
        return found

    def python(self, *arguments: str) -> str:
        """Run Python with the packages of the checkout, and give what it prints."""
        environment = {**os.environ, "PYTHONPATH": str(self.checkout), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, *arguments]
        done = subprocess.run(  # noqa: S603  # commands are made below
            command, cwd=self.folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    def measured(self, images: list[Path], case: Case, repeats: int) -> dict[str, float]:
        """Predict images by the command and in Python.

        Args:
            images: Their files.
            case: How they were trained.
            repeats: How often a single image is predicted.
        """
        for earlier in ("found", MAPS):
            shutil.rmtree(self.folder / earlier, ignore_errors=True)
        data = [str(path) for path in images]
        printed = self.python(
            "-m", "anomalib_tiled", "predict", "--ckpt_dir", str(self.run), "--data", *data, "--output", "found"
        )
        rate = RATE.search(printed)
        if rate is None:
            message = f"`predict` must print images per second, but printed {printed!r}."
            raise RuntimeError(message)
        job = Job("python", str(self.run), data, case.image_size, case.tile_size, case.model, case.eval_batch, repeats)
        fields = {name: value for name, value in asdict(job).items() if name != "device"}  # earlier ones had none
        (self.folder / JOB).write_text(json.dumps(fields), encoding="utf-8")
        self.python("-m", "benchmarks.timing", JOB)
        timing = Timing.read(self.folder)
        return {
            "images_per_second": float(rate.group(1)),
            "python_images_per_second": timing.images_per_second or 0.0,
            "latency": timing.latency or 0.0,
            "first": timing.first,
            "disk": disk_of(self.run) / 1e9,
        }


def main() -> None:
    """Measure the checkouts of the command line."""
    options = _options()
    case = Case(options.image_size, train=options.train, test=options.test, model=options.model)
    folder, boards = options.output.absolute(), case.boards(options.output)
    images = sorted((boards / "train").rglob("*.png"))[: options.predict]
    builds = []
    for name, checkout in {"other": options.other.absolute(), "this": Path.cwd()}.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        builds.append(Build(checkout, folder / name))
        program = TiledAtOnce(case, boards, folder / name)
        program.configure()
        builds[-1].python(*program.phases[0].arguments)
    found: list[list[dict[str, float]]] = [[], []]
    for _ in range(options.repeats):
        for build, numbers in zip(builds, found, strict=True):
            numbers.append(build.measured(images, case, options.repeats))
            print(f"{build.checkout}: {numbers[-1]}", flush=True)
    (folder / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(f"\n{case.title}, {len(images)} images predicted. {describe_machine()}\n")
    print("| what | other | this | this / other |\n|---|---|---|---|")
    for key, title in ROWS.items():
        other, this = (median(each[key] for each in numbers) for numbers in found)
        print(f"| {title} | {other:.3g} | {this:.3g} | {this / other:.2f} |")
    if not options.keep:
        for build in builds:
            shutil.rmtree(build.folder)


def _options() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other checkout")
    parser.add_argument("--image_size", type=int, default=1024, help="side of the images, in pixels")
    parser.add_argument("--train", type=int, default=24, help="number of training images")
    parser.add_argument("--test", type=int, default=8, help="number of test images")
    parser.add_argument("--predict", type=int, default=24, help="number of images to predict")
    parser.add_argument("--model", choices=MODELS, default="Padim", help="anomalib's name of the model")
    parser.add_argument("--repeats", type=int, default=3, help="how often each predicts")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks"), help="folder for images and runs")
    parser.add_argument("--keep", action="store_true", help="keep the runs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
