"""Compare models in half precision with those in single precision: time, scores and metrics.

    OMP_NUM_THREADS=1 python -m benchmarks.half
    OMP_NUM_THREADS=1 python -m benchmarks.half --quality local-dir:$PWD/weights/lite0

Prints a Markdown table. The first command fits and predicts one tile location of drawn boards with random weights; all
precisions compute in turn, several times, and times are medians of processor time. With ``--quality``, whole runs are
trained and tested instead, with a backbone of EfficientNet-Lite0 that `benchmarks.weights` has written.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml
from anomalib.models import Padim, Patchcore
from lightning.pytorch import seed_everything

from anomalib_tiled.cli.main import main as command
from anomalib_tiled.ensemble.arithmetic import Arithmetic
from anomalib_tiled.ensemble.run import Run
from anomalib_tiled.results.changes import changes_of
from anomalib_tiled.runs.run_folder import RunFolder
from anomalib_tiled.training.coreset import picked_faster
from benchmarks.accelerated import tiles_of_boards, timed
from benchmarks.weights import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anomalib.models.components import AnomalibModule

PRECISIONS = ("float32", "bfloat16")

BACKBONES = ("resnet18", "wide_resnet50_2")

IMAGES = 24
"""Training images."""

CORESET = 0.1
"""Share of the patches that PatchCore keeps."""

OWN_ARGUMENTS: dict[str, dict[str, object]] = {
    "Padim": {"n_features": 60},
    "Patchcore": {"coreset_sampling_ratio": CORESET},
}
"""Arguments of the models of whole runs, besides those of their backbone."""


class Model(NamedTuple):
    """A model of one tile in each precision.

    Args:
        name: What it is.
        make: Makes it.
        fit: Lets it learn from the features that it has collected.
    """

    name: str
    make: Callable[[], AnomalibModule]
    fit: Callable[[Any], None]


def main() -> None:
    """Print a row for each model and step."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="how often each computes")
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, help="the first is that of the reference")
    parser.add_argument("--quality", metavar="BACKBONE", help="train and test whole runs with this backbone")
    parser.add_argument("--image_size", type=int, default=512, help="side of the images of these runs in pixels")
    given = parser.parse_args()
    if given.quality:
        _print_quality(given.quality, given.image_size, given.precisions)
        return
    print(f"| step | {', ms | '.join(given.precisions)}, ms | share | largest difference of a score |")
    print("|---" * (len(given.precisions) + 3) + "|")
    for model in _models():
        for row in _rows(model, given.precisions, given.repeats):
            print(row, flush=True)


def _models() -> Iterator[Model]:
    for backbone in BACKBONES:
        yield Model(f"Padim, {backbone}", partial(Padim, backbone=backbone, pre_trained=False), _fit_gaussians)
        yield Model(f"PatchCore, {backbone}", partial(Patchcore, backbone=backbone, pre_trained=False), _pick)


def _fit_gaussians(module: Any) -> None:  # noqa: ANN401  # a model of anomalib
    module.fit()


def _pick(module: Any) -> None:  # noqa: ANN401  # a model of anomalib
    with picked_faster():
        module.subsample_embedding(CORESET)


def _rows(model: Model, precisions: Sequence[str], repeats: int) -> Iterator[str]:
    made, tiles = [_made(model, each) for each in precisions], tiles_of_boards(IMAGES + 4)
    steps: dict[str, Callable[[Any], Any]] = {
        f"features of {IMAGES} training tiles": partial(_collect, tiles=tiles[:IMAGES]),
        "fit": partial(_fit, fit=model.fit),
        "prediction of 1 tile": partial(_scores, tiles=tiles[IMAGES : IMAGES + 1]),
        "prediction of 4 tiles": partial(_scores, tiles=tiles[IMAGES:]),
    }
    times: dict[str, list[list[float]]] = {name: [[] for _ in made] for name in steps}
    found: dict[str, list[Any]] = {}
    for _ in range(repeats):
        for name, step in steps.items():
            found[name] = [timed(partial(step, each), own) for each, own in zip(made, times[name], strict=True)]
    for name in steps:
        medians = [1000 * median(each) for each in times[name]]
        shares = " / ".join(f"{each / medians[0]:.2f}" for each in medians[1:])
        first, *others = found[name]
        differences = "" if first is None else " / ".join(_difference(first, each) for each in others)
        cells = " | ".join(f"{each:.0f}" for each in medians)
        yield f"| {model.name}: {name} | {cells} | {shares} | {differences} |"


def _made(model: Model, precision: str) -> Any:  # noqa: ANN401  # a model of anomalib
    seed_everything(0, verbose=False)
    made = model.make()
    Arithmetic(precision=precision).adapt(made)
    return made.model


def _collect(module: Any, tiles: torch.Tensor) -> None:  # noqa: ANN401  # a model of anomalib
    module.train().get_submodule("feature_extractor").eval()
    for name in ("memory_bank", "embedding_store"):
        if isinstance(kept := getattr(module, name, None), list):
            kept.clear()
    with torch.no_grad():
        for each in tiles.split(8):
            module(each)


def _fit(module: Any, fit: Callable[[Any], None]) -> None:  # noqa: ANN401  # as above
    seed_everything(0, verbose=False)
    fit(module)


@torch.inference_mode()
def _scores(module: Any, tiles: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # as above
    scores: torch.Tensor = module.eval()(tiles).pred_score
    return scores


def _difference(first: torch.Tensor, other: torch.Tensor) -> str:
    return f"{float(((other - first) / first).abs().max()):.0e}"


def _print_quality(backbone: str, image_size: int, precisions: Sequence[str]) -> None:
    """Train and test runs on drawn boards; print their metrics."""
    print("| model | precision | image AUROC | pixel AUROC | pixel AUPRO | largest change of a score |")
    print("|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        for name, more in OWN_ARGUMENTS.items():
            arguments = {"backbone": backbone, "layers": [*LAYERS], "pre_trained": True, **more}
            model: dict[str, object] = {"class_path": name, "init_args": arguments}
            runs = {each: _trained(Path(folder), model, image_size, each) for each in precisions}
            first = runs[precisions[0]]
            for precision, run in runs.items():
                print(f"| {name} | {precision} | {_tested(run, first)} |", flush=True)
            for precision in precisions[1:]:
                cells = _changed(first, precision)
                print(f"| {name} | {precisions[0]}, predicts in {precision} | {cells} |", flush=True)


def _tested(run: Path, reference: Path) -> str:
    """Give the cells of a run."""
    metrics = json.loads((run / "metrics.json").read_text())
    lines = [(folder / "tested.jsonl").read_text().splitlines() for folder in (run, reference)]
    scores = ([json.loads(line)["pred_score"] for line in each] for each in lines)
    change = max(abs(own - other) for own, other in zip(*scores, strict=True))
    values = (f"{metrics[name]:.4f}" for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"))
    return " | ".join([*values, f"{change:.3f}"])


def _changed(folder: Path, precision: str) -> str:
    """Give the cells of a run that predicts in another precision than that of its training."""
    run = Run.open(RunFolder.open(folder))
    changes = changes_of(run, run.calibrated_ensemble(), run.in_precision(precision).calibrated_ensemble())
    auroc, aupro = (each.after if each else float("nan") for each in (changes.image_auroc, changes.pixel_aupro))
    return f"{auroc:.4f} | | {aupro:.4f} | {changes.largest:.3f}"


def _trained(folder: Path, model: dict[str, object], image_size: int, precision: str) -> Path:
    """Train and test a run; give its folder."""
    images = {"train_images": IMAGES, "normal_test_images": 12, "anomalous_test_images": 12}
    data = {"root": str(folder / "boards"), "image_size": image_size, "val_split_mode": "same_as_test", **images}
    configuration = {
        "seed_everything": 0,
        "default_root_dir": str(folder / precision),
        "tiling": {"tile_size": 256},
        "model": model,
        "data": {"class_path": "DemoBoards", "init_args": data},
        "metrics": {"image": ["AUROC"], "pixel": ["AUROC", "AUPRO"]},
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        "visualize": False,
        "precision": precision,
    }
    (path := folder / "configuration.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    with redirect_stdout(sys.stderr):
        status = command(["train", "--config", str(path)])
    if status:
        message = f"train must end with exit status 0, but ended with {status}."
        raise RuntimeError(message)
    return max((folder / precision).glob(f"{model['class_path']}/*/v*"))


if __name__ == "__main__":
    main()
