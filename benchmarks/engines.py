"""Compare engines that compute backbones: time, and the largest difference of anomaly maps to those of PyTorch.

    OMP_NUM_THREADS=1 python -m benchmarks.engines

Prints a Markdown table. All engines predict the same four tiles in turn, several times; times are medians of processor
time, shares and differences refer to PyTorch in single precision. Images are one tile location of drawn boards, weights
are random.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import median
from time import process_time
from typing import TYPE_CHECKING, Any

import torch
from anomalib.models import Padim, Patchcore

from anomalib_tiled.config.settings import FLOAT32
from anomalib_tiled.ensemble.accelerated import accelerate
from anomalib_tiled.ensemble.compiled_backbones import CompiledBackbones, frozen_backbones
from anomalib_tiled.ensemble.engines import ENGINES, TORCH
from anomalib_tiled.ensemble.half_precision import BFLOAT16, compute_in
from benchmarks.accelerated import tiles_of_boards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anomalib.models.components import AnomalibModule

TRAINED, PREDICTED = 24, 4
"""Numbers of tiles."""


@dataclass
class Way:
    """A way to predict.

    Args:
        engine: Name of the engine.
        precision: What the backbone computes in.
        model: The model.
        compiled: What computes its backbone; ``None`` for PyTorch.
        seconds: Processor time of each prediction.
    """

    engine: str
    precision: str
    model: Any
    compiled: CompiledBackbones | None
    seconds: list[float] = field(default_factory=list)

    @torch.inference_mode()
    def maps(self, tiles: torch.Tensor) -> torch.Tensor:
        """Predict, and note the time."""
        for backbone in frozen_backbones(self.model):
            backbone.compiled = self.compiled
        started = process_time()
        maps: torch.Tensor = self.model.model(tiles).anomaly_map
        self.seconds.append(process_time() - started)
        return maps


def main() -> None:
    """Print a row for each model, engine and precision."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="how often each predicts")
    repeats = parser.parse_args().repeats
    print("| model | engine | precision | ms | share | first, s | largest difference |\n|---|---|---|---|---|---|---|")
    for name, made in {
        "Padim, ResNet-18": Padim(backbone="resnet18", pre_trained=False),
        "PatchCore, Wide ResNet-50-2": Patchcore(backbone="wide_resnet50_2", pre_trained=False),
    }.items():
        _measure(name, _fitted(made), repeats)


def _fitted(model: AnomalibModule) -> AnomalibModule:
    core: Any = model.model
    accelerate(model)
    core.train().feature_extractor.eval()
    with torch.no_grad():
        for batch in tiles_of_boards(TRAINED).split(8):
            core(batch)
    _ = core.fit() if isinstance(model, Padim) else core.subsample_embedding(0.02)
    return model.eval()


def _measure(name: str, model: AnomalibModule, repeats: int) -> None:
    tiles, ways = tiles_of_boards(PREDICTED), list(_ways(model))
    found = [way.maps(tiles) for way in ways]
    first = [way.seconds.pop() for way in ways]
    for _ in range(repeats):
        for way in ways:
            way.maps(tiles)
    for way, maps, seconds in zip(ways, found, first, strict=True):
        milliseconds, own = (1000 * median(each.seconds) for each in (way, ways[0]))
        difference = float((maps - found[0]).abs().max() / found[0].abs().max())
        numbers = f"{milliseconds:.0f} | {milliseconds / own:.2f} | {seconds:.1f} | {difference:.0e}"
        print(f"| {name} | {way.engine} | {way.precision} | {numbers} |", flush=True)


def _ways(model: AnomalibModule) -> Iterator[Way]:
    for precision in (FLOAT32, BFLOAT16):
        copy = deepcopy(model)
        compute_in(copy, precision)
        yield Way(TORCH, precision, copy, None)
        for engine in ENGINES.values():
            if precision in engine.precisions:
                yield Way(engine.name, precision, copy, CompiledBackbones(engine))


if __name__ == "__main__":
    main()
