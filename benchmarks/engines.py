"""Compare engines that compute backbones: time, and the largest difference of anomaly maps to those of PyTorch.

    OMP_NUM_THREADS=1 python -m benchmarks.engines

Prints a Markdown table. All engines predict the same four tiles in turn, several times; times are medians. Images are
one tile location of drawn boards, weights are random.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from anomalib.models import Padim, Patchcore

from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.compiled_backbones import CompiledBackbones, frozen_backbones
from anomalib_tiled.ensemble.engines import ENGINES, TORCH
from benchmarks.accelerated import tiles_of_boards

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

TRAINED, PREDICTED = 24, 4
"""Numbers of tiles."""


class Row(NamedTuple):
    """What was measured of an engine.

    Args:
        model: The model.
        engine: Name of the engine.
        compiling: Seconds of the first prediction.
        predicting: Seconds of each later one.
        maps: The anomaly maps.
    """

    model: str
    engine: str
    compiling: float
    predicting: list[float]
    maps: torch.Tensor


def main() -> None:
    """Print a row for each model and engine."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="how often each predicts")
    repeats = parser.parse_args().repeats
    print("| model | engine | ms | share | first, s | largest difference |\n|---|---|---|---|---|---|")
    for name, model in _models().items():
        rows = _measured(name, model, repeats)
        for row in rows:
            print(_line(row, rows[0]), flush=True)


def _models() -> Mapping[str, Any]:
    """Give fitted models."""
    padim, patchcore = (
        Padim(backbone="resnet18", pre_trained=False).model,
        Patchcore(backbone="wide_resnet50_2", pre_trained=False).model,
    )
    for model in (padim, patchcore):
        accelerate(model)
        model.train().get_submodule("feature_extractor").eval()
        with torch.no_grad():
            for batch in tiles_of_boards(TRAINED).split(8):
                model(batch)
    padim.fit()
    patchcore.subsample_embedding(0.02)
    return {"Padim, ResNet-18": padim.eval(), "PatchCore, Wide ResNet-50-2": patchcore.eval()}


def _measured(name: str, model: nn.Module, repeats: int) -> list[Row]:
    tiles = tiles_of_boards(PREDICTED)
    engines: dict[str, CompiledBackbones | None] = {TORCH: None}
    engines |= {each: CompiledBackbones(engine) for each, engine in ENGINES.items()}
    rows = []
    for engine, compiled in engines.items():
        seconds, maps = _predicted(model, tiles, compiled)
        rows.append(Row(name, engine, seconds, [], maps))
    for _ in range(repeats):
        for row in rows:
            row.predicting.append(_predicted(model, tiles, engines[row.engine])[0])
    return rows


@torch.inference_mode()
def _predicted(model: nn.Module, tiles: torch.Tensor, compiled: CompiledBackbones | None) -> tuple[float, torch.Tensor]:
    for backbone in frozen_backbones(model):
        backbone.compiled = compiled
    started = perf_counter()
    maps: torch.Tensor = model(tiles).anomaly_map
    return perf_counter() - started, maps


def _line(row: Row, own: Row) -> str:
    milliseconds, before = (1000 * median(each.predicting) for each in (row, own))
    difference = float((row.maps - own.maps).abs().max() / own.maps.abs().max())
    first = f"{row.compiling:.1f} | {difference:.0e}" if row is not own else " | "
    return f"| {row.model} | {row.engine} | {milliseconds:.0f} | {milliseconds / before:.2f} | {first} |"


if __name__ == "__main__":
    main()
